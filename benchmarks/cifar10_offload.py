"""Which evidence to send over a thin uplink: CIFAR-10 with an edge and a server ViT.

Prints tables of accuracy against patches (the papers' setting) and against bytes (a user's), and compares the
choice of `calibrate` with every fixed scheme on images that calibration did not see.

    python benchmarks/cifar10_offload.py --data ../shared/data/cifar10 \
        --out benchmarks/results/cifar10_offload.md
"""

import argparse
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from sparing.offload import Bench, Gate, Scheme, candidate_schemes, choose, policies, try_scheme
from sparing.offload.evaluate import EDGE_WEIGHTS, answers_of, score

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "offload"))
from cifar10_vits import GEOMETRY, load_edge, load_images, load_server

BUDGETS = [64, 128, 192, 256, 512, 1024, 3072]
COUNTS = [8, 16, 24, 32, 48]


def accuracy_of(bench, server, chosen):
    patches = bench.geometry.cut(bench.pixels)
    rows = np.arange(len(chosen))[:, None]
    right = []
    for at in range(0, len(chosen), 256):
        part = slice(at, at + 256)
        right.append(server(patches[rows[part], chosen[part]], chosen[part]).argmax(1) == bench.labels[part])
    return np.concatenate(right)


def patch_table(bench, first_layer, server, edge_right):
    """Accuracy on offloaded images against the number of raw patches."""
    print("\n## Raw patches, counted in patches (of 64)\n")
    print(
        "Accuracy on offloaded images, %. `last` and `first` are embeddings of the edge's last block and its "
        "patch embedding.\n"
    )
    print("| policy | " + " | ".join(map(str, COUNTS)) + " |")
    print("|---|" + "---|" * len(COUNTS))
    attention, last, first = bench.seen.attention, bench.seen.embeddings, first_layer
    m, n, cols = len(bench.labels), GEOMETRY.patches, GEOMETRY.cols
    rows = {
        "random": lambda k: policies.random(m, n, k),
        "grid": lambda k: np.tile(policies.grid(GEOMETRY.rows, cols, k), (m, 1)),
        "importance": lambda k: policies.importance(attention, k),
        "SAGE, last": lambda k: policies.sage(attention, last, k),
        "SAGE, first": lambda k: policies.sage(attention, first, k),
        "SAGE, last, ratio 3": lambda k: policies.sage(attention, last, k, pool_ratio=3),
        "coverage, last": lambda k: policies.sage(attention, last, k, pool_ratio=None),
        "coverage, first": lambda k: policies.sage(attention, first, k, pool_ratio=None),
        "spread 0.5, last": lambda k: policies.spread(attention, last, cols, k, position_weight=0.5),
        "spread 0.75, last": lambda k: policies.spread(attention, last, cols, k),
        "spread 0.75, first": lambda k: policies.spread(attention, first, cols, k),
        "spread 1 (positions only)": lambda k: policies.spread(attention, last, cols, k, position_weight=1),
    }
    split = {}
    for name, choose_k in rows.items():
        results = [accuracy_of(bench, server, choose_k(k)) for k in COUNTS]
        print(
            f"| {name} | " + " | ".join(f"{100 * right.mean():.1f}" for right in results) + " |", flush=True
        )
        chosen = choose_k(24)
        where = np.stack(np.divmod(chosen, cols), axis=2)
        cells = np.stack(np.divmod(np.arange(n), cols), axis=1)
        gap = np.sqrt(((cells[None, :, None] - where[:, None]) ** 2).sum(3)).min(2).mean()
        split[name] = (results[2][edge_right].mean(), results[2][~edge_right].mean(), gap)
    error = 100 * np.sqrt(0.25 / m)
    print(f"\nOne standard error is about {error:.1f} points.\n")
    print(
        "Why, at 24 patches: accuracy where the edge is right and where it is wrong, and the mean distance "
        "(in patches) from a place in the picture to the nearest patch that was sent.\n"
    )
    print("| policy | edge right | edge wrong | gap |\n|---|---|---|---|")
    for name, (right, wrong, gap) in split.items():
        print(f"| {name} | {100 * right:.1f} | {100 * wrong:.1f} | {gap:.2f} |")


def trials_of(schemes, bench, server, what):
    trials = []
    for scheme in schemes:
        trials += try_scheme(scheme, BUDGETS, bench, server)
        print(f"  {what}: {scheme}", file=sys.stderr, flush=True)
    return trials


