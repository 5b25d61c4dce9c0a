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

from attacks import kills
from attacks.world import CASES, World, make, undisturbed
from machine import describe

QUICK = {"kills": 20}


def run_kills(pool: Executor, world: World, arguments: argparse.Namespace) -> kills.Kills:
    each = -(-arguments.kills // len(CASES))
    found = kills.Kills()
    for one in gather(pool, [(kills.attack, world, case, each, arguments.seed) for case in CASES]):
        found.add(one)
    return found


CAMPAIGNS: dict[str, Callable[[Executor, World, argparse.Namespace], Any]] = {"kills": run_kills}


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
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few tries of each")
    parser.add_argument("--only", default=",".join(CAMPAIGNS), help="campaigns, separated by commas")
    parser.add_argument("--out", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    started, problems = time.monotonic(), 0
    report = ["# Attacks", "", f"Command: `python benchmarks/attack.py {shlex.join(sys.argv[1:])}`  "]
    report += [f"Machine: {describe()}", ""]
    context = get_context("spawn")  # Lance does not survive a fork
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(arguments.jobs, context) as pool:
        world = make(Path(name))
        for case in CASES:
            undisturbed(world, case)
        for name in arguments.only.split(","):
            begun = time.monotonic()
            found = CAMPAIGNS[name](pool, world, arguments)
            lines = [*found.lines(), f"problems: {len(found.problems)}", *found.problems]
            heading = f"{name.capitalize()} ({time.monotonic() - begun:.0f} s)"
            report += [f"## {heading}", "", *(f"- {line}" for line in lines), ""]
            print("\n".join([heading, *(f"  {line}" for line in lines)]), flush=True)
            problems += len(found.problems)
    report.append(f"Problems found: {problems}, in {(time.monotonic() - started) / 60:.0f} minutes.")
    if arguments.out is not None:
        arguments.out.write_text("\n".join(report) + "\n")
    sys.exit(problems > 0)


if __name__ == "__main__":
    main()
