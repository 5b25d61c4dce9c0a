"""`sparing cache`: make, inspect and keep a prediction cache."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.compacted import compact_after, told_compaction
from sparing.cli.failed_rows import FailedRows, FailuresOption, MaxFailuresOption
from sparing.cli.failures import as_dict
from sparing.cli.options import (
    BatchOption,
    CacheArgument,
    ColumnOption,
    CostOption,
    NoCompactOption,
    ProviderOption,
    RenameOption,
    ThreadsOption,
    given_renames,
    load_models,
    open_given_samples,
    read_class_names,
)
from sparing.cli.output import JsonOption, hint, print_json, progress, say, share
from sparing.cli.terminal import cell

app = typer.Typer(help="Make, inspect and keep a prediction cache.", no_args_is_help=True)

ClassesOption = Annotated[
    Path | None, typer.Option("--classes", help="A text file with one class name per line, in label order.")
]
EncodingOption = Annotated[
    str,
    typer.Option(
        "--encoding",
        help="How distributions are stored: float32, float16, int8, int4; or top8-int4 for the 8 most "
        "probable classes in 4 bits each (any number of classes), and top8-int8, top8-float16, top8-float32.",
    ),
]
IdArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Sample ids.", show_default=False)]


@app.command(
    "import", epilog="Example: sparing cache import photos.lance --from old.parquet --model resnet20"
)
def import_(
    cache: CacheArgument,
    source: Annotated[Path, typer.Option("--from", help="Parquet table: id, probs, and optionally label.")],
    model: Annotated[str, typer.Option("--model", help="Name of the model that made these outputs.")],
    digest: Annotated[
        str | None, typer.Option("--digest", help="What that model is; its name by default.")
    ] = None,
    encoding: EncodingOption = "float16",
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a cache from outputs computed elsewhere."""
    from sparing.cache import import_outputs

    made = import_outputs(cache, source, model, digest=digest, encoding=encoding, classes=_classes(classes))
    _tell(made, as_json)