def byte_tables(calibration, test, server, schemes):
    fitted = trials_of(schemes, calibration, server, "calibration")
    tested = trials_of(schemes, test, server, "test")
    by_key = {(str(trial.scheme), trial.budget): trial for trial in tested}
    choices, _ = choose(fitted, calibration, BUDGETS)
    print("\n## Real bytes: every payload within a hard cap\n")
    print(
        "Share of the server's ceiling on offloaded images, %, on images that calibration did not see; the "
        "server's answer alone, and in brackets pooled with the edge's distribution (weight 0.5, no bits).\n"
    )
    print("| scheme | " + " | ".join(f"{budget} B" for budget in BUDGETS) + " |")
    print("|---|" + "---|" * len(BUDGETS))
    for scheme in schemes:
        cells = []
        for budget in BUDGETS:
            trial = by_key[str(scheme), budget]
            alone, pooled = (100 * score(trial, test, weight)["share_of_ceiling"] for weight in (0.0, 0.5))
            unsent = (trial.sizes == 0).mean()
            mark = f", {unsent:.0%} unsent" if unsent else ""
            cells.append(f"{alone:.1f} ({pooled:.1f}){mark}")
        print(f"| `{scheme}` | " + " | ".join(cells) + " |")
    print("\n### The calibrated choice against every fixed scheme\n")
    print(
        "`best fixed` is picked with hindsight on the test images, over all schemes and edge weights; the "
        "difference is paired, with its standard error.\n"
    )
    print(
        "| cap | choice | fill | edge weight | mean B | share of ceiling | best fixed | share | difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for budget in BUDGETS:
        choice = choices[budget]
        mine = by_key[str(choice.scheme), choice.fill]
        right = answers_of(mine, test, choice.edge_weight) == test.labels
        result = score(mine, test, choice.edge_weight)
        rivals = [(by_key[str(s), budget], weight) for s in schemes for weight in EDGE_WEIGHTS]
        best, weight = max(rivals, key=lambda pair: score(pair[0], test, pair[1])["accuracy_offloaded"])
        difference = right.astype(float) - (answers_of(best, test, weight) == test.labels)
        error = difference.std() / np.sqrt(len(difference))
        print(
            f"| {budget} | `{choice.scheme}` | {choice.fill} | {choice.edge_weight} | "
            f"{result['mean_bytes']:.0f} | {100 * result['share_of_ceiling']:.1f} | `{best.scheme}` {weight} "
            f"| {100 * score(best, test, weight)['share_of_ceiling']:.1f} | "
            f"{100 * difference.mean() / test.ceiling:+.1f} ± {100 * error / test.ceiling:.1f} |"
        )
    tight, _ = choose(fitted, calibration, [512], mean=280)
    choice = tight[512]
    result = score(by_key[str(choice.scheme), choice.fill], test, choice.edge_weight)
    print(
        f"\nHard cap 512 bytes, at most 280 on average: `{choice.scheme}` filled to {choice.fill} reaches "
        f"{100 * result['share_of_ceiling']:.1f} % of the ceiling with {result['mean_bytes']:.0f} bytes on "
        f"average and {result['max_bytes']} at most "
        f"({100 * result['accuracy_offloaded']:.1f} % on offloaded, "
        f"{100 * result['accuracy']:.1f} % on all images)."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=1600, help="images to calibrate on")
    parser.add_argument("--test", type=int, default=2000, help="images to test on")
    parser.add_argument("--schemes", help="comma-separated; by default those of `calibrate`")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels = load_images(args.data)
    edge, first_layer, server = load_edge(args.data), load_edge(args.data, layer=0), load_server(args.data)
    split, end = args.calibration, args.calibration + args.test
    calibration = Bench.make(pixels[:split], labels[:split], edge, server, Gate())
    test = Bench.make(pixels[split:end], labels[split:end], edge, server, Gate())
    schemes = (
        [Scheme.parse(text) for text in args.schemes.split(",")]
        if args.schemes
        else candidate_schemes(GEOMETRY)
    )
    page = io.StringIO()
    with redirect_stdout(page):
        print("# CIFAR-10: what to send from an edge ViT to a server ViT\n")
        print(
            f"Images {split} to {end - 1} of the test set, gate max p <= 0.5: {len(test.labels)} offloaded "
            f"({len(test.labels) / args.test:.1%}), where the edge is right on "
            f"{100 * (test.seen.probs.argmax(1) == test.labels).mean():.1f} % and the server on "
            f"{100 * test.ceiling:.1f} % (the ceiling). Calibrated on images 0 to {split - 1} "
            f"({len(calibration.labels)} offloaded). One run."
        )
        edge_right = test.seen.probs.argmax(1) == test.labels
        patch_table(test, first_layer(test.pixels).embeddings, server, edge_right)
        byte_tables(calibration, test, server, schemes)
    print(page.getvalue())
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page.getvalue())


if __name__ == "__main__":
    main()
