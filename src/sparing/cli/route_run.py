"""`sparing route run` and `sparing route serve`: answer samples, each by the expert that a router picks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparing.cli.options import ColumnOption
from sparing.cli.output import JsonOption, hint, print_json, progress, say, share
from sparing.cli.route_budget import budget_cost
from sparing.cli.terminal import cell, console

app = typer.Typer()

RouterArgument = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="What `route train` made.", show_default=False)
]
BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", help="A budget as it was calibrated, such as 5ms; the last one by default."),
]


@app.command(epilog="Example: sparing route run router/ --samples new.parquet --out answers.parquet")
def run(
    router: RouterArgument,
    samples: Annotated[
        str, typer.Option("--samples", metavar="PATH", help="A Parquet table, a Lance dataset or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The table of answers to write.")],
    budget: BudgetOption = None,
    column: ColumnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer every sample by the expert that the router picks; the table appears whole or not at all."""
    from sparing.data.samples import open_samples
    from sparing.errors import InputError
    from sparing.route.router import open_router
    from sparing.route.running import run as answer_all

    if out.exists() and Path(samples).exists() and out.samefile(samples):
        raise InputError(f"{out}: --out would replace the samples; choose another name")
    with progress("answering") as show:
        opened = open_router(router)
        point = opened.point(budget)
        table = open_samples(samples, column=column)
        account = answer_all(table, opened, out, point=point, progress=show)
    result = {**account.summary(), "out": str(out)}
    if as_json:
        print_json(result)
    else:
        _print_account(result)


@app.command(epilog="Example: sparing route serve router/ --port 8080 --token-file token")
def serve(
    router: RouterArgument,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    host: Annotated[str, typer.Option("--host", help="Other than loopback only with a token.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="A file that holds the bearer token, and nothing else."),
    ] = None,
    budget: BudgetOption = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Requests per batch.")] = 32,
    max_wait: Annotated[
        float,
        typer.Option(
            "--max-wait",
            min=0,
            max=10,
            help="Seconds that a request waits for company; with 0 only while another batch runs.",
        ),
    ] = 0.0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Requests that may wait; more are answered 503.")
    ] = 256,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="Most bytes of a body; more are answered 413.")
    ] = 4_000_000,
    batch_seconds: Annotated[
        float,
        typer.Option(
            "--batch-seconds",
            min=0.01,
            help="How long a batch may take; the process of the models is then started again.",
        ),
    ] = 30.0,
    max_pixels: Annotated[
        int,
        typer.Option("--max-pixels", min=1, help="Most pixels of an image; more are answered 400."),
    ] = 1 << 24,
    preload: Annotated[
        bool,
        typer.Option(
            "--preload/--no-preload",
            help="Load and try every expert first, or each when it is first needed.",
        ),
    ] = True,
) -> None:
    """Answer samples over HTTP until SIGTERM, then finish what was accepted."""
    from sparing.route.router import open_router
    from sparing.route.service import Service
    from sparing.serving.app import Limits, read_token
    from sparing.serving.app import serve as listen

    token = None if token_file is None else read_token(token_file)
    opened = open_router(router)
    service = Service(
        opened,
        opened.point(budget),
        token=token,
        limits=Limits(body_bytes=max_body),
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
        batch_seconds=batch_seconds,
        process=True,
        max_pixels=max_pixels,
        preload=preload,
    )
    said = f"serving {router} on http://{host}:{port}; stop with Ctrl-C"
    listen(service.app, host=host, port=port, token=token, ready=lambda: hint(said))
    counts = ", ".join(f"{name} {number}" for name, number in service.answered.items())
    hint(f"answered {sum(service.answered.values())} requests: {counts}")


def _print_account(result: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("expert", "samples", "share", "seconds", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name, spent in result["experts"].items():
        table.add_row(cell(name), str(spent["samples"]), share(spent["share"]), f"{spent['seconds']:.3f}")
    console().print(table)
    say(
        f"{result['samples']} samples in {result['seconds']:.2f} s, of which the router took "
        f"{result['router_seconds']:.3f} s and decoding {result['decoding_seconds']:.3f} s"
    )
    say(f"decoding, router and expert: {1000 * result['latency_mean']:.3f} ms per sample on average")
    budget = result["budget"]
    if budget is not None:
        told = [budget_cost(result[name], result["unit"]) for name in ("expected_cost", "implied_cost")]
        say(f"budget {budget}: calibrated for {told[0]}, these shares imply {told[1]}")
    say(f"wrote {result['out']}")
