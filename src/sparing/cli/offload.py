"""`sparing offload`: send the evidence that is worth a thin uplink."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparing.cli.options import ColumnOption
from sparing.cli.output import JsonOption, hint, print_json
from sparing.cli.terminal import cell, console

if TYPE_CHECKING:
    from sparing.data.samples import Samples
    from sparing.offload import Bench, Gate, Policy, ServerModel

ALL = (
    "all: raw patches by every policy at 8 and 4 bits, mosaics of an eighth to seven eighths of the patches, "
    "and the whole image in every codec, also down-scaled (docs/offload.md)"
)

app = typer.Typer(help="Send the evidence that is worth a thin uplink.", no_args_is_help=True)

EdgeOption = Annotated[
    str,
    typer.Option(
        "--edge", metavar="TARGET", help="The edge model: path/to/file.py:name or package.module:name."
    ),
]
ServerModelOption = Annotated[
    str, typer.Option("--server-model", metavar="TARGET", help="The server's model, run here.")
]
SamplesOption = Annotated[
    str, typer.Option("--samples", metavar="PATH", help="A Parquet table, a Lance dataset or a folder.")
]
BudgetsOption = Annotated[
    str, typer.Option("--budgets", help="Hard caps, separated by commas: 256B,512B,1KB (KB is 1,000).")
]
MeasureOption = Annotated[
    str | None,
    typer.Option("--gate", help="How uncertainty is measured: min-entropy (default), entropy or margin."),
]
ThresholdOption = Annotated[
    float | None, typer.Option("--threshold", help="Offload from this uncertainty on; 1.0 by default.")
]
ShareOption = Annotated[
    float | None,
    typer.Option("--share", help="Instead, offload this share of all, the most uncertain."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Use the first N samples only.")]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help="A file that holds the bearer token, and nothing else.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the random policy.")]


@app.command(
    epilog="Example: sparing offload serve --model examples/offload/server.py:vit --port 8081 --token-file t"
)
def serve(
    model: Annotated[
        str,
        typer.Option("--model", metavar="TARGET", help="path/to/file.py:name or package.module:name."),
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8081,
    host: Annotated[str, typer.Option("--host", help="Other than loopback only with a token.")] = "127.0.0.1",
    token_file: TokenOption = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Requests per batch.")] = 32,
    max_wait: Annotated[
        float, typer.Option("--max-wait", min=0, max=10, help="Seconds that a request waits for company.")
    ] = 0.005,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Requests that may wait; more are answered 503.")
    ] = 256,
    batch_seconds: Annotated[
        float,
        typer.Option(
            "--batch-seconds",
            min=0.01,
            help="How long a batch may take; the process of the model is then started again.",
        ),
    ] = 30.0,
) -> None:
    """Answer payloads over HTTP until SIGTERM, then finish what was accepted."""
    from functools import partial

    from sparing.offload import ServerModel
    from sparing.offload.server import RemoteModel, make_server
    from sparing.serving.app import read_token
    from sparing.serving.app import serve as run

    token = None if token_file is None else read_token(token_file)
    loaded = RemoteModel(partial(_load, model, ServerModel), batch_seconds=batch_seconds)
    service = make_server(
        loaded,
        token=token,
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
        batch_seconds=batch_seconds,
    )
    said = f"serving {model} on http://{host}:{port}; stop with Ctrl-C"
    run(service, host=host, port=port, token=token, ready=lambda: hint(said))


@app.command(
    epilog="Example: sparing offload send --edge examples/offload/edge.py:vit "
    "--server http://127.0.0.1:8081 --samples images.parquet --budget 2KB --out answers.parquet"
)
def send(
    edge: EdgeOption,
    server: Annotated[str, typer.Option("--server", metavar="URL", help="Where `offload serve` runs.")],
    samples: SamplesOption,
    budget: Annotated[
        str, typer.Option("--budget", help="Most bytes of a payload: 512B, 2KB, 2KiB, 4096bit.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The table of answers to write.")],
    policy: Annotated[Path | None, typer.Option("--policy", help="What `offload calibrate` wrote.")] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", help="Without a policy: what to send; whole:dct16 by default.")
    ] = None,
    measure: MeasureOption = None,
    threshold: ThresholdOption = None,
    share: ShareOption = None,
    token_file: TokenOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds until the edge's own answer stands.")
    ] = 2.0,
    tries: Annotated[int, typer.Option("--tries", min=1, max=20, help="HTTP requests per payload.")] = 3,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256)] = 8,
    column: ColumnOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer every sample: by the edge where it is sure or the server fails, else by the server."""
    import asyncio

    from sparing.data.samples import open_samples
    from sparing.data.tables import TableWriter
    from sparing.errors import InputError
    from sparing.offload import Choice, EdgeModel, Scheme, read_policy, summarise
    from sparing.offload.client import Client
    from sparing.offload.schemes import parse_budget
    from sparing.offload.session import answer_all, answers_table
    from sparing.offload.wire.agreement import check_agreement
    from sparing.serving.app import read_token

    if policy is not None and scheme is not None:
        raise InputError("--policy says what to send already; leave out --scheme")
    size = parse_budget(budget)
    known = None if policy is None else read_policy(policy)
    choice = known.at(size) if known else Choice(Scheme.parse(scheme or "whole:dct16"), size)
    if known is not None and size not in known.choices:
        found = f"using that of {choice.fill} bytes" if choice else "the edge answers everything"
        hint(f"{policy} has no choice for {size} bytes; {found}")
    gate = _gate(measure, threshold, share, known)
    token = None if token_file is None else read_token(token_file)
    model = _load(edge, EdgeModel)
    if known is not None and known.geometry != model.geometry:
        raise InputError(f"{policy} is for images of {known.geometry}, the edge model takes {model.geometry}")
    opened = open_samples(samples, column=column)

    async def run() -> list[Any]:
        answers: list[Any] = []
        async with Client(
            server, token=token, timeout=timeout, tries=tries, concurrency=concurrency, seed=seed
        ) as client:
            described, problem = await client.describe()
            if described is None:
                hint(f"{server}: {problem}; the edge answers until the server does")
            else:
                codec = choice.scheme.codec if choice else ""
                check_agreement(described, model.geometry, codec, model.classes())
            with TableWriter(out) as writer:
                async for batch in answer_all(opened, model, client, gate, choice, seed=seed):
                    ids = opened.ids[len(answers) : len(answers) + len(batch)]
                    writer.write(answers_table(ids, batch))
                    answers += batch
        return answers

    answers = asyncio.run(run())
    result = {
        "budget_bytes": size,
        "scheme": str(choice.scheme) if choice else None,
        "fill_bytes": choice.fill if choice else None,
        "edge_weight": choice.edge_weight if choice else None,
        **summarise(answers, opened.labels()),
        "out": str(out),
    }
    if as_json:
        print_json(result)
    else:
        _print_table(["", ""], [[key, _shown(value)] for key, value in result.items()])


