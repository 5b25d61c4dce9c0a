"""What a type checker infers of the public functions is a test of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.xdist_group("mypy")  # one cache


def mypy(*arguments):
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """What `mypy` has left beside the project makes this take a second; else it takes half a minute."""
    kept = ROOT / ".mypy_cache"
    return kept if kept.is_dir() else tmp_path_factory.mktemp("mypy")


def test_public_functions_have_the_types_that_the_documentation_promises(cache_dir):
    found = mypy("--cache-dir", cache_dir, "tests/typing/public.py")
    assert found.returncode == 0, found.stdout


def test_a_wrong_type_is_found(cache_dir, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from typing import assert_type\nfrom sparing import Cache\n"
        'def check() -> None:\n    assert_type(Cache.open("x"), int)\n    Cache.open(3)\n'
    )
    found = mypy("--cache-dir", cache_dir, wrong)
    assert found.returncode == 1
    assert 'Expression is of type "Cache", not "int"' in found.stdout
    assert 'has incompatible type "int"' in found.stdout
