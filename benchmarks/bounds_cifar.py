"""The exact oracle of the CIFAR ResNets, with what chance gives; needs torch to run the networks.

python benchmarks/bounds_cifar.py --data ../shared/data --work WORK --out benchmarks/results/bounds_cifar.md
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cifar import load_resnet, outputs
from machine import describe
from sparing.bounds import Outcomes, analyse, states_of

SETS = {
    "cifar100": ["resnet20", "resnet20_distilled", "resnet44_distilled", "resnet56"],
    "cifar10": ["resnet20", "resnet56"],
}


def multiply_adds(state_dict: Path) -> float:
    """Millions of multiply-adds of convolutions and the last layer for one 32x32 picture."""
    model, total = load_resnet(state_dict), 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    for layer in model.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10 and cifar100")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models and outputs")
    parser.add_argument("--out", type=Path, help="file to write instead of standard output")
    arguments = parser.parse_args()
    lines = [
        "# The exact oracle of the CIFAR ResNets",
        "",
        "`python benchmarks/bounds_cifar.py --data ../shared/data --work WORK "
        "--out benchmarks/results/bounds_cifar.md`",
        "",
        f"On {describe()}; 10,000 test images each, costs in millions of multiply-adds. Intervals: percentile "
        "bootstrap, 1000 resamplings of the images, seed 0.",
    ]
    for data, names in SETS.items():
        folder = arguments.data / data
        tables = [outputs(name, folder, arguments.work / data) for name in names]
        correct = np.stack([table.probs.argmax(axis=1) == tables[0].labels for table in tables], axis=1)
        costs = np.array([multiply_adds(folder / f"{name}.pth") for name in names])
        known = Outcomes(tuple(names), tables[0].ids, correct, tables[0].probs.shape[1], ())
        found = analyse(states_of(known, costs), outcomes=known, costs=costs)
        exact, ends = found.exact, found.exact.intervals if found.exact else None
        assert exact is not None
        assert ends is not None
        assert exact.guessing is not None
        alphas = ", ".join(
            f"{found.states.names[i]} {exact.oracle.alphas[i]:.3f} ({low:.3f} to {high:.3f})"
            for i, (low, high) in enumerate(ends.alphas)
            if i
        )
        lines += ["", f"## {data}", "", "| state | cost | accuracy |", "|---|---|---|"]
        lines += [
            f"| {name} | {cost:.2f} | {accuracy:.4f} |"
            for name, cost, accuracy in zip(
                found.states.names, found.states.costs, found.states.accuracies, strict=True
            )
        ]
        lines += [
            "",
            f"alpha: {alphas}. Left out of the approximate bounds: "
            f"{', '.join(d.name for d in found.dropped) or 'none'}.",
            "",
            "| | cost | accuracy | times cheaper than the best |",
            "|---|---|---|---|",
            f"| conservative (alpha = 1) | {found.conservative.cost:.2f} | "
            f"{found.conservative.accuracy:.4f} | {found.conservative.ratio:.2f}x |",
            f"| exact oracle | {exact.bound.cost:.2f} ({ends.cost[0]:.2f} to {ends.cost[1]:.2f}) | "
            f"{exact.bound.accuracy:.4f} ({ends.accuracy[0]:.4f} to {ends.accuracy[1]:.4f}) | "
            f"{exact.bound.ratio:.2f}x |",
            f"| oracle frontier at the best model's accuracy | {exact.equal_accuracy.cost:.2f} "
            f"({ends.equal_accuracy_cost[0]:.2f} to {ends.equal_accuracy_cost[1]:.2f}) | "
            f"{exact.equal_accuracy.accuracy:.4f} | {exact.equal_accuracy.ratio:.2f}x |",
            f"| independent errors | {exact.independent.costs[-1]:.2f} | "
            f"{exact.independent.accuracies[-1]:.4f} | |",
            f"| best model, others guess | {exact.guessing.costs[-1]:.2f} | "
            f"{exact.guessing.accuracies[-1]:.4f} | |",
            "",
        ]
        lines += [
            f"Best {len(s.states)}: {', '.join(names[j] for j in s.states)} solve {s.accuracy:.4f} (best "
            f"single {s.best_single:.4f}, independent {s.independent:.4f})."
            for s in exact.small_sets
        ]
        lines += [f"Warning of the tool: {warning}." for warning in found.warnings]
    text = "\n".join([*lines, ""])
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
