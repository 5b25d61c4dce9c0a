"""`sparing refresh`: spend a budget on the rows where it is predicted to bring most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.compacted import told_compaction
from sparing.cli.failed_rows import FailedRows, FailuresOption, MaxFailuresOption
from sparing.cli.options import (
    BatchOption,
    CacheArgument,
    ColumnOption,
    CostOption,
    ModelClassesOption,
    ModelsOption,
    NoCompactOption,
    ProviderOption,
    RenameOption,
    SamplesOption,
    ThreadsOption,
    given_renames,
    load_models,
    open_given_samples,
)
from sparing.cli.output import JsonOption, hint, print_json, progress, say, share
from sparing.cli.terminal import cell

EPILOG = (
    "Example: sparing refresh photos.lance --model resnet56=resnet56.onnx --samples images.parquet "
    "--budget 50%"
)


def refresh(
    cache: CacheArgument,
    model: ModelsOption,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="A share (50%, 0.5), rows (5000rows), time (90s, 10m, 2h) or cost (12.5cost). "
            "With --consistency, the most that may be spent.",
        ),
    ] = None,
    consistency: Annotated[
        str | None,
        typer.Option(
            "--consistency",
            metavar="SHARE",
            help="Run as few rows as it takes so that at least this share (95%) agrees with a full re-run.",
        ),
    ] = None,
    confidence: Annotated[
        str,
        typer.Option(
            "--confidence", metavar="SHARE", help="How sure that must be, over the draw of audited rows."
        ),
    ] = "95%",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="The consistency holds in every group at once: of a column of the features or the samples, "
            "or of the cached class (class).",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="CLASS=SHARE",
            help="Of the rows that hold this class afterwards, at least this share (unsafe=99%) is right. "
            "Repeat for several.",
        ),
    ] = None,
    recall: Annotated[
        list[str] | None,
        typer.Option(
            "--recall",
            metavar="CLASS=SHARE",
            help="Of the rows that a full re-run gives this class, at least this share holds it. Repeat for "
            "several.",
        ),
    ] = None,
    samples: SamplesOption = None,
    column: ColumnOption = None,
    ranker: Annotated[
        Path | None, typer.Option("--ranker", help="The ranker that `sparing fit` wrote.")
    ] = None,
    router: Annotated[Path | None, typer.Option("--router", hidden=True)] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help="What ranks the rows: learned, by the rows run so far (default without ranker); {scorers}; "
            "or auto: what held-out rows advise. With a ranker by default router (change under accuracy).",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="COLUMNS",
            help="What may be learned from beside the cached outputs: columns of the samples "
            "(extension,size,text), or a table by id (FILE.parquet, or FILE.parquet:extension,size).",
        ),
    ] = None,
    impute: Annotated[
        bool,
        typer.Option(
            "--impute",
            help="Rows that are not run may store the answer that the new model is predicted to give, where "
            "rows that were run show that to be better than the cached one.",
        ),
    ] = False,
    classes: ModelClassesOption = None,
    rename: RenameOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="The model whose full re-run is the reference; the last by default."),
    ] = None,
    only_positive: Annotated[
        bool,
        typer.Option("--only-positive", help="Leave alone rows that no candidate is predicted to improve."),
    ] = False,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="consistency stores new distributions as they are; accuracy pools them with the cached.",
        ),
    ] = "consistency",
    correct: Annotated[
        bool,
        typer.Option("--correct", help="From round 2 on, correct stale rows, on top of the budget."),
    ] = False,
    correct_within_budget: Annotated[
        bool,
        typer.Option("--correct-within-budget", help="Correct stale rows, and pay for it from the budget."),
    ] = False,
    recent: Annotated[
        list[str] | None,
        typer.Option(
            "--recent",
            metavar="NAME=SPEC",
            help="A model of an earlier round that correction may run again. Repeat for several.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="HH:MM", help="Stop then, and commit what was reached.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides the order among equal scores.")] = 0,
    cost: CostOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the budget would buy; run nothing.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Commit what an interrupted run has staged, as a shorter round.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop what an earlier, different command has staged.")
    ] = False,
    once: Annotated[
        str | None,
        typer.Option(
            "--once",
            metavar="NAME",
            help="Name the round, such as 2026-11-26; if the cache has a round of that name, do nothing.",
        ),
    ] = None,
    max_failures: MaxFailuresOption = None,
    failures: FailuresOption = None,
    no_compact: NoCompactOption = False,
    as_json: JsonOption = False,
) -> None:
    """Refresh a cache under a budget, as one atomic round.

    It runs a few random rows first, then those that the new model is most likely to change, by the entropy of
    the cached output and by what the rows run so far have taught, where that is shown to be better.

    Interrupted or killed, the same command resumes where it stopped; nothing is visible before the end.
    """
    from sparing.cli import STARTED
    from sparing.errors import InputError
    from sparing.refresh import Correction, RefreshOptions

    if finish and discard:
        raise InputError("--finish commits what is staged and --discard drops it: give one of them")
    if router is not None:
        if ranker is not None:
            raise InputError("--router is the old name of --ranker: give --ranker alone")
        hint("--router is deprecated and will be removed in the next version: write --ranker")
        ranker = router
    corrects = correct or correct_within_budget
    if recent and not corrects:
        raise InputError("recent models take part in correction only: ask for it with --correct")
    loaded = load_models([*model, *(recent or [])], cost, batch_size, threads, provider, classes=classes)
    candidates, again = loaded[: len(model)], loaded[len(model) :]
    options = RefreshOptions(
        budget=budget,
        consistency=consistency,
        confidence=confidence,
        by=by,
        precision=_shares(precision, "--precision"),
        recall=_shares(recall, "--recall"),
        scorer=scorer,
        ranker=ranker,
        features=features,
        target=target,
        only_positive=only_positive,
        objective=objective,  # type: ignore[arg-type]
        correction=Correction(recent=again, within_budget=correct_within_budget) if corrects else None,
        seed=seed,
        max_failures=max_failures,
        once=once,
        impute=impute,
        rename=given_renames(rename),
    )
    if dry_run:
        from sparing.refresh import preview

        seen = preview(cache, candidates, options, samples=open_given_samples(samples, column))
        _tell_preview(seen, options, as_json)
        return
    from sparing.errors import ModelError
    from sparing.refresh import refresh as run_refresh

    values = None if finish and features is None else open_given_samples(samples, column)
    failed = FailedRows(failures)
    try:
        with progress("refreshing") as on_progress:
            report = run_refresh(
                cache,
                candidates,
                options,
                samples=values,
                until=None if until is None else _next(until),
                started=STARTED,
                unfinished="commit" if finish else "discard" if discard else "resume",
                compact=not no_compact,
                on_progress=on_progress,
                on_failures=failed,
            )
    except (KeyboardInterrupt, ModelError):
        _tell_staged(cache)
        raise
    _tell_report(report, cache, candidates, as_json)
    failed.finish("they keep what they held; the next refresh tries them again")


def _shares(given: list[str] | None, option: str) -> dict[str, str]:
    """Read shares by class."""
    from sparing.errors import InputError

    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.rpartition("=")
        if not equals or not name or name in found:
            raise InputError(f"{option} {text!r}: write CLASS=SHARE, each class once, such as unsafe=99%")
        found[name] = value
    return found


def _tell_promise(promise: dict[str, Any]) -> None:
    where = "" if promise["by"] is None else f" in each {promise['by']}"
    surely = f"with {share(promise['confidence'])} confidence, by {promise['audited']:,} audited rows"
    classes = promise.get("classes", [])
    if not promise["audited"] and not promise["kept"] and promise["certified"] is None:
        say("  nothing is certified: the round ended before its audit")
    elif promise["certified"] is not None:
        say(f"  certified consistency{where}: at least {share(promise['certified'])}, {surely}")
    for each in classes:
        if each["certified"] is not None:
            least = share(each["certified"])
            say(f"  certified {each['measure']} of {each['class']}: at least {least}, {surely}")
    if not promise["kept"]:
        asked = [f"{share(each['asked'])} {each['measure']} of {each['class']}" for each in classes]
        if promise["consistency"] is not None:
            asked.insert(0, f"{share(promise['consistency'])} consistency{where}")
        hint(
            f"{', '.join(asked)} was asked for, and is not certified: the round ended before, or rows failed"
        )
    groups = promise.get("groups", {})
    for name, group in sorted(groups.items(), key=lambda item: item[1]["certified"] or 0)[:SHOWN_GROUPS]:
        say(
            f"    {name}: at least {share(group['certified'] or 0)} of {group['rows']:,} rows "
            f"({group['audited']:,} audited)"
        )
    if len(groups) > SHOWN_GROUPS:
        say(f"    and {len(groups) - SHOWN_GROUPS:,} more groups, each at least as good (--json lists them)")


SHOWN_GROUPS = 10


def _tell_pooling(name: str, judged: dict[str, Any]) -> None:
    text = f"  pooling {name}: exponents {judged['old']:.2f} (cached) and {judged['new']:.2f} (new)"
    if judged["pooled"] is None:
        text += f", the default, since only {judged['rows']:,} labelled rows were refreshed"
    else:
        text += (
            f"; on {judged['rows']:,} labelled rows {share(judged['pooled'])} pooled, "
            f"{share(judged['replaced'])} replaced"
        )
    if judged["old"] == 0:
        text += ": pooling would hurt, so new distributions were stored as they are"
    say(text)


def _next(clock: str) -> Any:
    """Find the next time that the clock on the wall shows this."""
    from datetime import datetime, timedelta

    from sparing.errors import BudgetError

    try:
        wanted = datetime.strptime(clock, "%H:%M")
    except ValueError:
        raise BudgetError(f"--until {clock!r}: write a time of day such as 06:00") from None
    now = datetime.now().astimezone()
    then = now.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
    return then if then > now else then + timedelta(days=1)


def _tell_classes(cache: Path) -> None:
    """Say how the round before this one's rows changed the list of classes, if it did."""
    from sparing.cache import Cache

    latest = [entry for entry in Cache.open(cache).metadata.history[-3:] if entry["op"] == "classes"]
    for entry in latest:
        say(
            f"classes: {entry['from']:,} before, {entry['to']:,} now, by name"
            + "".join(f"; {cell(old)} is named {cell(new)}" for old, new in entry["rename"].items())
        )


