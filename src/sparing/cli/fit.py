"""`sparing fit`: learn from a few rows which others a new model will change."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.failed_rows import FailedRows, FailuresOption, MaxFailuresOption
from sparing.cli.options import (
    BatchOption,
    CacheArgument,
    ColumnOption,
    CostOption,
    ModelClassesOption,
    ProviderOption,
    SamplesOption,
    ThreadsOption,
    load_models,
    open_given_samples,
)
from sparing.cli.output import JsonOption, hint, print_json, progress, say, share

EPILOG = (
    "Example: sparing fit photos.lance --model resnet56=resnet56.onnx --samples images.parquet --out ranker"
)


def fit(
    cache: CacheArgument,
    out: Annotated[Path, typer.Option("--out", help="Where to write the ranker.")] = Path("ranker"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME=SPEC", help="A candidate to run on some rows. Repeat for several."
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--outputs",
            metavar="NAME=FILE",
            help="A candidate's outputs known from elsewhere (Parquet), matched by id: nothing is run.",
        ),
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option(
            "--old", help="With --outputs: the cached model's outputs for the same ids; else the cache's."
        ),
    ] = None,
    classes: ModelClassesOption = None,
    samples: SamplesOption = None,
    column: ColumnOption = None,
    rows: Annotated[int, typer.Option("--rows", min=2, help="Rows to run each candidate on.")] = 500,
    form: Annotated[
        str,
        typer.Option("--input", help="What PURE's router reads: sorted (default), or plain as in the paper."),
    ] = "sorted",
    hidden: Annotated[
        list[int] | None, typer.Option("--hidden", min=1, help="Hidden layer sizes of PURE's router. [64]")
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, max=10000, help="Passes of PURE's router over the rows.")
    ] = 30,
    holdout: Annotated[
        float, typer.Option("--holdout", min=0, max=0.9, help="Share of the rows that judge the ranker.")
    ] = 0.2,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help="What a refresh with this ranker ranks by when none is named: {scorers}, or auto: what the "
            "held-out rows advise. By default router.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the rows, the split and the fit.")] = 0,
    cost: CostOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    max_failures: MaxFailuresOption = None,
    failures: FailuresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a ranker: every scorer that learns, and what held-out rows say of them.

    A refresh needs none: without a ranker it learns while it spends. It takes PURE's router, and outputs that
    are known from elsewhere (--outputs).

    What this runs on the cache's own rows is not lost: the next `refresh` with these candidates stores it,
    and counts it in its budget.
    """
    from sparing.errors import InputError

    if bool(model) == bool(outputs):
        raise InputError("give either --model, to run candidates, or --outputs, when their outputs are known")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: give a file in a folder that exists")
    if form not in ("sorted", "plain"):
        raise InputError(f"--input must be sorted or plain, not {form!r}")
    common: dict[str, Any] = {
        "form": form,
        "hidden": tuple(hidden or (64,)),
        "epochs": epochs,
        "holdout": holdout,
        "seed": seed,
    }
    candidates: list[Any] = []
    failed = FailedRows(failures)
    if outputs:
        ranker = _from_outputs(cache, outputs, old, common)
    else:
        from sparing.refresh import fit as run_fit

        candidates = load_models(model or [], cost, batch_size, threads, provider, classes=classes)
        values = open_given_samples(samples, column)
        with progress("fitting") as on_progress:
            ranker = run_fit(
                cache,
                candidates,
                samples=values,
                rows=rows,
                max_failures=max_failures,
                on_progress=on_progress,
                on_failures=failed,
                **common,
            )
    ranker = _preferring(ranker, scorer)
    ranker.save(out)
    _tell(ranker, out, as_json, None if outputs else _spent(cache, candidates))
    failed.finish("the ranker was fitted without them")


def _preferring(ranker: Any, scorer: str | None) -> Any:
    from dataclasses import replace

    from sparing.refresh.scoring.ranking import make_ranking

    if scorer is None:
        return ranker
    if scorer != "auto":
        scorer = make_ranking(scorer, ranker.names, ranker.names[-1], ranker=ranker).name
    return replace(ranker, preferred=scorer)


def _from_outputs(cache: Path, outputs: list[str], old: Path | None, common: dict[str, Any]) -> Any:
    from sparing.cache import Cache
    from sparing.errors import InputError
    from sparing.refresh import fit_outputs

    pairs = [spec.partition("=") for spec in outputs]
    for name, equals, path in pairs:
        if not (name and equals and path):
            raise InputError(f"--outputs {name + equals + path!r}: write NAME=FILE.parquet")
    return fit_outputs(
        Cache.open(cache) if old is None else old,
        [path for _, _, path in pairs],
        [name for name, _, _ in pairs],
        **common,
    )


def _spent(path: Path, candidates: list[Any]) -> tuple[int, int]:
    """Count the forwards that are paid for the next refresh with these candidates, and the cache's rows."""
    from sparing.cache import Cache
    from sparing.cache.known import load_known

    cache = Cache.open(path)
    known = [load_known(cache.work_dir, cache.metadata, m.name, m.digest) for m in candidates]
    return sum(len(item.ids) for item in known if item is not None), len(cache)


def _tell(ranker: Any, out: Path, as_json: bool, spent: tuple[int, int] | None) -> None:
    router, held = ranker.scorers["router"], ranker.holdout
    result: dict[str, Any] = {
        "ranker": str(out),
        "bytes": out.stat().st_size,
        "input": router.form,
        "width": router.width,
        "candidates": [{"name": c.name, "digest": c.digest, "seconds": c.seconds} for c in ranker.candidates],
        "scorer": ranker.preferred or "router",
        "held_out_rows": 0 if held is None else len(held.cached),
    }
    if held is not None:
        names = ranker.names
        result["consistency"] = {
            scorer: {
                rate: held.predict(scorer, names, names[-1], float(rate)).consistency
                for rate in ("0.2", "0.5", "0.8")
            }
            for scorer in (*held.learned, "entropy", "random")
        }
        result["recommended"], result["advice"] = held.advise(names, names[-1])
    if spent is not None:
        result["forwards"], result["share_of_rows"] = spent[0], spent[0] / spent[1]
    if as_json:
        print_json(result)
        return
    say(f"wrote {out} ({result['bytes']:,} bytes), fitted for {', '.join(ranker.names)}")
    if spent is not None:
        each = spent[0] / spent[1]
        say(
            f"its {spent[0]:,} forwards count in the next budget: {share(each)} of the cache's rows, "
            f"{share(2 * each)} of what a budget of 50% pays for"
        )
    if "consistency" in result:
        say(f"consistency with a full re-run, judged on {result['held_out_rows']:,} held-out rows:")
        say(f"  {'scorer':<18}    20%      50%      80%")
        for scorer, values in result["consistency"].items():
            say(f"  {scorer:<18}" + "".join(f"{100 * value:7.2f}% " for value in values.values()))
        say(result["advice"])
    hint(f"next: sparing refresh CACHE ... --ranker {out} --budget 50% --dry-run")
