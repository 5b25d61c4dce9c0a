"""`sparing route`: pick one expert per input, at the latency you can afford."""

import typer

app = typer.Typer(help="Pick one expert per input, at the latency you can afford.", no_args_is_help=True)