@app.command(
    epilog="Example: sparing cache fill photos.lance --model resnet20=resnet20.onnx --samples images.parquet"
)
def fill(
    cache: CacheArgument,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME=SPEC", help="The model to run on every sample.")
    ],
    samples: Annotated[str, typer.Option("--samples", help="A Parquet table, a Lance dataset or a folder.")],
    column: ColumnOption = None,
    encoding: EncodingOption = "float16",
    classes: ClassesOption = None,
    cost: CostOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="COLUMN|value",
            help="Keep what tells whether a sample has changed: a column of them, or the value itself.",
        ),
    ] = None,
    max_failures: MaxFailuresOption = None,
    failures: FailuresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a cache by running a model over all samples; killed, the same command resumes."""
    from sparing.refresh import fill as run_fill

    loaded = load_models([model], cost, batch_size, threads, provider)[0]
    failed = FailedRows(failures)
    with progress("filling") as on_progress:
        made = run_fill(
            cache,
            loaded,
            open_given_samples(samples, column),
            encoding=encoding,
            classes=_classes(classes),
            fingerprint=fingerprint,
            max_failures=max_failures,
            on_progress=on_progress,
            on_failures=failed,
        )
    _tell(made, as_json)
    failed.finish("the cache lacks them; `sparing cache append` with the same samples tries them again")


@app.command(epilog="Example: sparing cache info photos.lance --json")
def info(cache: CacheArgument, as_json: JsonOption = False) -> None:
    """Show what a cache holds."""
    from sparing.cache import Cache

    _tell(Cache.open(cache), as_json)


@app.command(epilog="Example: sparing cache history photos.lance")
def history(cache: CacheArgument, as_json: JsonOption = False) -> None:
    """List every change that was committed, oldest first."""
    from sparing.cache import Cache

    opened = Cache.open(cache)
    kept = set(opened.versions())
    entries = [{**entry, "restorable": entry["version"] in kept} for entry in opened.metadata.history]
    if as_json:
        print_json({"history": entries})
        return
    for entry in entries:
        say(
            f"{entry['time']}  version {entry['version']:>3}{' ' if entry['restorable'] else '-'} "
            f"round {entry['round']:>3}  {entry['op']:<9} {_detail(entry)}"
        )
    if not all(entry["restorable"] for entry in entries):
        hint("versions marked - were dropped by compaction")


@app.command(epilog="Example: sparing cache get photos.lance img-00017")
def get(cache: CacheArgument, ids: IdArgument, as_json: JsonOption = False) -> None:
    """Look rows up by id."""
    from sparing.cache import Cache
    from sparing.errors import InputError

    opened = Cache.open(cache)
    wanted = _typed(opened, ids)
    rows = opened.get(wanted)
    models, classes = opened.metadata.models, opened.metadata.classes
    found = []
    for i, name in enumerate(rows.ids.to_pylist()):
        top = int(rows.answers[i])
        given = rows.imputations if rows.imputed[i] else None
        found.append(
            {
                "id": name,
                "class": top,
                "class_name": None if classes is None else classes[top],
                "probability": float(rows.probs[i, top] if given is None else given.probabilities[i]),
                "source": "run" if given is None else f"imputed in round {given.rounds[i]}",
                "label": None if rows.labels[i] < 0 else int(rows.labels[i]),
                "model": models[rows.models[i]].name,
                "round": int(rows.rounds[i]),
                "score": float(rows.scores[i]),
                "probs": [float(p) for p in rows.probs[i]],
            }
        )
    known = {row["id"] for row in found}
    missing = [one for one in dict.fromkeys(wanted) if one not in known]
    shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
    error = InputError(f"{len(missing)} of the ids are not in the cache: {shown}") if missing else None
    if as_json:
        print_json({"rows": found} if error is None else {"rows": found, **as_dict(error)})
        raise typer.Exit(0 if error is None else 1)
    for row in found:
        label = "" if row["label"] is None else f", label {row['label']}"
        name = row["class"] if row["class_name"] is None else f"{row['class']} ({row['class_name']})"
        say(
            cell(
                f"{row['id']}: class {name} with p = {row['probability']:.4f}{label}; "
                f"{row['model']}, round {row['round']}"
                + (f"; {row['source']}" if row["source"] != "run" else "")
            )
        )
    if error is not None:
        raise error


@app.command(epilog="Example: sparing cache append photos.lance --from new-photos.parquet --model resnet20")
def append(
    cache: CacheArgument,
    model: Annotated[
        str,
        typer.Option("--model", help="With --from, the name of the model; with --samples, NAME=SPEC to run."),
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="Parquet table: id, probs, optionally label.")
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option("--samples", help="Samples to run the model on; those in the cache are skipped."),
    ] = None,
    classes: ClassesOption = None,
    column: ColumnOption = None,
    digest: Annotated[str | None, typer.Option("--digest", help="With --from: what the model is.")] = None,
    cost: CostOption = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    max_failures: MaxFailuresOption = None,
    failures: FailuresOption = None,
    no_compact: NoCompactOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add new samples, with outputs computed elsewhere or by running a model."""
    from sparing.cache import Cache, ModelInfo
    from sparing.data.tables import iter_outputs
    from sparing.errors import InputError
    from sparing.refresh import append_samples

    failed = FailedRows(failures)
    if source is not None and classes is not None:
        raise InputError(
            "--classes goes with --samples: outputs computed elsewhere are over the cache's classes"
        )
    if (source is None) == (samples is None):
        raise InputError("give either --from, with outputs, or --samples, to run the model on")
    if source is not None:
        with Cache.open(cache).lock():
            opened = Cache.open(cache)
            index = opened.metadata.model_index(model)
            known = None if index is None else opened.metadata.models[index].digest
            what = ModelInfo(model, digest or known or f"name:{model}")
            added = opened.append(((p.ids, p.probs, p.labels) for p in iter_outputs(source)), what)
    else:
        loaded = load_models([model], cost, batch_size, threads, provider)[0]
        if classes is not None:
            loaded = replace(loaded, classes=tuple(read_class_names(classes)))
        with progress("appending") as on_progress:
            added = append_samples(
                cache,
                loaded,
                open_given_samples(samples, column),
                max_failures=max_failures,
                on_progress=on_progress,
                on_failures=failed,
            )
    _changed(f"added {added:,} rows", {"added": added}, compact_after(cache, no_compact), as_json)
    failed.finish("they were not added; the same command tries them again")


