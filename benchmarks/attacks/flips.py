"""Flipped bits and cut files: damage is reported as damage, or changes nothing."""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from attacks.world import World, problems_of
from sparing.cache import Cache
from sparing.errors import SparingError

CUT = 0.15
"""The share of tries that cut a file short instead of flipping a bit."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: what it is called in the report.
        state: the state that holds such files.
        files: a pattern for them, in that state's folder.
        read: what reads them, to a digest of what was read.
        changes: whether reading changes the folder.
    """

    name: str
    state: str
    files: str
    read: Callable[[Path], str]
    changes: bool = False


class RefusedError(SparingError):
    """A command that said in one line what was wrong."""


@dataclass
class Flips:
    """What was damaged, and what was found."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Flips") -> None:
        """Add what another process has found."""
        for kind, counts in other.outcomes.items():
            self.outcomes.setdefault(kind, Counter()).update(counts)
        self.problems += other.problems

    def lines(self) -> list[str]:
        """Say what was found, for the report."""
        total = sum(counts.total() for counts in self.outcomes.values())
        first = f"{total} flipped bits and files cut short, in {len(self.outcomes)} kinds of files:"
        return [first, *(f"{kind}: {', '.join(f'{n} {o}' for o, n in sorted(counts.items()))}" for kind, counts in self.outcomes.items())]  # fmt: skip


def command(folder: Path, text: str) -> None:
    """Run a command in this process."""
    from sparing.cli.main import main

    os.chdir(folder)
    sys.argv = ["sparing", *text.split()]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        said = err.getvalue()
        assert code == 1, f"exit {code}: {said}"
        assert "Traceback" not in said, said
        assert "error:" in said, said
        assert "unexpected" not in said, said
        raise RefusedError(said)


def rows(folder: Path) -> str:
    """Read the newest version and its history."""
    cache = Cache.open(folder / "c.lance")
    history = json.dumps([dict(entry) for entry in cache.metadata.history])
    return holds_or_raise(folder) + history


def holds_or_raise(folder: Path) -> str:
    """Return what a cache holds; CacheError when it is damaged."""
    from attacks.world import rows_digest

    return rows_digest(Cache.open(folder / "c.lance"))


def resume(text: str, *then: str) -> Callable[[Path], str]:
    """Return what runs commands and reads the cache."""
    return _Resume((text, *then))


@dataclass(frozen=True)
class _Resume:
    commands: tuple[str, ...]

    def __call__(self, folder: Path) -> str:
        for text in self.commands:
            command(folder, text)
        return holds_or_raise(folder)


def ranker(folder: Path) -> str:
    """Read a ranker, and write it again."""
    from sparing.refresh.scoring.ranker import Ranker

    return hashlib.sha256(Ranker.load(folder / "ranker").to_bytes()).hexdigest()


def router(folder: Path) -> str:
    """Read a router's folder."""
    from sparing.route.router import open_router

    return repr(asdict(open_router(folder / "router").description))


def profile(folder: Path) -> str:
    """Read a profile, and all outputs that it keeps."""
    from sparing.route.outputs import Memo
    from sparing.route.profiling import open_profile

    opened = open_profile(folder / "experts")
    memo = Memo.open(folder / "experts" / "outputs.lance")
    assert memo is not None
    outputs = memo.read(np.arange(len(memo)))
    return repr(opened.experts) + hashlib.sha256(outputs.tobytes()).hexdigest()


def policy(folder: Path) -> str:
    """Read an offload policy."""
    from sparing.offload import read_policy

    return repr(read_policy(folder / "policy.toml"))


_RUN = "--samples samples.parquet --column value --batch-size 16"
_FINISH = f"refresh c.lance --model new=models.py:new {_RUN} --once job --budget 60% --scorer entropy"
_FIT = f"fit c.lance --model new=models.py:new {_RUN} --rows 250 --epochs 3 --out ranker"
_RANKED = f"refresh c.lance --model new=models.py:new {_RUN} --ranker ranker --budget 30%"
_ENTROPY = f"refresh c.lance --model new=models.py:new {_RUN} --scorer entropy --budget 30%"
_FILL = f"cache fill c.lance --model old=models.py:old {_RUN}"
_APPEND = f"cache append c.lance --model added=models.py:old {_RUN.replace('samples.p', 'all.p')}"

