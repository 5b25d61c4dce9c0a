import subprocess
import sys

# What macOS or Windows lack goes once the libraries, which know these systems by themselves, are loaded.
ELSEWHERE = """
import importlib, os, pkgutil, sys

def load():
    import sparing
    for found in pkgutil.walk_packages(sparing.__path__, "sparing."):
        try:
            importlib.import_module(found.name)
        except ImportError as error:  # an extra that is not installed
            assert (error.name or "sparing").partition(".")[0] not in ("sparing", *GONE), error

GONE = ("fcntl", "grp", "pwd", "resource", "termios")
load()
for name in [name for name in sys.modules if name.partition(".")[0] == "sparing"]:
    del sys.modules[name]
for name in GONE:
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "posix_fallocate", "sched_getaffinity", "sysconf", "sysconf_names"):
    if hasattr(os, name):
        delattr(os, name)
load()
from pathlib import Path
from sparing.machine import describe
from sparing.storage.files import reserve, write_text
describe()
write_text(sys.argv[1], "text")
reserve(Path(sys.argv[1]))
"""


def test_every_module_loads_without_what_other_systems_lack(tmp_path):
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "file")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "text"