@app.command(epilog="Example: sparing cache delete photos.lance img-00017 img-00018")
def delete(
    cache: CacheArgument, ids: IdArgument, no_compact: NoCompactOption = False, as_json: JsonOption = False
) -> None:
    """Remove samples by id."""
    from sparing.cache import Cache

    with Cache.open(cache).lock():
        opened = Cache.open(cache)
        removed = opened.delete(_typed(opened, ids))
    _changed(f"removed {removed:,} rows", {"removed": removed}, compact_after(cache, no_compact), as_json)


@app.command(epilog="Example: sparing cache export photos.lance --out photos.parquet")
def export(
    cache: CacheArgument,
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    version: Annotated[
        int | None, typer.Option("--version", help="An older version, from the history.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="run", help="run: leave out rows whose answer is predicted."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write all rows, sorted by id, as a Parquet table."""
    from sparing.cache import Cache
    from sparing.cache import export as write
    from sparing.errors import InputError

    if only not in (None, "run"):
        raise InputError(f"--only {only!r}: the only choice is run, which leaves out what is predicted")
    rows = write(Cache.open(cache, version), out, only="run" if only else None)
    _done(f"wrote {rows:,} rows to {out}", {"rows": rows, "out": str(out)}, as_json)


@app.command(epilog="Example: sparing cache rollback photos.lance --round 0")
def rollback(
    cache: CacheArgument,
    round_: Annotated[int, typer.Option("--round", min=0, help="The round to go back to.")],
    as_json: JsonOption = False,
) -> None:
    """Go back to how the cache stood after an earlier round, as a new version."""
    from sparing.cache import Cache

    with Cache.open(cache).lock():
        opened = Cache.open(cache)
        before = len(opened)
        opened.rollback(round_)
    rows = len(opened)
    changed = "" if rows == before else f" (it was {before:,}: appending and deleting since is undone, too)"
    result = {"round": round_, "version": opened.version, "rows": rows, "rows_before": before}
    _done(f"the cache is at round {round_} again, with {rows:,} rows{changed}", result, as_json)


@app.command(epilog="Example: sparing cache discard photos.lance")
def discard(cache: CacheArgument, as_json: JsonOption = False) -> None:
    """Drop what an interrupted refresh has staged; the rows stay as they are."""
    from sparing.cache import Cache
    from sparing.refresh.staging import Staging

    with Cache.open(cache).lock():
        opened = Cache.open(cache)
        unfinished = opened.unfinished_round()
        Staging(opened.staged_round).clear()
    what = "nothing was staged" if unfinished is None else f"dropped: {unfinished['what']}"
    _done(what, {"discarded": unfinished is not None}, as_json)


@app.command(epilog="Example: sparing cache classes photos.lance --names classes.txt")
def classes(
    cache: CacheArgument,
    names: Annotated[
        Path | None,
        typer.Option("--names", help="A text file with one class name per line; further ones are added."),
    ] = None,
    rename: RenameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the classes of a cache, or show their names and which of them each model knows."""
    from sparing.cache import Cache
    from sparing.errors import InputError
    from sparing.outputs.classes import joined_names, renamed

    opened = Cache.open(cache)
    given = given_renames(rename)
    if names is not None or given:
        with opened.lock():
            opened = Cache.open(cache)
            before = opened.metadata.classes
            if given and before is None and names is None:
                raise InputError("the classes have no names yet: give them with --names")
            wanted = list(before or []) if names is None else read_class_names(names)
            if before is not None:
                joined_names(before, [wanted], given)  # refuses names that nothing has
                head = renamed(before, given, "the cache")
                wanted = [*head, *(name for name in renamed(wanted, given, "--names") if name not in head)]
            if before != tuple(wanted):
                opened.name_classes(wanted, given)
    metadata = opened.metadata
    models = [
        {"name": info.name, "classes": None if info.classes is None else list(info.classes)}
        for info in metadata.models
    ]
    if as_json:
        print_json({"classes": metadata.classes, "n_classes": metadata.n_classes, "models": models})
        return
    say(f"{metadata.n_classes:,} classes" + (" without names" if metadata.classes is None else ":"))
    for name in metadata.classes or ():
        say(f"  {cell(name)}")
    for info in metadata.models:
        if info.classes is not None:
            say(f"{cell(info.name)} knows {len(info.classes):,} of them")


@app.command(epilog="Example: sparing cache convert photos.lance --encoding top8-int4")
def convert(
    cache: CacheArgument,
    encoding: Annotated[str, typer.Option("--encoding", help="As for `import`.")],
    as_json: JsonOption = False,
) -> None:
    """Store all distributions in another encoding; rolling back brings the old ones back."""
    from sparing.cache import Cache

    with Cache.open(cache).lock():
        opened = Cache.open(cache)
        before = opened.row_bytes()
        opened.convert(encoding)
    after = opened.row_bytes()
    _done(
        f"{before['row']:.1f} bytes per row before, {after['row']:.1f} now; "
        "the old ones go at the next compaction that drops their version",
        {"encoding": encoding, "row_bytes_before": before, "row_bytes": after},
        as_json,
    )


@app.command(epilog="Example: sparing cache compact photos.lance --keep-rounds 2")
def compact(
    cache: CacheArgument,
    keep_rounds: Annotated[
        int, typer.Option("--keep-rounds", min=0, help="How many rounds before this one stay restorable.")
    ] = 2,
    as_json: JsonOption = False,
) -> None:
    """Rewrite the rows into few files, and drop versions that rollback no longer needs."""
    from sparing.cache import Cache

    with Cache.open(cache).lock():
        sizes = Cache.open(cache).compact(keep_rounds)
    _done(f"{sizes['bytes_before']:,} bytes before, {sizes['bytes_after']:,} now", dict(sizes), as_json)


@app.command(epilog="Example: sparing cache fingerprint photos.lance --samples images.parquet --of etag")
def fingerprint(
    cache: CacheArgument,
    samples: Annotated[str, typer.Option("--samples", help="A Parquet table, a Lance dataset or a folder.")],
    of: Annotated[
        str,
        typer.Option(
            "--of",
            metavar="COLUMN|value",
            help="A column of the samples that changes with them, or their value itself.",
        ),
    ],
    column: ColumnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep fingerprints in a cache that has none: the samples are taken for those it was computed from."""
    from sparing.cache import Cache
    from sparing.data.fingerprints import Fingerprints
    from sparing.data.samples import open_samples

    values = open_samples(samples, column=column)
    with Cache.open(cache).lock():
        opened = Cache.open(cache)
        opened.add_fingerprints(of, Fingerprints(values, of).of)
    _done(f"a refresh will find the samples whose {of} has changed", {"fingerprint": of}, as_json)


@app.command(epilog="Example: sparing cache check photos.lance")
def check(
    cache: CacheArgument,
    write: Annotated[
        bool, typer.Option("--write", help="Note checksums of files that have none, as they are now.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every file of a cache with its checksum; exit 1 if one is damaged or missing."""
    from dataclasses import asdict

    from sparing.cache import Cache
    from sparing.cache import check as run_check
    from sparing.cache.checking import write_missing

    found = run_check(cache)
    written = 0
    if write and not found.problems:
        with Cache.open(cache).lock():
            written = write_missing(cache)
            found = run_check(cache)
    whole = [version.number for version in found.versions if not version.problems]
    if as_json:
        print_json({**asdict(found), "whole_versions": whole, "last_whole": found.last_whole})
    else:
        say(f"read {found.checked:,} files, {found.bytes:,} bytes, of {len(found.versions):,} versions")
        for name, text in found.problems.items():
            say(f"  damaged: {name} {text}")
        if written:
            say(f"  noted the checksums of {written:,} files")
        if found.unreadable:
            say(f"  {found.unreadable:,} lines of the list of checksums are damaged, or were cut short")
        if found.unlisted:
            say(f"  {len(found.unlisted):,} files have no checksum: give --write to note them")
        say(f"  whole: {len(whole):,} of {len(found.versions):,} versions, the newest {found.last_whole}")
    if found.problems:
        hint(f"`sparing cache repair {cache}` goes back to the last whole version")
        raise typer.Exit(1)


@app.command(epilog="Example: sparing cache repair photos.lance")
def repair(cache: CacheArgument, as_json: JsonOption = False) -> None:
    """Go back to the last whole version of a damaged cache; what is damaged is moved aside, not deleted."""
    from sparing.cache import Cache
    from sparing.cache import repair as run_repair
    from sparing.cache.checking import locked

    with locked(cache):
        found, version, moved = run_repair(cache)
    lost = [each.number for each in found.versions if each.problems]
    opened = Cache.open(cache)
    result = {
        "version": version,
        "round": opened.metadata.round,
        "lost_versions": lost,
        "problems": found.problems,
        "moved": [str(path) for path in moved],
    }
    if not found.problems:
        _done(f"nothing is damaged: version {version}, round {opened.metadata.round}", result, as_json)
        return
    what = f"the newest version is now {version}, of round {opened.metadata.round}"
    gone = f"; gone with their rounds are versions {', '.join(map(str, lost))}" if lost else ""
    _done(f"{what}{gone}", result, as_json)
    hint(f"what was damaged lies in {cache / '_sparing' / 'damaged'}")


def _tell(cache: Any, as_json: bool) -> None:
    from sparing.cache.summary import summarise

    summary = summarise(cache)
    if as_json:
        print_json(summary)
        return
    what = summary["kind"] if summary["classes"] is None else f"{summary['classes']} classes"
    say(f"{summary['path']}: {summary['rows']:,} rows, {what}, {summary['encoding']}")
    say(f"  round {summary['round']}, version {summary['version']}, ids are {summary['id_type']}")
    for model in summary["models"]:
        cost = "" if model["cost"] is None else f", {model['cost']:.6g} {model['unit']} per forward"
        say(f"  {model['name']}: {model['rows']:,} rows{cost}")
    say(f"  {summary['bytes']:,} bytes on disk, {summary['versions']} versions")
    row = summary["row_bytes"]
    nominal = "" if row["nominal"] is None else f"{row['nominal']:g} bytes of distribution by its encoding, "
    say(f"  per row: {nominal}{row['probs']:.2f} on disk, {row['row']:.2f} with id and state")
    if summary["imputed"]:
        say(f"  {summary['imputed']:,} rows answer what is predicted, not what a model said")
    if summary["accuracy"] is not None:
        say(f"  accuracy {share(summary['accuracy'])} over {summary['labelled']:,} labelled rows")
    if summary["unfinished"]:
        hint(f"an unfinished round is staged: {summary['unfinished']}")


def _detail(entry: dict[str, Any]) -> str:
    if entry["op"] == "refresh":
        report = entry["report"]
        found = report.get("imputation") or {}
        more = f"; {found['rows']:,} more are predicted" if found.get("stored") else ""
        return f"{report['refreshed']:,} rows: {entry['what']}{more}"
    if entry["op"] == "convert":
        return f"from {entry['from']} to {entry['to']}"
    if entry["op"] == "classes":
        return f"{entry['from']:,} classes before, {entry['to']:,} after"
    if entry["op"] == "rollback":
        return f"from round {entry['from_round']}"
    if "rows" in entry:
        return f"{entry['rows']:,} rows" + (f" of {entry['model']}" if "model" in entry else "")
    return ""


def _changed(text: str, result: dict[str, Any], compacted: dict[str, Any] | None, as_json: bool) -> None:
    if compacted is not None:
        text += f"; {told_compaction(compacted)}"
    _done(text, {**result, "compacted": compacted}, as_json)


def _done(text: str, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(text)


def _typed(cache: Any, ids: list[str]) -> list[Any]:
    """Read ids from the command line as the type that the cache has."""
    import numpy as np
    import pyarrow as pa

    from sparing.errors import InputError

    if not pa.types.is_integer(cache.id_type):
        return list(ids)
    try:
        return [int(np.int64(int(text))) for text in ids]
    except (ValueError, OverflowError) as error:
        raise InputError(f"this cache has 64-bit whole numbers as ids: {error}") from None


def _classes(path: Path | None) -> list[str] | None:
    return None if path is None else read_class_names(path)
