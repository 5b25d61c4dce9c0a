"""SIGKILL at random moments of every command that writes, and the same command again."""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from attacks.world import (
    CASES,
    FLIGHT,
    Case,
    Ended,
    World,
    cli,
    environment,
    forwards,
    holds,
    problems_of,
    run,
)
from sparing.cache import Cache

BY_CALL = 0.7
"""The share of kills that strace sends, where it is there."""


@dataclass
class Kills:
    """What was killed, and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    resumed: int = 0
    versions: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Kills") -> None:
        """Add what another process has found."""
        self.kills.update(other.kills)
        self.states.update(other.states)
        self.repeated += other.repeated
        self.resumed += other.resumed
        self.versions += other.versions
        self.problems += other.problems

    def lines(self) -> list[str]:
        """Say what was found, for the report."""
        how = ", ".join(f"{number} {text}" for text, number in self.kills.items())
        states = ", ".join(f"{number} {text}" for text, number in self.states.items())
        return [
            f"{self.kills.total()} SIGKILLs of {len(CASES)} commands: {how}",
            f"what the cache (or the exported file) held after each: {states}; nothing else",
            f"the same command again then ended in what an undisturbed run leaves, bit for bit: {self.resumed}, "
            "with nothing left behind",
            f"older versions compared after kills: {self.versions}",
            f"forwards repeated by one command: at most {self.repeated}, never more than the chunk in flight "
            f"({FLIGHT} rows) per kill",
        ]


def attack(world: World, case: Case, kills: int, seed: int, seconds: float) -> Kills:
    """Kill one command so many times.

    Half of the kills come at a moment drawn uniformly over the time that the command takes after its imports,
    half at a system call (its kind and its number drawn uniformly; strace sends the signal).
    """
    found, rng, trial = Kills(), random.Random(f"{seed} {case.name}"), 0
    until = time.monotonic() + seconds
    while found.kills.total() < kills and trial < 3 * kills and time.monotonic() < until:
        folder = world.trial(case.start, f"kill-{seed}-{case.name.replace(' ', '-')}-{trial}")
        try:
            _one(world, case, folder, rng, found)
        except Exception as error:
            found.problems.append(f"{case.name}, trial {trial}: {type(error).__name__}: {error}")
        shutil.rmtree(folder, ignore_errors=True)
        trial += 1
    return found


def _one(world: World, case: Case, folder: Path, rng: random.Random, found: Kills) -> None:
    before, after = world.before[case.start], world.done[case.name]
    if case.target != "c.lance":
        before = "absent"
    elif case.then is not None:
        after = before
    killed, calls = 0, world.calls.get(case.name, {})
    for _ in range(rng.choice((2, 3, 5, 8))):
        by_call = bool(calls) and rng.random() < BY_CALL
        if by_call:
            ended = _killed_at_call(folder, case, rng, calls)
        else:
            ended = _killed_in_time(folder, case, rng, world.seconds[case.name])
        if not ended.killed:
            break
        killed += 1
        found.kills["at a system call" if by_call else "at a moment"] += 1
        state = holds(folder / case.target)
        assert state in (before, after), f"holds neither what it did before nor what it should: {state[:12]}"
        found.states["as before" if state == before else "done already"] += 1
        found.versions += _check_versions(world, case, folder)
    else:
        ended = run(folder, case.command)
    _expect_done(case, ended, killed)
    if case.then is not None:
        ended = run(folder, case.then)
        assert ended.code == 0, ended.err
    state = holds(folder / case.target)
    assert state == world.done[case.name], "the end differs from that of an undisturbed run"
    assert not problems_of(folder / "c.lance"), problems_of(folder / "c.lance")
    _expect_no_leftovers(folder)
    found.resumed += 1
    ran, expected = forwards(folder), world.forwards[case.name]
    if case.then is None:
        assert set(ran) == set(expected), f"other rows were run: {len(set(ran) ^ set(expected))}"
    repeated = sum(ran.values()) - len(ran)
    assert repeated <= FLIGHT * killed, f"{repeated} forwards repeated after {killed} kills"
    found.repeated = max(found.repeated, repeated)


def _expect_done(case: Case, ended: Ended, killed: int) -> None:
    if ended.code != 0:
        assert killed, f"exit {ended.code}: {ended.err[-300:]}"
        assert case.refused in ended.err, f"exit {ended.code}: {ended.err[-300:]}"
        assert "Traceback" not in ended.err, ended.err[-300:]


def _expect_no_leftovers(folder: Path) -> None:
    left = [p.name for p in (folder / "tmp").iterdir()]
    cache = folder / "c.lance" / "_sparing"
    left += [p.name for p in cache.glob("*") if p.name not in ("checksums", "damaged") and not p.name.startswith("known-")]  # fmt: skip
    left += [p.name for p in folder.iterdir() if p.name.endswith((".tmp", ".filling"))]
    assert not left, f"left behind: {left}"


def _check_versions(world: World, case: Case, folder: Path) -> int:
    """Compare every version that was there before with what it held."""
    there, state = folder / "c.lance", world.folder / "states" / case.start / "c.lance"
    if not (state / "_versions").exists() or case.start == "damaged" or holds(there) == "damaged":
        return 0
    known = Cache.open(state).versions()
    kept = [version for version in Cache.open(there).versions() if version in known]
    for version in {*kept[:1], *kept[-1:]}:
        found = holds(there, version)
        if case.name == "compact" and found == "damaged":
            continue  # it is being dropped, as was asked for: its files go before its name
        assert found == holds(state, version), f"version {version} has changed"
    return len({*kept[:1], *kept[-1:]})


def _killed_in_time(folder: Path, case: Case, rng: random.Random, span: float) -> Ended:
    process = subprocess.Popen(
        cli(case.command),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(rng.uniform(min(0.5, 0.5 * span), span))
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate()
    return Ended(process.returncode, out, err)


def _killed_at_call(folder: Path, case: Case, rng: random.Random, calls: dict[str, int]) -> Ended:
    call = rng.choice(sorted(calls))
    # Imports open and close about a thousand files: of these calls, the last ones are taken.
    first = int(0.85 * calls[call]) if calls[call] > 500 else 1
    inject = f"inject={call}:signal=KILL:when={rng.randint(first, calls[call])}"
    return run(folder, case.command, ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject])