def _tell_staged(cache: Path) -> None:
    from sparing.cache import Cache
    from sparing.refresh.slices import staged_slices
    from sparing.refresh.staging import Staging

    opened = Cache.open(cache)
    if opened.unfinished_round() is None:
        hint("nothing had been staged yet; the cache is as it was")
        return
    slices = staged_slices(Staging(opened.staged_round)).values()
    rows, done = sum(part.order().num_rows for part in slices), sum(part.rows_done() for part in slices)
    hint(
        f"{done:,} of {rows:,} rows are staged and nothing was committed: the same command resumes "
        "there; with --finish it commits what is staged as a shorter round"
    )


def _tell_preview(preview: Any, options: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from sparing.budget import Budget

    budget = Budget.parse("100%" if options.budget is None else options.budget)
    result = {
        "dry_run": True,
        "budget": None if options.budget is None else str(budget),
        **({} if options.consistency is None else {"consistency": options.consistency}),
        **asdict(preview),
    }
    if as_json:
        print_json(result)
        return
    total = sum(preview.refresh.values())
    if options.consistency is not None or options.precision or options.recall:
        _tell_promise_preview(preview, options)
        return
    if preview.probe is not None:
        _tell_learning_preview(preview, budget, len(preview.refresh))
        return
    say(f"a budget of {budget} refreshes {total:,} of {preview.rows:,} rows, ranked by {preview.scorer}")
    _tell_forwards(preview, budget)
    prediction = preview.prediction
    if prediction is None:
        if options.objective == "consistency":
            say("  no held-out rows to predict consistency from: `sparing fit` makes a ranker that has them")
        return
    say(
        f"  predicted consistency with a full re-run: {share(prediction.consistency)} "
        f"± {100 * prediction.error:.2f} points (standard error, from {prediction.rows:,} held-out rows)"
    )
    if prediction.accuracy is not None:
        say(f"  predicted accuracy: {share(prediction.accuracy)}")


def _tell_promise_preview(preview: Any, options: Any) -> None:
    most = "" if options.budget is None else f", {options.budget} at most"
    promised = [] if options.consistency is None else [f"{options.consistency} consistency"]
    promised += [f"{value} precision of {name}" for name, value in options.precision.items()]
    promised += [f"{value} recall of {name}" for name, value in options.recall.items()]
    say(f"{', '.join(promised)}: promised with {options.confidence} confidence{most}")
    if preview.probe:
        say(f"  first {preview.probe:,} random rows, then slice by slice those most likely to change")
    if preview.curve is None:
        say(
            "  what it takes is not known before rows were run: `sparing fit` runs some, which the refresh "
            "then stores"
        )
        return
    say(f"  by the {preview.curve.rows:,} rows that fit has run, ranked by entropy:")
    for point in preview.curve.points:
        say(
            f"    {share(point.forwards)} of the forwards: {share(point.consistency)} consistency, "
            f"{share(point.low)} to {share(point.high)}"
        )
    needed = preview.curve.needed
    say(
        f"  about {share(needed)} of a full re-run's forwards to be expected, the audit included"
        if needed < 1
        else "  a full re-run is to be expected"
    )


def _tell_forwards(preview: Any, budget: Any) -> None:
    for name, rows in preview.refresh.items():
        say(f"  {name}: {rows:,} rows, {preview.forwards[name]:,} forwards to run")
    if preview.known:
        say(f"  {preview.known:,} of the rows were run by fit already; they count in the budget")
        if not any(preview.forwards.values()):
            say("  that alone is all of this budget: nothing more would be run")
    if preview.correction:
        say(f"  correction takes at most {preview.correction:,} forwards")
    if preview.seconds is None and budget.unit == "seconds":
        say("  how long a forward takes is not known yet: as many rows as the time allows")
    if preview.seconds is not None:
        say(f"  about {preview.seconds:,.1f} s of model time")
    if preview.cost is not None:
        say(f"  about {preview.cost:,.2f} units of cost")


def _tell_learning_preview(preview: Any, budget: Any, candidates: int) -> None:
    total = sum(preview.refresh.values())
    say(f"a budget of {budget} refreshes {total:,} of {preview.rows:,} rows, learning while it spends")
    if candidates > 1:
        say(f"  {TARGET_ALONE}")
    _tell_forwards(preview, budget)
    if preview.probe:
        say(f"  first {preview.probe:,} random rows, then slice by slice those most likely to change")
    else:
        say("  no random rows: those that fit has run take their place")
    say("  what the rows run will show is not known yet, so no consistency is predicted")


TARGET_ALONE = (
    "only the target is run: a candidate that is not far cheaper costs more to learn about than it saves "
    "(--scorer router, with a ranker, weighs all of them)"
)


def _tell_learning(learning: dict[str, Any]) -> None:
    later, learned = learning["slices"] - (learning["probe"] > 0), learning["learned"]
    say(
        f"  learning: {learning['probe']:,} random rows first, then slices ranked by what was learned: "
        f"{learned:,}, by entropy: {later - learned:,}"
    )
    if learning["ranked_by"] == "learned":
        say(
            f"  whether a row changes: predicted with a held-out loss of {learning['loss']:.3f} nats on "
            f"{learning['seen']:,} rows run, by entropy alone {learning['entropy_loss']:.3f}"
            + ("; which class it gets is predicted, too" if learning["label_model"] else "")
        )
    else:
        say("  at the end nothing learned was clearly better than entropy on held-out rows")


def _tell_imputation(found: dict[str, Any]) -> None:
    if not found["rows"]:
        if found["stored"]:
            say("  no row that was not run is predicted to answer differently")
        return
    shown = (
        f"on {found['held_out']:,} rows run, weighted to the others, it alone was right for "
        f"{share(found['wins'])}, the cached one alone for {share(found['losses'])}"
    )
    gain = f"{100 * found['gain']:.2f} points of consistency"
    if found["stored"]:
        say(f"  imputed: {found['rows']:,} rows store a predicted answer, expected to bring {gain}")
    else:
        say(f"  --impute would have stored predicted answers for {found['rows']:,} rows, and brought {gain}")
    say(f"    {shown}")


def _tell_report(report: Any, cache: Path, candidates: Sequence[Any], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(report))
        return
    account = report.account
    _tell_classes(cache)
    forwards = ", ".join(f"{count:,} {name}" for name, count in account["forwards"].items()) or "none"
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in account["seconds"].items())
    state = "" if report.complete else " (stopped early; the best rows came first)"
    say(f"round {report.round}: refreshed {report.refreshed:,} of {report.rows:,} rows{state}")
    say(f"  forwards: {forwards}, {share(report.share_of_forwards)} of a full re-run's")
    if report.changed:
        say(f"  of which {report.changed:,} rows whose sample had changed")
    if account["fit_forwards"]:
        say(f"  of which fit had run {sum(account['fit_forwards'].values()):,}")
    if report.learning is not None:
        _tell_learning(report.learning)
        if len(candidates) > 1:
            say(f"  {TARGET_ALONE}")
    if report.imputation is not None:
        _tell_imputation(report.imputation)
    if report.screened:
        extra = [sum(account[f"{kind}_forwards"].values()) for kind in ("screening", "voting")]
        say(
            f"  correction: screened {report.screened:,} rows with {extra[0]:,} forwards, "
            f"settled {report.corrected:,} with {extra[1]:,} more"
        )
    for name, judged in (report.pooling or {}).items():
        _tell_pooling(name, judged)
    if account["wasted_forwards"]:
        say(f"  at most {account['wasted_forwards']:,} more were lost to interruptions")
    say(f"  seconds: {seconds}")
    if report.share_of_time is not None:
        say(f"  about {share(report.share_of_time)} of the time of a full re-run")
    say(f"  written: {account['bytes_written']:,} bytes")
    if report.compacted is not None:
        say(f"  {told_compaction(report.compacted)}")
    if report.accuracy is not None:
        say(f"  accuracy: {share(report.accuracy_before)} before, {share(report.accuracy)} now")
    if report.prediction is not None:
        say(
            f"  predicted consistency with a full re-run: {share(report.prediction.consistency)} "
            f"± {100 * report.prediction.error:.2f} points"
        )
    if report.promise is not None:
        _tell_promise(report.promise)
    if report.refreshed + report.corrected:
        hint(f"to undo: sparing cache rollback {cache} --round {report.round - 1}")
    elif report.left == 0:
        known = ", ".join(f"{model.name} ({model.digest})" for model in candidates)
        hint(
            f"nothing was changed: 0 rows are left for {known}. A model that has changed needs another digest"
        )
    else:
        hint("nothing was changed: no row was left for these models, or the budget pays for none")
