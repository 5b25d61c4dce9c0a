"""Table 1 of the adaptive-inference paper from public numbers, and the whole timm table as "SOTA envelope".

python benchmarks/bounds_imagenet.py --data ../shared/data/timm --out benchmarks/results/bounds_imagenet.md
"""

import argparse
import csv
from pathlib import Path

from machine import describe
from sparing.bounds import (
    States,
    conservative,
    continuous,
    envelope,
    make_states,
    select_greedy,
    select_optimal,
)
from sparing.bounds.states import Envelope

# EfficientNet (Tan and Le, 2019), Table 2: billions of multiply-adds (FLOPs there), top-1 in percent.
TAN_AND_LE = {
    "B0": (0.39, 77.1), "B1": (0.70, 79.1), "B2": (1.0, 80.1), "B3": (1.8, 81.6),
    "B4": (4.2, 82.9), "B5": (9.9, 83.6), "B6": (19.0, 84.0), "B7": (37.0, 84.3),
}  # fmt: skip
# torchvision's published weights: `_ops` (GFLOPs, which are multiply-adds) and `acc@1`.
TORCHVISION = {
    "B0": (0.386, 77.692), "B1": (0.687, 78.642), "B2": (1.088, 80.608), "B3": (1.827, 82.008),
    "B4": (4.394, 83.384), "B5": (10.266, 83.444), "B6": (19.068, 84.008), "B7": (37.746, 84.122),
}  # fmt: skip
VIT_SCRATCH = {
    "B/32": (4.409, 75.912), "L/32": (15.378, 76.972), "B/16": (17.564, 81.072), "L/16": (61.555, 79.662),
}  # fmt: skip
VIT_TUNED = {
    "B/16 384": (55.484, 85.304), "L/16 512": (361.986, 88.064), "H/14 518": (1016.717, 88.552),
}  # fmt: skip
VIT_LINEAR = {
    "B/16 linear": (17.564, 81.886), "L/16 linear": (61.555, 85.146), "H/14 linear": (167.295, 85.708),
}  # fmt: skip

FAMILIES = {
    "EfficientNet, Tan and Le, Table 2": (TAN_AND_LE, "63.43x"),
    "EfficientNet, torchvision": (TORCHVISION, "63.43x"),
    "EfficientNet, torchvision, B1 as V2 weights": ({**TORCHVISION, "B1": (0.687, 79.838)}, "63.43x"),
    "ViT, torchvision, from scratch and H/14": (
        {**VIT_SCRATCH, "H/14 518": VIT_TUNED["H/14 518"]},
        "43.80x",
    ),
    "ViT, torchvision, from scratch and fine-tuned": ({**VIT_SCRATCH, **VIT_TUNED}, "43.80x"),
    "ViT, torchvision, all weights": ({**VIT_SCRATCH, **VIT_TUNED, **VIT_LINEAR}, "43.80x"),
}


def family(points: dict[str, tuple[float, float]]) -> States:
    costs, accuracies = zip(*points.values(), strict=True)
    return make_states(list(points), costs, [accuracy / 100 for accuracy in accuracies])


def timm(folder: Path, speed: bool) -> States:
    """ImageNet top-1 joined with cost on (name before the dot, image size), named name@size."""
    with (folder / "benchmark-infer-rtx4090.csv").open(newline="") as file:
        measured = {(row["model"], row["infer_img_size"]): row for row in csv.DictReader(file)}
    names, costs, accuracies = [], [], []
    with (folder / "results-imagenet.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found = measured.get((row["model"].split(".")[0], row["img_size"]))
            if found is not None:
                names.append(f"{row['model']}@{row['img_size']}")
                cost = 1000 / float(found["infer_samples_per_sec"]) if speed else float(found["infer_gmacs"])
                costs.append(cost)
                accuracies.append(float(row["top1"]) / 100)
    return make_states(names, costs, accuracies)


def families() -> list[str]:
    lines = [
        "| family and source | states kept | R_1 | R_N | A_N | R_oracle | ratio | continuous | the paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (points, paper) in FAMILIES.items():
        states = family(points)
        kept, _ = envelope(states)
        bound, fine = conservative(kept.costs, kept.accuracies), continuous(kept.costs, kept.accuracies)
        lines.append(
            f"| {name} | {len(kept)} of {len(states)} | {kept.costs[0]:.2f} | {bound.baseline_cost:.2f} | "
            f"{100 * bound.accuracy:.2f} % | {bound.cost:.2f} | {bound.ratio:.2f}x | {fine.ratio:.2f}x | "
            f"{paper} |"
        )
    return lines


def sota(states: States, unit: str) -> list[str]:
    lines = [
        f"{len(states)} pairs of model and image size, costs in {unit}.",
        "",
        "| envelope | states | R_1 | R_N | A_N | R_oracle | ratio | continuous |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds: tuple[Envelope, ...] = ("pareto", "hull")
    for kind in kinds:
        kept, _ = envelope(states, kind)
        bound, fine = conservative(kept.costs, kept.accuracies), continuous(kept.costs, kept.accuracies)
        lines.append(
            f"| {kind} | {len(kept)} | {kept.costs[0]:.4g} | {bound.baseline_cost:.4g} | "
            f"{100 * bound.accuracy:.2f} % | {bound.cost:.4g} | {bound.ratio:.2f}x | {fine.ratio:.2f}x |"
        )
    lines += [
        "",
        "Sets of the Pareto frontier: ratio, and its share of the ratio with all of its states.",
        "",
        "| size | best | best with the smallest state | greedy (Algorithm 1) |",
        "|---|---|---|---|",
    ]
    kept, _ = envelope(states)
    full = conservative(kept.costs, kept.accuracies).ratio

    def cell(chosen: list[int]) -> str:
        ratio = conservative(kept.costs[chosen], kept.accuracies[chosen]).ratio
        return f"{ratio:.2f}x ({100 * ratio / full:.1f} %)"

    best = select_optimal(kept.costs, kept.accuracies, 12)
    bound_sets = select_optimal(kept.costs, kept.accuracies, 12, keep_smallest=True)
    greedy = select_greedy(kept.costs, kept.accuracies, 12)
    for size in range(2, 13):
        row = best[size - 1], bound_sets[size - 1], greedy[size - 2]
        lines.append(f"| {size} | " + " | ".join(cell(chosen) for chosen in row) + " |")
    lines += ["", f"The best seven: {', '.join(kept.names[i] for i in best[6])}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the timm tables")
    parser.add_argument("--out", type=Path, help="file to write instead of standard output")
    arguments = parser.parse_args()
    lines = [
        "# Bounds on ImageNet",
        "",
        "`python benchmarks/bounds_imagenet.py --data ../shared/data/timm "
        "--out benchmarks/results/bounds_imagenet.md`",
        "",
        f"On {describe()}. Nothing is random; alpha = 1 throughout (Equations 9 and 11).",
        "",
        "## Model families (Table 1), GFLOPs as published",
        "",
        *families(),
        "",
        "## All of timm, by GMACs",
        "",
        *sota(timm(arguments.data, speed=False), "GMACs"),
        "",
        "## All of timm, by measured speed",
        "",
        *sota(
            timm(arguments.data, speed=True),
            "ms per image (RTX 4090, AMP, throughput at the best batch size)",
        ),
        "",
    ]
    text = "\n".join(lines)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
