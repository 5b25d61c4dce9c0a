"""`sparing route train`."""

from pathlib import Path
from typing import Annotated

import typer

from sparing.cli.options import ColumnOption
from sparing.cli.output import JsonOption, hint, print_json, say

app = typer.Typer()


@app.command(
    epilog="Example: sparing route train experts/ --samples train.parquet --corrupt blur,noise --out router/"
)
def train(
    experts: Annotated[Path, typer.Argument(help="What `route profile` wrote.")],
    samples: Annotated[
        str,
        typer.Option(
            "--samples", metavar="PATH", help="Labelled samples that the experts were not trained on."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The router's folder; an unfinished one is resumed.")],
    trade_off: Annotated[
        float | None,
        typer.Option(
            "--trade-off",
            min=0,
            max=1,
            help="Train for this one trade-off between latency (0) and accuracy (1), as in the paper. "
            "Without it, one router is trained for every budget.",
        ),
    ] = None,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Train the paper's heuristic: predict the cheapest's entropy.")
    ] = False,
    corrupt: Annotated[
        str | None, typer.Option("--corrupt", help="Train on corrupted images too: blur, noise or both.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, max=10000)] = 10,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of Adam.")] = 1e-4,
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the router's input, in pixels.")] = 96,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", metavar="TARGET", help="path/to/file.py:name, which makes a torch module."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Published weights of SqueezeNet 1.1 to start from.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    device: Annotated[str, typer.Option("--device", help="Where torch trains, such as cpu or cuda.")] = "cpu",
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Multiply in bfloat16: faster where the processor has it.")
    ] = False,
    column: ColumnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn which expert each sample needs, from what the experts answered."""
    import sys
    from contextlib import redirect_stdout

    from sparing.data.samples import open_samples
    from sparing.errors import InputError
    from sparing.images import variants
    from sparing.models import load_callable
    from sparing.route.fitting import Settings
    from sparing.route.training import train as run

    if trade_off is not None and entropy:
        raise InputError("--entropy trains another objective than --trade-off; leave one out")
    settings = Settings(
        objective="entropy" if entropy else "benefit" if trade_off is None else "trade-off",
        trade_off=trade_off,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        precision="bfloat16" if bfloat16 else "float32",
    )

    with redirect_stdout(sys.stderr):  # what experts and backbones print must not get between the JSON
        router = run(
            experts,
            open_samples(samples, column=column),
            out,
            settings=settings,
            variants=variants(corrupt),
            size=size,
            backbone=None if backbone is None else load_callable(backbone),
            weights=weights,
            progress=lambda stage, done, loss: (
                hint(f"epoch {done} of {epochs}: loss {loss:.4f}") if stage == "train" else None
            ),
        )
    training = router.description.training
    if as_json:
        print_json({"router": str(out), **training, "milliseconds": router.description.single.median * 1e3})
        return
    say(f"{out}: loss {training['losses'][0]:.4f} -> {training['losses'][-1]:.4f} in {epochs} epochs")
    say(f"one decision takes {router.description.single.median * 1e3:.2f} ms")
    if settings.objective != "trade-off":
        hint(f"next: sparing route calibrate {out} {experts} --samples val.parquet --latency 5ms")
