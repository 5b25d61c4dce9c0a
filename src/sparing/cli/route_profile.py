"""`sparing route profile`: what experts answer, and how long they take on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparing.cli.options import ColumnOption
from sparing.cli.output import JsonOption, hint, print_json, progress, say, share
from sparing.cli.terminal import cell, console

if TYPE_CHECKING:
    from sparing.route.profiling import Profile

app = typer.Typer()

ExpertsOption = Annotated[
    list[str],
    typer.Option(
        "--expert",
        metavar="NAME=SPEC",
        help="An expert: file.onnx, package.module:function or path/to/file.py:function. Repeat, for at "
        "least two.",
        show_default=False,
    ),
]


@app.command(
    epilog="Example: sparing route profile --expert small=a.onnx --expert large=b.onnx "
    "--samples train.parquet --out experts"
)
def profile(
    expert: ExpertsOption,
    samples: Annotated[
        str, typer.Option("--samples", metavar="PATH", help="A Parquet table, a Lance dataset or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder; one of the same experts is resumed.")],
    corrupt: Annotated[
        str | None,
        typer.Option("--corrupt", help="Also on corrupted images, each severity of: blur,noise."),
    ] = None,
    column: ColumnOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples per batch.")] = 32,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            "--cost",
            metavar="NAME=COST",
            help="What one sample costs: a number of units, or a time such as 5ms. For all experts or none.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run experts on samples once, keep what they answer, and measure how long they take.

    Killed, the same command resumes where it was. Outputs are kept by what a sample holds, so that more
    tables can share one folder.
    """
    from sparing.cli.options import stated_costs
    from sparing.data.samples import open_samples
    from sparing.errors import InputError
    from sparing.images import variants
    from sparing.route.profiling import profile as run_profile

    targets: dict[str, str] = {}
    for spec in expert:
        name, equals, target = (part.strip() for part in spec.partition("="))
        if not (name and equals and target):
            raise InputError(f"--expert {spec!r}: write NAME=SPEC, for example small=a.onnx")
        if name in targets:
            raise InputError(f"two experts are called {name!r}; name them apart")
        targets[name] = target
    chosen = variants(corrupt)
    opened = open_samples(samples, column=column)
    with progress("profiling") as on_progress:
        made = run_profile(
            targets,
            opened,
            out,
            variants=chosen,
            costs=stated_costs(cost),
            batch_size=batch_size,
            progress=on_progress,
        )
        accuracies = {variant.severity: made.accuracy(opened, variant) for variant in chosen}
    accuracy = {key: value.tolist() for key, value in accuracies.items() if value is not None}
    if as_json:
        print_json(_as_json(made, len(opened), [variant.name for variant in chosen], accuracy))
    else:
        _tell(made, len(opened), accuracy)
    hint(f"next: sparing route train {out} --samples {samples} --out router")


def _as_json(
    made: "Profile", rows: int, variants: list[str], accuracy: dict[str, list[float]]
) -> dict[str, Any]:
    decoding = made.decoding
    return {
        "profile": str(made.path),
        "machine": made.machine,
        "samples": rows,
        "variants": variants,
        "classes": made.classes,
        "decoding": None if decoding is None else {"median": decoding.median, "p95": decoding.p95},
        "experts": [
            {
                **asdict(expert),
                "accuracy": {severity: values[i] for severity, values in accuracy.items()} or None,
            }
            for i, expert in enumerate(made.experts)
        ],
    }


def _tell(made: "Profile", rows: int, accuracy: dict[str, list[float]]) -> None:
    from rich.table import Table

    from sparing.route.outputs import short

    stated = made.experts[0].cost is not None
    batch = "/".join(sorted({str(expert.batched.batch_size) for expert in made.experts}))
    table = Table(box=None, pad_edge=False)
    table.add_column("expert")
    table.add_column("digest")
    for title in ("one: median ms", "P95 ms", f"by {batch}: ms each"):
        table.add_column(title, justify="right")
    if stated:
        table.add_column(made.experts[0].unit, justify="right")
    for severity in accuracy:
        table.add_column(severity if len(accuracy) > 1 else "accuracy", justify="right")
    for i, expert in enumerate(made.experts):
        times = (expert.single.median, expert.single.p95, expert.batched.per_sample)
        cells = [cell(expert.name), short(expert.digest), *(f"{1000 * value:.2f}" for value in times)]
        cells += [f"{expert.cost:g}"] if stated else []
        table.add_row(*cells, *(share(values[i]) for values in accuracy.values()))
    say(f"{rows:,} samples, measured on {made.machine}")
    console(max(110, console().width)).print(table)
    if made.decoding is not None:
        say(
            f"decoding an image, once for router and expert: {1000 * made.decoding.median:.2f} ms "
            f"(P95 {1000 * made.decoding.p95:.2f})"
        )
