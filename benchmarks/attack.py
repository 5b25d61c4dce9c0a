"""Attack Sparing in every way that its promises speak of, and see whether they hold.

    python benchmarks/attack.py --kills 500 --jobs 2        # full size
    python benchmarks/attack.py --quick                     # a few minutes, to try it

Each campaign is a module in benchmarks/attacks. All draw from seeds, but the moments of kills depend on the
machine, too. What is a problem is printed at once and listed in the report; the exit code is 1 then.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from attacks import disk, flips, kills
from attacks.world import CASES, World, make, undisturbed
from machine import describe

QUICK = {"kills": 20, "flips": 60, "disk": 20}


def run_kills(pool: Executor, world: World, arguments: argparse.Namespace) -> kills.Kills:
    each = -(-arguments.kills // len(CASES))
    found = kills.Kills()
    for one in gather(
        pool,
        [(kills.attack, world, case, each, arguments.seed, share(arguments, len(CASES))) for case in CASES],
    ):
        found.add(one)
    return found


def run_flips(pool: Executor, world: World, arguments: argparse.Namespace) -> flips.Flips:
    each = -(-arguments.flips // len(flips.KINDS))
    found = flips.Flips()
    for one in gather(
        pool,
        [
            (flips.attack, world, kind, each, arguments.seed, share(arguments, len(flips.KINDS)))
            for kind in flips.KINDS
        ],
    ):
        found.add(one)
    return found


def run_disk(pool: Executor, world: World, arguments: argparse.Namespace) -> disk.Full:
    each = -(-arguments.disk // len(CASES))
    found = disk.Full()
    for one in gather(
        pool,
        [(disk.attack, world, case, each, arguments.seed, share(arguments, len(CASES))) for case in CASES],
    ):
        found.add(one)
    return found


CAMPAIGNS: dict[str, Callable[[Executor, World, argparse.Namespace], Any]] = {
    "kills": run_kills,
    "flips": run_flips,
    "disk": run_disk,
}


def share(arguments: argparse.Namespace, parts: int) -> float:
    """Return how many seconds each part of a campaign may take."""
    return float(60 * arguments.minutes * arguments.jobs / parts)


def gather(pool: Executor, calls: list[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield what calls in other processes return, as they end."""
    for future in as_completed([pool.submit(*call) for call in calls]):
        one = future.result()
        for problem in one.problems:
            print(f"  PROBLEM: {problem}", flush=True)
        yield one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--disk", type=int, default=100, help="runs on a full disk")
    parser.add_argument("--minutes", type=float, default=20, help="at most, per campaign")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few tries of each")
    parser.add_argument("--only", default=",".join(CAMPAIGNS), help="campaigns, separated by commas")
    parser.add_argument("--out", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    problems = 0
    context = get_context("spawn")  # Lance does not survive a fork
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(arguments.jobs, context) as pool:
        world = make(Path(folder))
        if {"kills", "disk", "power"} & set(arguments.only.split(",")):
            for case in CASES:
                undisturbed(world, case)
        for name in arguments.only.split(","):
            begun = time.monotonic()
            found = CAMPAIGNS[name](pool, world, arguments)
            lines = [*found.lines(), f"problems: {len(found.problems)}", *found.problems]
            lines.append(f"{time.monotonic() - begun:.0f} s, on {describe()}")
            lines.append(f"command: `python benchmarks/attack.py {shlex.join(sys.argv[1:])}`")
            text = "\n".join(f"- {line}" for line in lines)
            print(f"{name}\n{text}", flush=True)
            if arguments.out is not None:
                keep(arguments.out, name, text)
            problems += len(found.problems)
    sys.exit(problems > 0)


def keep(out: Path, name: str, text: str) -> None:
    """Put what a campaign has found in its section of a report; sections of others stay."""
    old = out.read_text() if out.exists() else ""
    parts = dict(part.split("\n", 1) for part in old.split("\n## ")[1:])
    parts[name.capitalize()] = f"\n{text}\n"
    order = [known.capitalize() for known in CAMPAIGNS if known.capitalize() in parts]
    out.write_text("# Attacks\n" + "".join(f"\n## {title}\n{parts[title]}" for title in order))


if __name__ == "__main__":
    main()
