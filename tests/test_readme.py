"""Every command and every Python block of the README, as typed there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.xdist_group("readme")
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder as it stands after `make demo`."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", folder / "examples")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    command = re.search(r"^demo:.*\n\t\$\(BIN\)/python (.*)$", makefile, re.MULTILINE).group(1)
    done = run([sys.executable, *shlex.split(command)], folder)
    assert "Half of the forwards" in done.stdout
    page = (folder / "demo-output" / "report.html").read_text("utf-8")
    assert "plotly" in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=.https?:", page)
    return folder


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


def test_the_commands(demo):
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("sparing ")]
    assert len(commands) >= 8
    for line in commands:
        run(shlex.split(line), demo)


def test_the_python(demo):
    refresh, bounds, offload, route = blocks("python")
    assert 2.99 < float(run([sys.executable, "-c", route], demo).stdout) < 3.001
    assert len(run([sys.executable, "-c", offload], demo).stdout.split()) >= 16
    assert "498" in run([sys.executable, "-c", refresh], demo).stdout
    assert float(run([sys.executable, "-c", bounds], demo).stdout) > 50


def test_the_make_targets_exist():
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("console")), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_links_to_files_work():
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / link.split("#")[0]).exists(), link