@app.command(
    epilog="Example: sparing offload evaluate --edge examples/offload/edge.py:vit "
    "--server-model examples/offload/server.py:vit --samples images.parquet --budgets 256B,512B,1KB"
)
def evaluate(
    edge: EdgeOption,
    server_model: ServerModelOption,
    samples: SamplesOption,
    budgets: BudgetsOption,
    policies: Annotated[
        str, typer.Option("--policies", help=f"Schemes, separated by commas, or {ALL}.")
    ] = "all",
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Also what `offload calibrate` wrote.")
    ] = None,
    edge_weight: Annotated[
        float, typer.Option("--edge-weight", min=0, help="Weight of the edge's distribution in the answer.")
    ] = 0.0,
    measure: MeasureOption = None,
    threshold: ThresholdOption = None,
    share: ShareOption = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Simulate a link: bits per second.")] = None,
    latency: Annotated[float, typer.Option("--latency", min=0, help="Of the link, seconds each way.")] = 0.0,
    loss: Annotated[float, typer.Option("--loss", help="Of the link, share of packets lost.")] = 0.0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Of the link, seconds until the edge's own answer stands.")
    ] = float("inf"),
    limit: LimitOption = None,
    column: ColumnOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare schemes at several budgets, both models run here, every payload made and read."""
    from sparing.offload import Link, read_policy, score, try_scheme

    sizes = _budgets(budgets)
    known = None if policy is None else read_policy(policy)
    link = None
    if rate is not None or latency or loss:
        link = Link(float("inf") if rate is None else rate, latency, loss)
    gate = _gate(measure, threshold, share, known)
    bench, server = _bench(edge, server_model, samples, column=column, limit=limit, gate=gate)
    rows = []
    for scheme in _schemes(policies, bench):
        hint(f"trying {scheme}")
        trials = try_scheme(scheme, sizes, bench, server, seed=seed)
        rows += [score(trial, bench, edge_weight, link=link, timeout=timeout) for trial in trials]
    for size in sizes if known else []:
        choice = known.at(size) if known else None
        if choice is not None:
            trial = try_scheme(choice.scheme, [choice.fill], bench, server, seed=seed)[0]
            row = score(trial, bench, choice.edge_weight, link=link, timeout=timeout)
            rows.append({**row, "budget": size, "scheme": f"{policy} ({choice.scheme})"})
    rows.sort(key=lambda row: (row["budget"], -row["accuracy_offloaded"]))
    if as_json:
        print_json({**_described(bench), "rows": rows})
    else:
        _describe(bench)
        _print_rows(rows)


@app.command(
    epilog="Example: sparing offload calibrate --edge examples/offload/edge.py:vit "
    "--server-model examples/offload/server.py:vit --samples images.parquet --budgets 256B,512B,1KB "
    "--out policy.toml"
)
def calibrate(
    edge: EdgeOption,
    server_model: ServerModelOption,
    samples: SamplesOption,
    budgets: BudgetsOption,
    out: Annotated[Path, typer.Option("--out", help="The policy to write, for `offload send`.")],
    policies: Annotated[
        str, typer.Option("--policies", help=f"Schemes to choose from, separated by commas, or {ALL}.")
    ] = "all",
    mean: Annotated[
        str | None, typer.Option("--mean", help="Most bytes of a payload on average, at any budget.")
    ] = None,
    measure: MeasureOption = None,
    threshold: ThresholdOption = None,
    share: ShareOption = None,
    limit: LimitOption = None,
    column: ColumnOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Find what to send at each budget, on samples with labels (or by agreement with the server)."""
    from sparing.errors import InputError
    from sparing.offload import Policy, choose, try_scheme, write_policy
    from sparing.offload.schemes import parse_budget

    sizes = _budgets(budgets)
    most = None if mean is None else parse_budget(mean)
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder does not exist")
    gate = _gate(measure, threshold, share, None)
    bench, server = _bench(edge, server_model, samples, column=column, limit=limit, gate=gate)
    trials = []
    for scheme in _schemes(policies, bench):
        hint(f"trying {scheme}")
        fills = sizes if most is None else sorted({*sizes, most})
        trials += try_scheme(scheme, fills, bench, server, seed=seed)
    choices, scores = choose(trials, bench, sizes, mean=most)
    write_policy(out, Policy(choices, bench.geometry, gate, scores))
    rows = [
        {"scheme": None, "edge_weight": None, **scores[size], "budget": size, "fill": choice and choice.fill}
        for size, choice in choices.items()
    ]
    if as_json:
        print_json({**_described(bench), "rows": rows, "out": str(out)})
    else:
        _describe(bench)
        _print_rows(rows)


