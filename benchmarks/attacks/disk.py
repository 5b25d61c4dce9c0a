"""A full disk at every write: a small file system of its own (tmpfs, which needs root) with less and less space."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from attacks.world import Case, Ended, World, holds, problems_of, run

SIZE = 64 << 20
PAGE = 4096


@dataclass
class Full:
    """What met a full disk, and what was found."""

    full: Counter[str] = field(default_factory=Counter)
    fitted: int = 0
    resumed: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Full") -> None:
        """Add what another process has found."""
        self.full.update(other.full)
        self.fitted += other.fitted
        self.resumed += other.resumed
        self.problems += other.problems

    def lines(self) -> list[str]:
        """Say what was found, for the report."""
        if not self.full and not self.problems:
            return ["not run: mounting a file system of its own needs root"]
        return [
            f"{self.full.total()} runs of {len(self.full)} commands on a full disk (and {self.fitted} where the "
            "space was enough), at free space drawn from none to all that the command takes",
            "every one ended in one line that names the disk, or in success; the cache held what it did before, "
            f"and the same command with space again ended as an undisturbed run does: {self.resumed}",
        ]


def attack(world: World, case: Case, tries: int, seed: int, seconds: float) -> Full:
    """Run one command with so many amounts of free space."""
    found, rng = Full(), random.Random(f"disk {seed} {case.name}")
    there = world.folder / f"disk-{seed}-{case.name.replace(' ', '-')}"
    there.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(there)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return found
    try:
        needs = _needs(world, case, there)
        until = time.monotonic() + seconds
        for number in range(tries):
            if time.monotonic() > until:
                break
            free = PAGE * rng.randrange(max(needs // PAGE, 1))
            try:
                _one(world, case, there, free, found)
            except Exception as error:
                found.problems.append(
                    f"{case.name}, {free} bytes free, {number}: {type(error).__name__}: {error}"
                )
            shutil.rmtree(there / "trial", ignore_errors=True)
            (there / "filler").unlink(missing_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(there)], check=False)  # noqa: S607 - the system's own
    return found


def _needs(world: World, case: Case, there: Path) -> int:
    """Return the bytes that a command leaves behind, and a half more for its drafts."""
    folder = world.trial(case.start, "trial", there)
    before = _used(there)
    run(folder, case.command)
    after = _used(there)
    shutil.rmtree(folder)
    return max(int(1.5 * (after - before)), 16 * PAGE)


def _used(there: Path) -> int:
    stat = os.statvfs(there)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _one(world: World, case: Case, there: Path, free: int, found: Full) -> None:
    folder = world.trial(case.start, "trial", there)
    before = holds(folder / case.target)
    stat = os.statvfs(there)
    with (there / "filler").open("wb") as filler:
        filler.write(bytes(max(stat.f_bavail * stat.f_frsize - free, 0)))
    # What the model writes down for the campaign, and what Python caches, lies elsewhere.
    elsewhere = world.folder / f"logs-{os.getpid()}"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "log").unlink(missing_ok=True)
    more = {"FORWARD_LOG": str(elsewhere / "log"), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = run(folder, case.command, **more)
    if ended.code == 0:
        found.fitted += 1
    else:
        found.full[case.name] += 1
        _expect_clear(ended)
        state = holds(folder / case.target)
        assert state in (before, world.done[case.name]), "the cache holds something else"
    (there / "filler").unlink()
    again = ended if ended.code == 0 else run(folder, case.command, **more)
    assert again.code == 0 or (case.refused in again.err), f"with space again: {again.err[-300:]}"
    if case.then is not None:
        again = run(folder, case.then, **more)
        assert again.code == 0, again.err[-300:]
    assert holds(folder / case.target) == world.done[case.name], "the end differs from an undisturbed run's"
    assert not problems_of(folder / "c.lance"), problems_of(folder / "c.lance")
    found.resumed += 1


def _expect_clear(ended: Ended) -> None:
    assert ended.code == 1, f"exit {ended.code}: {ended.err[-500:]}"
    errors = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, ended.err[-500:]
    assert "Traceback" not in ended.err, ended.err[-500:]
    assert "No space left" in errors[0] or "os error 28" in errors[0], errors[0]
