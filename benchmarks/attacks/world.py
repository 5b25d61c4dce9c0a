"""What is attacked: small caches in known states, the commands that change them, and what they must hold."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparing.cache import Cache, check

ROWS, MORE, CLASSES = 1_500, 300, 8
CALLS = ("openat", "write", "rename", "unlink", "fsync", "mkdir", "rmdir", "linkat", "close", "ftruncate")
FLIGHT = 128
"""Forwards that a kill may repeat: the most that a chunk of these small jobs holds."""

MODELS = f"""
import os
import time
import numpy as np

SECONDS = float(os.environ.get("SECONDS_PER_BATCH", "0.006"))

def answer(name, values):
    seed = sum(name.encode())
    own = np.stack([np.random.default_rng([int(v), seed if (int(v) + seed) % 3 == 0 else 0]).normal(size={CLASSES}) for v in values])
    return np.exp(2 * own) / np.exp(2 * own).sum(1, keepdims=True)

def run(name, values):
    if log := os.environ.get("FORWARD_LOG"):
        with open(log, "a") as file:
            file.write("".join(f"{{name}} {{v}}\\n" for v in values))
    time.sleep(SECONDS)
    if log:
        with open(log + ".seconds", "a") as file:
            file.write(f"{{SECONDS}}\\n")
    return answer(name, values)

def old(values): return run("old", values)
def mid(values): return run("mid", values)
def new(values): return run("new", values)
"""


@dataclass(frozen=True)
class Case:
    """One command that writes.

    Attributes:
        name: what it is called in the report.
        start: the state that it starts from, a name in `STATES`.
        command: its arguments; files are relative to the folder of the trial.
        refused: what the command may say when it is given again after it was done.
        then: a command that is run after it, whose result tells whether it did the same.
        target: the cache that it changes.
    """

    name: str
    start: str
    command: str
    refused: str = "-"
    then: str | None = None
    target: str = "c.lance"


_RUN = "--samples samples.parquet --column value --batch-size 16"
_REFRESH = f"refresh c.lance --model new=models.py:new {_RUN} --once job"

CASES = (
    Case("import", "empty", "cache import c.lance --from old.parquet --model old", "exists already"),
    Case("fill", "empty", f"cache fill c.lance --model old=models.py:old {_RUN}", "exists already"),
    Case(
        "append --samples",
        "start",
        f"cache append c.lance --model added=models.py:old {_RUN.replace('samples.p', 'all.p')}",
        "in the cache already",
    ),
    Case(
        "append --from",
        "start",
        "cache append c.lance --from more.parquet --model old",
        "in the cache already",
    ),
    Case(
        "fit",
        "start",
        f"fit c.lance --model new=models.py:new {_RUN} --rows 250 --epochs 3 --out ranker",
        then=f"refresh c.lance --model new=models.py:new {_RUN} --ranker ranker --budget 30%",
    ),
    Case("refresh, learning", "start", f"{_REFRESH} --budget 40%"),
    Case("refresh, entropy", "start", f"{_REFRESH} --budget 40% --scorer entropy"),
    Case("refresh, router", "fitted", f"{_REFRESH} --budget 40% --ranker ranker"),
    Case("refresh, pooled", "round 1", f"{_REFRESH} --budget 40% --scorer entropy --objective accuracy"),
    Case("refresh, corrected", "round 1", f"{_REFRESH} --budget 30% --scorer entropy --correct"),
    Case(
        "refresh, several models",
        "start",
        f"refresh c.lance --model mid=models.py:mid --model new=models.py:new {_RUN} --once job "
        "--scorer entropy --budget 30%",
    ),
    Case("delete", "round 1", f"cache delete c.lance {' '.join(f's{i:04d}' for i in range(0, 600, 7))}", "not in the cache"),
    Case("rollback", "round 1", "cache rollback c.lance --round 0"),
    Case("convert", "round 1", "cache convert c.lance --encoding top3-int4", "is encoded as"),
    Case("compact", "many", "cache compact c.lance --keep-rounds 0"),
    Case("discard", "staged", "cache discard c.lance"),
    Case("finish", "staged", f"{_REFRESH} --budget 60% --scorer entropy --finish", "nothing to finish"),
    Case("repair", "damaged", "cache repair c.lance"),
    Case("export", "round 1", "cache export c.lance --out out.parquet", target="out.parquet"),
)  # fmt: skip


@dataclass
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.code in (-signal.SIGKILL, 128 + signal.SIGKILL)


def cli(command: str) -> list[str]:
    """Return the argument vector of a command."""
    return [sys.executable, "-c", "from sparing.cli.main import main; main()", *command.split()]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment that a command runs in."""
    return {**os.environ, "FORWARD_LOG": str(folder / "log"), "TMPDIR": str(folder / "tmp"), **more}