def _load(target: str, kind: "type[Any]") -> Any:
    from sparing.errors import InputError
    from sparing.models.load import load_callable

    loaded = load_callable(target)
    if not isinstance(loaded, kind):
        raise InputError(
            f"{target!r} is of type {type(loaded).__name__}; expected a sparing.offload.{kind.__name__}, "
            "see examples/offload"
        )
    return loaded


def _gate(
    measure: str | None, threshold: float | None, share: float | None, known: "Policy | None"
) -> "Gate":
    from sparing.offload import Gate

    if known is not None and measure is None and threshold is None and share is None:
        return known.gate
    return Gate(
        measure or "min-entropy",  # type: ignore[arg-type]  # checked by Gate
        1.0 if threshold is None else threshold,
        share,
    )


def _budgets(text: str) -> list[int]:
    from sparing.offload.schemes import parse_budget

    return sorted({parse_budget(part) for part in text.split(",")})


def _schemes(text: str, bench: "Bench") -> list[Any]:
    from sparing.offload import Scheme, candidate_schemes

    if text == "all":
        return candidate_schemes(bench.geometry)
    return [Scheme.parse(part) for part in text.split(",")]


def _bench(
    edge: str, server: str, path: str, *, column: str | None, limit: int | None, gate: "Gate"
) -> "tuple[Bench, ServerModel]":
    from sparing.data.samples import open_samples
    from sparing.offload import Bench, EdgeModel, ServerModel
    from sparing.offload.images import read_images

    edge_model: EdgeModel = _load(edge, EdgeModel)
    server_model: ServerModel = _load(server, ServerModel)
    samples: Samples = open_samples(path, column=column)
    count = min(len(samples), limit or len(samples))
    pixels = read_images(samples, range(count), edge_model.geometry)
    labels = samples.labels()
    if labels is not None and (labels[:count] < 0).any():
        hint("some samples have no label: measuring agreement with the server instead of accuracy")
        labels = None
    bench = Bench.make(pixels, None if labels is None else labels[:count], edge_model, server_model, gate)
    return bench, server_model


