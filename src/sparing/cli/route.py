"""`sparing route`: pick one expert per input, at the latency you can afford."""

import typer

from sparing.cli import route_decide, route_profile, route_run, route_train

app = typer.Typer(help="Pick one expert per input, at the latency you can afford.", no_args_is_help=True)
for verbs in (route_profile, route_train, route_decide, route_run):  # in the order that they are used
    app.add_typer(verbs.app)
