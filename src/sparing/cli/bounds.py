"""`sparing bounds`: what no adaptive policy over a set of models can beat."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparing.cli.output import JsonOption, hint, print_json
from sparing.cli.terminal import cell

if TYPE_CHECKING:
    from sparing.bounds import Analysis, Outcomes


EPILOG = "Example: sparing bounds examples/efficientnet.csv --select 3 --html bounds.html"


class Envelope(StrEnum):
    """Which states the approximate bounds use."""

    pareto = "pareto"
    hull = "hull"
    all = "all"


class Missing(StrEnum):
    """What to do where a model has no outcome for a sample."""

    error = "error"
    rows = "rows"
    models = "models"
    wrong = "wrong"


def bounds(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="States (columns name, cost, accuracy), outcomes (id and a column per model, with a label "
            "column if these are predictions), or one output table (id, probs, label) per model."
        ),
    ],
    costs: Annotated[
        Path | None,
        typer.Option(
            help="For outcomes: TOML with a table \\[costs] of 'model = number', or a table of costs per "
            "sample (id and a column per model)."
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Alpha of the constant-alpha bound; by default the smallest one measured."),
    ] = None,
    beta0: Annotated[float, typer.Option(help="Adaptation cost per sample, such as the router's.")] = 0.0,
    beta1: Annotated[
        float, typer.Option(help="Adaptation cost as a share of the chosen state's cost.")
    ] = 0.0,
    envelope: Annotated[
        Envelope,
        typer.Option(help="States for the approximate bounds: pareto or hull leave out the others by name."),
    ] = Envelope.pareto,
    select: Annotated[
        int | None, typer.Option(help="Find the best set of states of every size up to this.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="COST,ACCURACY", help="What a policy reached: how much headroom it covers."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="How many options a guess chooses from: a number, or a column of the outcomes. By default "
            "the number of distinct labels, if there are labels."
        ),
    ] = None,
    missing: Annotated[
        Missing,
        typer.Option(
            help="Where a model has no outcome: stop, leave out rows or models, or count it as wrong."
        ),
    ] = Missing.error,
    id_column: Annotated[str, typer.Option("--id", help="Name of the id column.")] = "id",
    label_column: Annotated[str, typer.Option("--label", help="Name of the label column.")] = "label",
    bootstrap: Annotated[int, typer.Option(help="Resamplings for the intervals; 0 leaves them out.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamplings.")] = 0,
    labels: Annotated[
        Path | None,
        typer.Option(help="Write each sample's adaptation label (the cheapest right state) to this Parquet."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the figures to this self-contained HTML page.")
    ] = None,
    unit: Annotated[str, typer.Option(help="What the costs are, for the figures and the text.")] = "cost",
    as_json: JsonOption = False,
) -> None:
    """Say what the best possible policy over a set of models could save, and which models to keep."""
    from sparing.bounds import analyse, read_priced_outcomes, read_states, states_of
    from sparing.bounds.columns import Table
    from sparing.bounds.summary import summarise
    from sparing.errors import InputError

    achieved = _point(policy) if policy else None
    number, column = _classes(classes)
    if len(files) == 1 and {"name", "cost", "accuracy"} <= set(Table(files[0]).names):
        unused = {"--costs": costs, "--labels": labels, "--classes COLUMN": column}
        for option, value in unused.items():
            if value is not None:
                raise InputError(f"{files[0]}: holds states, and {option} needs outcomes per sample")
        outcomes, prices = None, None
        states = read_states(files[0])
    else:
        if costs is None:
            raise InputError(
                f"{files[0]}: outcomes need --costs: TOML with a table [costs] of 'model = number', or a "
                "table of costs per sample; a table of states has the columns name, cost and accuracy"
            )
        outcomes, prices = read_priced_outcomes(
            files,
            costs,
            missing=missing.value,
            id_column=id_column,
            label_column=label_column,
            classes_column=column,
        )
        states = states_of(outcomes, prices)
        for note in outcomes.notes:
            hint(f"note: {note}")
    found = analyse(
        states,
        outcomes=outcomes,
        costs=prices,
        alpha=alpha,
        beta0=beta0,
        beta1=beta1,
        kind=envelope.value,
        select=select,
        classes=number,
        replicates=bootstrap,
        seed=seed,
    )
    result = summarise(found)
    if outcomes is not None and outcomes.notes:
        result["notes"] = list(outcomes.notes)
    if achieved:
        result["headroom"] = {
            "cost": achieved[0],
            "accuracy": achieved[1],
            "mixture": found.mixture.accuracy_at(achieved[0]),
            "frontier": found.frontier.accuracy_at(achieved[0]),
            "frontier_is": "exact" if found.exact else "alpha = 1",
            "covered": found.headroom(*achieved),
        }
    if labels is not None and outcomes is not None:
        _write_labels(labels, outcomes, found)
    if html is not None:
        from sparing.bounds.figures import write_figures

        write_figures(html, found, unit=unit)
    if as_json:
        print_json(result)
    else:
        _print(result, unit)


def _point(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        cost, accuracy = float(parts[0]), float(parts[1])
    except (IndexError, ValueError):
        cost, accuracy = -1.0, -1.0
    if len(parts) != 2 or not (cost >= 0 and 0 <= accuracy <= 1):
        raise typer.BadParameter(
            f"{text!r} is not a cost and an accuracy in [0, 1], such as 3.2,0.81", param_hint="--policy"
        )
    return cost, accuracy


def _classes(text: str | None) -> tuple[int | None, str | None]:
    if text is None or not text.lstrip("-").isdigit():
        return None, text
    if int(text) < 2:
        raise typer.BadParameter(f"{text} is fewer than two options", param_hint="--classes")
    return int(text), None


def _write_labels(path: Path, outcomes: "Outcomes", found: "Analysis") -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparing.storage.files import local, replacing

    assert found.exact is not None  # noqa: S101 -- for the type checker: outcomes always make it
    bought = found.exact.oracle.bought
    names = pa.array(outcomes.names)
    unsolved = bought.choice < 0
    state = names.take(pa.array(bought.choice, mask=unsolved))
    cost = bought.base + np.where(unsolved, 0, bought.extra)
    table = pa.table({"id": outcomes.ids, "state": state, "cost": cost})
    with replacing(path) as draft:
        pq.write_table(table, local(draft))


def _print(result: dict[str, Any], unit: str) -> None:
    from math import isnan

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    dropped = {entry["name"]: entry["reason"] for entry in result["dropped"]}
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("state", unit, "accuracy", "left out since it"):
        table.add_column(_markup(column))
    for state in result["states"]:
        table.add_row(
            _markup(state["name"]),
            f"{state['cost']:.6g}",
            f"{state['accuracy']:.4f}",
            _markup(dropped.get(state["name"], "")),
        )
    console.print(table)

    best = result["baseline"]
    console.print(f"Saving and times cheaper are against {_markup(best['name'])}, the most accurate state.")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("bound", unit, "accuracy", "gain", "saving", "times cheaper"):
        first = column == "bound"
        table.add_column(_markup(column), justify="left" if first else "right", no_wrap=first)
    rows = {
        "alpha = 1 (conservative)": result["conservative"],
        "alpha = 1, continuous": result["continuous"],
        "alpha = 1, two states": result["two_states"],
    }
    if "constant_alpha" in result:
        rows[f"alpha = {result['constant_alpha']['alpha']:.3f}"] = result["constant_alpha"]
    if "exact" in result:
        rows["exact oracle"] = result["exact"]
        rows["exact, equal accuracy"] = result["exact"]["equal_accuracy"]
        if "at_mean_prices" in result["exact"]:
            rows["exact, mean costs"] = result["exact"]["at_mean_prices"]
    for name, bound in rows.items():
        table.add_row(
            name,
            f"{bound['cost']:.6g}",
            f"{bound['accuracy']:.4f}",
            f"{bound['accuracy_gain']:+.4f}",
            f"{bound['saving']:.6g}",
            f"{bound['ratio']:.2f}",
        )
    console.print(table)

    if "exact" in result:
        _print_exact(console, result)
    if "smallest_state" in result:
        smallest = result["smallest_state"]
        verdict = "is worth its cost" if smallest["worth_it"] else "is not worth its cost: drop it"
        console.print(
            f"Smallest state: {_markup(smallest['name'])} {verdict} "
            f"({smallest['cost']:.4g} against a limit of {smallest['limit']:.4g}, Equation 16)"
        )
    for selection in result.get("selected", []):
        greedy = selection.get("greedy")
        beside = "" if greedy is None else f", the paper's greedy {greedy['ratio']:.2f}x"
        console.print(
            f"Keep {selection['size']}: {_markup(', '.join(selection['states']))} "
            f"({selection['ratio']:.2f}x, {100 * selection['share']:.0f} % of all{beside})"
        )
    if "headroom" in result:
        headroom = result["headroom"]
        covered = f"the policy covers {100 * headroom['covered']:.1f} % of the way"
        console.print(
            f"Headroom: at {_markup(unit)} {headroom['cost']:g} a blind mixture reaches "
            f"{headroom['mixture']:.4f}, "
            f"the frontier ({headroom['frontier_is']}) {headroom['frontier']:.4f}; "
            f"{'the mixture and the frontier meet' if isnan(headroom['covered']) else covered}"
        )
    for warning in result["warnings"]:
        console.print(f"Note: {_markup(warning)}.")


def _print_exact(console: Any, result: dict[str, Any]) -> None:
    exact, chance = result["exact"], result["chance"]
    if "intervals" in exact:
        ends = exact["intervals"]
        console.print(
            f"95 % intervals over {result['samples']} samples: accuracy {_ends(ends['accuracy'], '.4f')}, "
            f"times cheaper {_ends(ends['ratio'], '.2f')}, "
            f"at equal accuracy {_ends(ends['equal_accuracy_ratio'], '.2f')}"
        )
    measured = [f"{alpha:.3f}" for alpha in exact["alpha"][1:]]
    console.print(f"alpha, from the second state on: {' '.join(measured) or 'none'}")
    line = f"Chance: independent errors would give {chance['independent']['accuracy']:.4f}"
    if "guessing" in chance:
        guessed = chance["guessing"]["accuracy"]
        line += f"; the best model and {len(result['states']) - 1} that guess, {guessed:.4f}"
    console.print(line)
    for small in chance["small_sets"]:
        console.print(
            f"Best {len(small['states'])}: {cell(', '.join(small['states']))} solve {small['accuracy']:.4f} "
            f"(best single {small['best_single']:.4f}, independent {small['independent']:.4f})",
            markup=False,
        )


def _markup(text: str) -> str:
    """Return text as markup that shows it as it is."""
    from rich.markup import escape

    return escape(cell(text))


def _ends(ends: list[float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