def _described(bench: "Bench") -> dict[str, Any]:
    edge_right = float((bench.seen.probs.argmax(axis=1) == bench.labels).mean())
    return {
        "requests": bench.requests,
        "offloaded": len(bench.labels),
        "measured": "accuracy" if bench.labelled else "agreement with the server",
        "edge_accuracy_offloaded": edge_right,
        "server_accuracy_offloaded": bench.ceiling,
    }


def _describe(bench: "Bench") -> None:
    said = _described(bench)
    hint(
        f"{said['offloaded']} of {said['requests']} offloaded; on these the edge alone has "
        f"{said['edge_accuracy_offloaded']:.1%} {said['measured']}, the server {bench.ceiling:.1%}"
    )


_HEADINGS = {
    "budget": "cap",
    "scheme": "scheme",
    "fill": "fill",
    "edge_weight": "weight",
    "accuracy_offloaded": "offl.%",
    "accuracy": "all%",
    "share_of_ceiling": "ceil.%",
    "mean_bytes": "mean",
    "max_bytes": "max",
    "unsent": "unsent",
    "link_seconds": "link s",
    "link_seconds_p95": "p95 s",
    "late": "late",
}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    names = [name for name in _HEADINGS if any(name in row for row in rows)]
    cells = [[_cell(name, row.get(name)) for name in names] for row in rows]
    _print_table([_HEADINGS[name] for name in names], cells)
    hint("sizes in bytes; accuracy on offloaded and on all requests; share of the server's ceiling")


def _cell(name: str, value: Any) -> str:
    if value is not None and _HEADINGS[name].endswith("%"):
        return f"{100 * value:.1f}"
    if name == "mean_bytes":
        return f"{value:.0f}"
    return f"{value:.2f}" if name.startswith("link") else _shown(value)


def _print_table(names: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(show_header=any(names), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=any(names))
    for row in rows:
        table.add_row(*map(cell, row))
    # A pipe has no width to keep to.
    console(None if sys.stdout.isatty() else 160).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    return "-" if value is None else str(value)