KINDS = (
    Kind("data files", "many", "c.lance/data/*.lance", rows),
    Kind("deletion files", "many", "c.lance/_deletions/*", rows),
    Kind("manifests", "many", "c.lance/_versions/*.manifest", rows),
    Kind("transactions", "many", "c.lance/_transactions/*.txn", rows),
    Kind("records of past changes", "many", "c.lance/_record/*", rows),
    Kind("list of checksums", "many", "c.lance/_sparing/checksums", rows),
    Kind("staged chunks", "staged", "c.lance/_sparing/round/chunk-*", resume(_FINISH), True),
    Kind("staged order", "staged", "c.lance/_sparing/round/order.arrow", resume(_FINISH), True),
    Kind("staged record", "staged", "c.lance/_sparing/round/request.json", resume(_FINISH), True),
    Kind("staged marks", "staged", "c.lance/_sparing/round/[be]*", resume(_FINISH), True),
    Kind("staged fit", "fitting", "c.lance/_sparing/fit/*", resume(_FIT, _RANKED), True),
    Kind("staged fill", "filling", "c.lance.filling/*", resume(_FILL), True),
    Kind("staged append", "appending", "c.lance/_sparing/append/*", resume(_APPEND), True),
    Kind("outputs kept by fit", "fitted", "c.lance/_sparing/known-*", resume(_ENTROPY), True),
    Kind("rankers", "fitted", "ranker", ranker),
    Kind("router folders", "others", "router/*", router),
    Kind("profiles", "others", "experts/profile.json", profile),
    Kind("outputs of experts", "others", "experts/outputs.lance/**/*.*", profile),
    Kind("offload policies", "others", "policy.toml", policy),
)


def attack(world: World, kind: Kind, tries: int, seed: int, seconds: float) -> Flips:
    """Damage files of one kind so many times, one at a time."""
    found = Flips({kind.name: Counter()})
    context = get_context("spawn")
    done = 0
    until = time.monotonic() + seconds
    while done < tries and time.monotonic() < until:
        with ProcessPoolExecutor(1, context) as pool:
            try:
                for number in range(done, tries):
                    if time.monotonic() > until:
                        break
                    text, problem = pool.submit(_one, world, kind, f"{seed} {kind.name} {number}").result()
                    done += 1
                    found.outcomes[kind.name][text] += 1
                    if problem:
                        found.problems.append(f"{kind.name}, {number}: {problem}")
            except BrokenProcessPool:
                found.outcomes[kind.name]["ended the process"] += 1
                found.problems.append(f"{kind.name}, {done}: the process ended")
                done += 1
    return found


def _one(world: World, kind: Kind, seed: str) -> tuple[str, str | None]:
    os.environ["SECONDS_PER_BATCH"] = "0"
    rng = random.Random(seed)
    wanted = _wanted(world, kind)
    folder = world.trial(kind.state, f"flip-{seed.replace(' ', '-').replace(',', '')}")
    try:
        files = sorted(p for p in folder.glob(kind.files) if p.is_file() and p.stat().st_size)
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        if rng.random() < CUT:
            at = rng.randrange(len(content))
            what, content = f"cut to {at} bytes", content[:at]
        else:
            at = rng.randrange(8 * len(content))
            what = f"bit {at} flipped"
            content[at // 8] ^= 1 << at % 8
        file.write_bytes(content)
        name = file.relative_to(folder).as_posix()
        told = name in {f"c.lance/{path}" for path in problems_of(folder / "c.lance")}
        try:
            got = kind.read(folder)
        except SparingError as error:
            return _judge(str(error), name, what)
        if got != wanted:
            return "wrong", f"{name}, {what}: something else was read"
        return "harmless, and found by check" if told else "harmless", None
    except BaseException as error:
        return "unclear error", f"{name}, {what}: {type(error).__name__}: {error}"
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def _judge(said: str, name: str, what: str) -> tuple[str, str | None]:
    """An error has to name the file, or its folder."""
    named = any(part in said for part in Path(name).parts[1:] or (name,))
    return "reported", None if named else f"{name}, {what}: the error does not name it: {said[:300]}"


_READ: dict[str, str] = {}


def _wanted(world: World, kind: Kind) -> str:
    if kind.name not in _READ:
        folder = world.trial(kind.state, f"whole-{kind.name.replace(' ', '-')}-{os.getpid()}")
        _READ[kind.name] = kind.read(folder)
        os.chdir("/")
        shutil.rmtree(folder)
    return _READ[kind.name]
