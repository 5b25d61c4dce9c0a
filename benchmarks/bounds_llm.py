"""The exact oracle of 26 LLMs on MMLU-Pro, with what chance gives, and of routerbench-mini with real prices.

python benchmarks/bounds_llm.py --data ../shared/data/llm --out benchmarks/results/bounds_llm.md
"""

import argparse
import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from machine import describe
from sparing.bounds import Analysis, Exact, Outcomes, analyse, bootstrap, states_of
from sparing.numerics.frontier import headroom_at_cost, oracle_frontier, static_mixture

Floats = npt.NDArray[np.floating[Any]]

REPLICATES = 1000

# Parameters that are active for a token, in billions: from the names, and for mixtures of experts and names
# without a size from the models' own descriptions.
ACTIVE_PARAMETERS = {
    "Llama-2-13b-hf": 13, "Llama-2-70b-hf": 70, "Llama-2-7b-hf": 7, "Meta-Llama-3-70B": 70,
    "Meta-Llama-3-8B": 8, "Meta-Llama-3_1-70B": 70, "Meta-Llama-3_1-70B-Instruct": 70,
    "Meta-Llama-3_1-8B": 8, "Meta-Llama-3_1-8B-Instruct": 8, "Mistral-7B-Instruct-v0.1": 7,
    "Mistral-7B-Instruct-v0.2": 7, "Mistral-7B-v0.1": 7, "Mistral-7B-v0.2-hf": 7,
    "Mixtral-8x7B-Instruct-v0.1": 13, "Mixtral-8x7B-v0.1": 13, "Phi-3-mini-4k-instruct": 3.8,
    "Qwen1.5-110B": 110, "Qwen1.5-72B-Chat": 72, "Qwen1.5-7B-Chat": 7, "Yi-34B": 34, "Yi-6B": 6,
    "Yi-6b-Chat": 6, "c4ai-command-r-v01": 35, "gemma-7b": 7, "jamba-1.5-large": 94, "mathstral-7B": 7,
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interval(ends: tuple[float, float], form: str = ".4f") -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"


def exactly(outcomes: Outcomes, costs: Floats) -> tuple[Analysis, Exact]:
    found = analyse(states_of(outcomes, costs), outcomes=outcomes, costs=costs, replicates=REPLICATES)
    assert found.exact is not None
    return found, found.exact


def mmlu_pro(folder: Path) -> list[str]:
    rows = rows_of(folder / "mmlu_pro_preds.csv.gz")
    chars = {row["question_id"]: row for row in rows_of(folder / "mmlu_pro_output_chars.csv.gz")}
    names = [name for name in ACTIVE_PARAMETERS if all(row[name] for row in rows)]
    correct = np.array([[row[name] == row["answer"] for name in names] for row in rows])
    options = np.array([int(row["n_options"]) for row in rows])
    parameters = np.array([ACTIVE_PARAMETERS[name] for name in names], dtype=float)
    written = np.array([[float(chars[row["question_id"]][name] or 0) for name in names] for row in rows])
    asked = np.array([float(row["question_chars"]) for row in rows])
    work = 2 * parameters * (written + asked[:, None]) / 4 / 1000  # TFLOP: 2 per parameter and token
    categories = np.array([row["category"] for row in rows])
    ids = pa.array([row["question_id"] for row in rows])

    def part(chosen: npt.NDArray[np.bool_]) -> Outcomes:
        return Outcomes(tuple(names), ids.filter(pa.array(chosen)), correct[chosen], options[chosen], ())

    lines = [
        f"{len(names)} models that have every question, {len(rows)} questions; an answer that could not "
        "be extracted is wrong. A model's cost is its active parameters in billions, per sample the work "
        "in TFLOP that these take at four characters a token for the question and the output (a proxy: the "
        "prompt's examples are not in the data).",
        "",
        "| category | questions | best model | A_best | A_oracle (95 %) | independent | others guess | "
        "equal accuracy, by parameters (95 %) | by work per sample (95 %) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    all_rows = np.ones(len(rows), np.bool_)
    for name in ["all", *sorted(set(categories))]:
        outcomes = part(all_rows if name == "all" else categories == name)
        chosen = all_rows if name == "all" else categories == name
        _, exact = exactly(outcomes, parameters)
        _, priced = exactly(outcomes, work[chosen])
        assert exact.intervals is not None
        assert priced.intervals is not None
        assert exact.guessing is not None
        lines.append(
            f"| {name} | {exact.samples} | {names[exact.oracle.baseline]} | "
            f"{exact.bound.baseline_accuracy:.4f} | {exact.bound.accuracy:.4f} "
            f"({interval(exact.intervals.accuracy)}) | {exact.independent.accuracies[-1]:.4f} | "
            f"{exact.guessing.accuracies[-1]:.4f} | {exact.equal_accuracy.ratio:.1f}x "
            f"({interval(exact.intervals.equal_accuracy_ratio, '.1f')}) | {priced.equal_accuracy.ratio:.1f}x "
            f"({interval(priced.intervals.equal_accuracy_ratio, '.1f')}) |"
        )

    everything = part(all_rows)
    found, exact = exactly(everything, parameters)
    _, priced = exactly(everything, work)
    assert exact.guessing is not None
    assert priced.at_mean_prices is not None
    best = exact.bound.baseline_accuracy
    chance_cost = exact.guessing.cost_at(best)
    all_guess = 1 - ((1 - 1 / options) ** len(names)).mean()
    lines += [
        "",
        *[f"Warning of the tool: {warning}." for warning in found.warnings],
        "",
        f"If all 26 merely guessed, one would be right on {all_guess:.4f} of the questions. If all but the "
        "best guessed, hindsight would reach the best model's accuracy at "
        f"{chance_cost:.2f} billion parameters, {exact.bound.baseline_cost / chance_cost:.1f}x cheaper, "
        f"against {exact.equal_accuracy.cost:.2f} and {exact.equal_accuracy.ratio:.1f}x as measured: chance "
        "explains most of that saving as well.",
        "",
        f"Costs per sample: the oracle spends {priced.bound.cost:.3f} TFLOP; with mean costs for every "
        f"sample it would spend {priced.at_mean_prices.cost:.3f}.",
        "",
        "Small sets, chosen for accuracy:",
        "",
        "| set | best single | independent | oracle | share of the independent gain |",
        "|---|---|---|---|---|",
    ]
    for small in exact.small_sets:
        share = (small.accuracy - small.best_single) / (small.independent - small.best_single)
        lines.append(
            f"| {', '.join(names[j] for j in small.states)} | {small.best_single:.4f} | "
            f"{small.independent:.4f} | {small.accuracy:.4f} | {100 * share:.0f} % |"
        )
    lines += [
        "",
        "Pairs of the best model and one more: what the oracle of the pair does, against a second model that "
        "only guesses at the same price. The five pairs that save most at equal accuracy:",
        "",
        "| second model | its accuracy | oracle of the pair | guessing | equal accuracy (95 %) | guessing |",
        "|---|---|---|---|---|---|",
    ]
    pairs = []
    base = exact.oracle.baseline
    for j in range(len(names)):
        if j != base and parameters[j] < parameters[base]:
            columns = [j, base]
            two = Outcomes((names[j], names[base]), ids, correct[:, columns], options, ())
            _, pair = exactly(two, parameters[columns])
            pairs.append((pair.equal_accuracy.ratio, j, pair))
    for _, j, pair in sorted(pairs, key=lambda p: -p[0])[:5]:
        assert pair.intervals is not None
        assert pair.guessing is not None
        lucky = pair.bound.baseline_cost / pair.guessing.cost_at(best)
        lines.append(
            f"| {names[j]} | {correct[:, j].mean():.4f} | {pair.bound.accuracy:.4f} | "
            f"{pair.guessing.accuracies[-1]:.4f} | {pair.equal_accuracy.ratio:.2f}x "
            f"({interval(pair.intervals.equal_accuracy_ratio, '.2f')}) | {lucky:.2f}x |"
        )
    return lines


def routerbench(folder: Path) -> list[str]:
    rows = rows_of(folder / "routerbench_mini.csv.gz")
    strategies = sorted({row["strategy"] for row in rows})
    by_strategy = {s: {row["canonical_id"]: row for row in rows if row["strategy"] == s} for s in strategies}
    ids = sorted(by_strategy["always_cheap"])

    def table(strategy: str, column: str) -> Floats:
        return np.array([float(by_strategy[strategy][i][column]) for i in ids])

    states = ["always_cheap", "always_strong"]
    correct = np.stack([table(s, "correct") == 1 for s in states], axis=1)
    outcomes = Outcomes(tuple(states), pa.array(ids), correct, None, ())
    lines = [
        f"{len(ids)} questions; the states are the two models, with price and latency of each answer. "
        "The other strategies are policies over them.",
    ]
    for column, unit in (("cost", "dollars"), ("latency_ms", "ms")):
        costs = np.stack([table(s, column) for s in states], axis=1)
        found, exact = exactly(outcomes, costs)
        assert exact.intervals is not None
        assert exact.at_mean_prices is not None
        best = states[exact.oracle.baseline]
        lines += [
            "",
            f"### In {unit} per question",
            "",
            "; ".join(
                f"{name}: {cost:.6g}, accuracy {accuracy:.4f}"
                for name, cost, accuracy in zip(
                    found.states.names, found.states.costs, found.states.accuracies, strict=True
                )
            ),
            "",
            f"| | cost | accuracy (95 %) | times cheaper than {best} (95 %) |",
            "|---|---|---|---|",
            f"| exact oracle | {exact.bound.cost:.6g} | {exact.bound.accuracy:.4f} "
            f"({interval(exact.intervals.accuracy)}) | {exact.bound.ratio:.2f}x "
            f"({interval(exact.intervals.ratio, '.2f')}) |",
            f"| oracle frontier at the accuracy of {best} | {exact.equal_accuracy.cost:.6g} | "
            f"{exact.equal_accuracy.accuracy:.4f} | {exact.equal_accuracy.ratio:.2f}x "
            f"({interval(exact.intervals.equal_accuracy_ratio, '.2f')}) |",
            f"| exact oracle, every question at the mean price | {exact.at_mean_prices.cost:.6g} | "
            f"{exact.at_mean_prices.accuracy:.4f} | {exact.at_mean_prices.ratio:.2f}x |",
            f"| independent errors, mean prices | {exact.independent.costs[-1]:.6g} | "
            f"{exact.independent.accuracies[-1]:.4f} | |",
            "",
            "| policy | cost | accuracy | mixture there | frontier there | headroom covered (95 %) |",
            "|---|---|---|---|---|---|",
        ]
        for strategy in strategies:
            if strategy in states:
                continue
            right, paid = table(strategy, "correct") == 1, table(strategy, column)

            def covered(
                chosen: npt.NDArray[np.intp],
                right: npt.NDArray[np.bool_] = right,
                paid: Floats = paid,
                costs: Floats = costs,
            ) -> float:
                mixture = static_mixture(costs[chosen].mean(axis=0), correct[chosen].mean(axis=0))
                frontier = oracle_frontier(correct[chosen], costs[chosen])
                return headroom_at_cost(
                    float(paid[chosen].mean()), float(right[chosen].mean()), mixture, frontier
                )

            spent = float(paid.mean())
            ends = bootstrap(covered, len(ids), replicates=REPLICATES)
            lines.append(
                f"| {strategy} | {spent:.6g} | {right.mean():.4f} | {found.mixture.accuracy_at(spent):.4f} | "
                f"{found.frontier.accuracy_at(spent):.4f} | {covered(np.arange(len(ids))):.2f} "
                f"({interval(ends, '.2f')}) |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the LLM tables")
    parser.add_argument("--out", type=Path, help="file to write instead of standard output")
    arguments = parser.parse_args()
    lines = [
        "# The exact oracle of language models",
        "",
        "`python benchmarks/bounds_llm.py --data ../shared/data/llm --out benchmarks/results/bounds_llm.md`",
        "",
        f"On {describe()}. Intervals: percentile bootstrap, {REPLICATES} resamplings of the questions, "
        "seed 0.",
        "",
        "## MMLU-Pro",
        "",
        *mmlu_pro(arguments.data),
        "",
        "## routerbench-mini",
        "",
        *routerbench(arguments.data),
        "",
    ]
    text = "\n".join(lines)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