def run(folder: Path, command: str, before: Sequence[str] = (), **more: str) -> Ended:
    """Run a command to its end, in a folder."""
    done = subprocess.run(
        [*before, *cli(command)],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass
class World:
    """A folder with the states that trials are copied from.

    Attributes:
        folder: holds one folder per state.
        done: by case, what the target holds after the command was run undisturbed.
        before: by state, what the cache holds.
        forwards: by case, how often which sample was run undisturbed.
        seconds: by case, how long the command took.
        calls: by case, how often its busiest thread made which system call; empty without strace.
    """

    folder: Path
    done: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    forwards: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, dict[str, int]] = field(default_factory=dict)

    def trial(self, state: str, name: str, at: Path | None = None) -> Path:
        """Copy a state to a folder of its own."""
        to = (at or self.folder / "trials") / name
        shutil.copytree(self.folder / "states" / state, to)
        return to


def make(folder: Path) -> World:
    """Build the states."""
    states = folder / "states"
    empty = states / "empty"
    empty.mkdir(parents=True)
    (empty / "tmp").mkdir()
    (empty / "models.py").write_text(MODELS)
    (folder / "trials").mkdir()
    scope: dict[str, Any] = {}
    exec(compile(MODELS, "models", "exec"), scope)  # noqa: S102 -- the text above
    numbers = np.arange(ROWS + MORE)
    ids = pa.array([f"s{number:04d}" for number in numbers])
    labels = np.random.default_rng(7).integers(0, CLASSES, ROWS + MORE)
    probs = scope["answer"]("old", numbers).astype(np.float32)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), CLASSES)
    outputs = pa.table({"id": ids, "probs": columns, "label": labels})
    samples = pa.table({"id": ids, "value": numbers})
    pq.write_table(outputs.slice(0, ROWS), empty / "old.parquet")
    pq.write_table(outputs.slice(ROWS), empty / "more.parquet")
    pq.write_table(samples.slice(0, ROWS), empty / "samples.parquet")
    pq.write_table(samples, empty / "all.parquet")

    def state(name: str, base: str, *commands: str, fails: bool = False, **more: str) -> Path:
        to = states / name
        shutil.copytree(states / base, to)
        for command in commands:
            ended = run(to, command, **more)
            assert (ended.code != 0) == fails, (command, ended.err)
        (to / "log").unlink(missing_ok=True)
        return to

    state("start", "empty", CASES[0].command)
    mid = f"refresh c.lance --model mid=models.py:mid {_RUN} --scorer entropy"
    state("round 1", "start", f"{mid} --budget 25%")
    fit = next(case for case in CASES if case.name == "fit")
    state("fitted", "start", fit.command)
    many = [f"{mid} --budget 40rows --seed {seed}" for seed in range(3)]
    deletions = [f"cache delete c.lance s{i:04d} s{i + 1:04d}" for i in (900, 910)]
    state("many", "round 1", *many, *deletions, "cache append c.lance --from more.parquet --model old")

    def interrupted(name: str, base: str, command: str, chunks: str) -> None:
        to = state(name, base)
        process = subprocess.Popen(
            cli(command),
            cwd=to,
            env=environment(to, SECONDS_PER_BATCH="0.05"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list(to.glob(chunks))) < 2:
            assert process.poll() is None, command
        process.kill()
        process.wait()
        (to / "log").unlink(missing_ok=True)

    named = {case.name: case.command for case in CASES}
    interrupted(
        "staged", "round 1", named["finish"].removesuffix(" --finish"), "c.lance/_sparing/round/chunk*"
    )
    interrupted("fitting", "start", named["fit"], "c.lance/_sparing/fit/chunk*")
    interrupted("filling", "empty", named["fill"], "c.lance.filling/chunk*")
    interrupted("appending", "start", named["append --samples"], "c.lance/_sparing/append/chunk*")
    _others(state("others", "empty"))
    damaged = state("damaged", "many")
    newest = min((damaged / "c.lance" / "_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:40])
    world = World(folder)
    for path in states.iterdir():
        world.before[path.name] = holds(path / "c.lance")
    return world


def _others(folder: Path) -> None:
    """Put what is no cache into a folder: a profile, a router and a policy."""
    from sparing.offload import read_policy, write_policy
    from sparing.route.router import open_router, write_router

    there = Path(__file__).resolve().parents[2] / "tests" / "files" / "0.1"
    shutil.copytree(there / "gater-trained", folder / "router")
    for path in (folder / "router").iterdir():
        path.rename(path.with_stem("router"))
    write_router(folder / "router", open_router(folder / "router").description)  # with checksums
    write_policy(folder / "policy.toml", read_policy(there / "policy.toml"))
    experts = "--expert small=models.py:old --expert large=models.py:new"
    ended = run(folder, f"route profile {experts} --samples samples.parquet --column value --out experts")
    assert ended.code == 0, ended.err


def undisturbed(world: World, case: Case) -> None:
    """Run a command once, and note what it leaves and what it took."""
    from time import monotonic

    folder = world.trial(case.start, f"undisturbed-{case.name.replace(' ', '-')}")
    started = monotonic()
    ended = run(folder, case.command)
    world.seconds[case.name] = monotonic() - started
    assert ended.code == 0, (case.name, ended.err)
    world.calls[case.name] = _count_calls(world, case)
    world.forwards[case.name] = dict(forwards(folder))
    if case.then is not None:
        ended = run(folder, case.then)
        assert ended.code == 0, (case.name, ended.err)
    world.done[case.name] = holds(folder / case.target)
    shutil.rmtree(folder)


def _count_calls(world: World, case: Case) -> dict[str, int]:
    if shutil.which("strace") is None:
        return {}
    folder = world.trial(case.start, f"traced-{case.name.replace(' ', '-')}")
    run(folder, case.command, ["strace", "-f", "-o", str(folder / "trace"), "-e", f"trace={','.join(CALLS)}"])
    lines = [line.split(maxsplit=1) for line in (folder / "trace").read_text(errors="replace").splitlines()]
    counts = Counter((thread, text.partition("(")[0]) for thread, text in lines)
    shutil.rmtree(folder)
    return {
        name: max([n for (_, call), n in counts.items() if call == name], default=0)
        for name in CALLS
        if any(call == name for _, call in counts)
    }


def forwards(folder: Path) -> Counter[str]:
    """Count how often the models have run which sample."""
    log = folder / "log"
    return Counter(log.read_text().splitlines() if log.exists() else ())


def holds(target: Path, version: int | None = None) -> str:
    """Return a digest of all that a cache or a file holds; "absent" without one, "damaged" when refused."""
    from sparing.errors import CacheError

    if not target.exists():
        return "absent"
    if target.is_file():
        return hashlib.sha256(target.read_bytes()).hexdigest()
    try:
        return rows_digest(Cache.open(target, version))
    except CacheError as error:
        if "is damaged" not in str(error):
            raise
        return "damaged"


def rows_digest(cache: Cache) -> str:
    """Return a digest of every row of a cache, whatever their order on disk."""
    names = [model.name for model in cache.metadata.models]
    parts = list(cache.scan())
    ids = pa.concat_arrays([part.ids for part in parts])
    order = np.argsort(np.array(ids.to_pylist()))
    digest = hashlib.sha256(
        json.dumps([ids.take(pa.array(order)).to_pylist(), cache.metadata.encoding]).encode()
    )
    for get in ("outputs", "labels", "rounds", "scores"):
        digest.update(np.ascontiguousarray(np.concatenate([getattr(p, get) for p in parts])[order]).tobytes())
    held = np.concatenate([part.models for part in parts])[order]
    digest.update(json.dumps([names[model] for model in held]).encode())
    return digest.hexdigest()


def problems_of(path: Path) -> Mapping[str, str]:
    """Return what `sparing cache check` finds."""
    return check(path).problems if (path / "_versions").exists() else {}
