"""`sparing simulate`: a deployment over several model updates, replayed from output tables."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.output import JsonOption, print_json, say

EPILOG = (
    "Example: sparing simulate --round m0.parquet --round m1.parquet --round m2.parquet --budget 50% "
    "--method pure,pure-no-correction,entropy,random,full"
)


def simulate(
    round_: Annotated[
        list[Path],
        typer.Option("--round", metavar="FILE", help="A model's outputs, oldest model first. Repeat."),
    ],
    budget: Annotated[
        str, typer.Option("--budget", help="Share of the rows per round; 50%,60% gives each round its own.")
    ] = "50%",
    method: Annotated[
        str, typer.Option("--method", help="Names separated by commas, or all: {methods}.")
    ] = "pure,pure-no-correction,only-omission,only-misclass,no-voting,entropy,mlink,cema,random,full",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="How many random halvings.")] = 5,
    train_rows: Annotated[
        int | None, typer.Option("--train-rows", min=2, help="Rows of each half to learn from.")
    ] = None,
    labelled_rows: Annotated[
        int, typer.Option("--labelled-rows", min=0, help="Labels that pooling may read, per half.")
    ] = 500,
    as_json: JsonOption = False,
) -> None:
    """Replay a deployment: one cache, several updates, every method, with all forwards counted.

    Correction is shown as the paper counts it, on top of the budget, and paid from the budget, so that every
    method spends the same.
    """
    from sparing.evaluate import simulate as run_simulate

    result = run_simulate(
        round_,
        methods=method,
        budget=[part.strip() for part in budget.split(",") if part.strip()],
        seeds=seeds,
        train_rows=train_rows,
        labelled_rows=labelled_rows,
    )
    if as_json:
        print_json(_as_dict(result))
        return
    _tell(result)


def _as_dict(result: Any) -> dict[str, Any]:
    def replays(table: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {
                "accuracy": replay.accuracy.mean(axis=0).tolist(),
                "accuracy_std": replay.accuracy.std(axis=0).tolist(),
                "consistency": replay.consistency.mean(axis=0).tolist(),
                "consistency_std": replay.consistency.std(axis=0).tolist(),
                **{
                    key: getattr(replay, key).mean(axis=0).tolist()
                    for key in ("forwards", "updates", "screening", "voting", "screened", "corrected")
                },
            }
            for name, replay in table.items()
        }

    return {
        "methods": replays(result.methods),
        "within_budget": replays(result.within_budget),
        "rows": result.rows,
        "train_rows": result.train_rows,
        "labelled_rows": result.labelled_rows,
        "seeds": result.seeds,
    }


def _tell(result: Any) -> None:
    say(f"{result.rows:,} rows, {result.seeds} seeds, {result.train_rows:,} rows to learn from")
    say("as the paper counts: correction comes on top of the budget")
    _table(result.methods)
    if result.within_budget:
        say("at equal forwards: correction is paid from the budget")
        _table(result.within_budget)


def _table(replays: dict[str, Any]) -> None:
    import numpy as np

    first = next(iter(replays.values()))
    labelled = not np.isnan(first.accuracy).all()
    rounds = first.accuracy.shape[1]
    what = "accuracy (%) by round" if labelled else "consistency (%) by round"
    head = "".join(f"{f'round {t}':>16}" for t in range(rounds))
    say(f"  {'':<20}{head}{'average':>10}{'forwards':>10}   {what}")
    for name, replay in replays.items():
        values = 100 * (replay.accuracy if labelled else replay.consistency)
        cells = "".join(
            f"{f'{mean:.2f} ± {std:.2f}':>16}"
            for mean, std in zip(values.mean(axis=0), values.std(axis=0), strict=True)
        )
        forwards = round(float(replay.forwards.sum(axis=1).mean()))
        say(f"  {name:<20}{cells}{values.mean():>10.2f}{forwards:>10,}")
