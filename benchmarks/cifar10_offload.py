"""Which evidence to send over a thin uplink: CIFAR-10 with an edge and a server ViT.

Prints tables of accuracy against patches (the papers' setting) and against bytes (a user's), and compares the
choice of `calibrate` with every fixed scheme on images that calibration did not see.

    python benchmarks/cifar10_offload.py --data ../shared/data/cifar10 \
        --out benchmarks/results/cifar10_offload.md
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, spearmanr

import machine
from sparing.offload import Bench, Evidence, Gate, Scheme, candidate_schemes, choose, policies, try_scheme
from sparing.offload.bench import Trial, answers_of, score
from sparing.offload.calibration import EDGE_WEIGHTS
from sparing.offload.edge import pool

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "offload"))
from cifar10_vits import GEOMETRY, ServerViT, load_edge, load_images, load_server

BUDGETS = [64, 128, 192, 256, 512, 1024, 3072]
COUNTS = [8, 16, 24, 32, 48]
N, COLS = GEOMETRY.patches, GEOMETRY.cols
Select = Callable[[int], np.ndarray]

PAIRS = [
    ("SAGE, last", "importance"),
    ("grid", "SAGE, last"),
    ("grid", "random"),
    ("grid", "spread 0.75, last"),
    ("coverage, last", "SAGE, last"),
    ("SAGE, first", "SAGE, last"),
    ("SAGE, last, ratio 3", "SAGE, last"),
    ("spread 0.75, first", "spread 0.75, last"),
    ("SAGE by the server", "SAGE, last"),
    ("grid", "SAGE by the server"),
]

# Workers are forked when these are made, and share them.
benches: dict[str, Bench] = {}
server: Any = None
selects: dict[str, Select] = {}
server_attention = np.empty((0, 0))


def prepare(args: argparse.Namespace) -> None:
    global server, server_attention
    torch.set_num_threads(1)
    pixels, labels = load_images(args.data)
    edge, server = load_edge(args.data), load_server(args.data)
    first, second = args.calibration, args.calibration + args.test
    for name, part in (
        ("calibration", slice(first)),
        ("test", slice(first, second)),
        ("patches", slice(first, first + args.patch_test)),
    ):
        benches[name] = Bench.make(pixels[part], labels[part], edge, server, Gate())
    bench = benches["patches"]
    first_layer = load_edge(args.data, layer=0)(bench.pixels).embeddings
    server_attention, server_embeddings = server_view(args.data, bench)
    selects.update(patch_policies(bench, first_layer, server_embeddings))


@torch.inference_mode()
def server_view(folder: Path, bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """The server's own attention and last embeddings, which no edge can know: they show what it lacks."""
    model = ServerViT()
    model.load_state_dict(torch.load(folder / "vit_server.pth", weights_only=True, map_location="cpu"))
    model.eval()
    attention, embeddings = [], []
    kept: list[torch.Tensor] = []
    last = model.transformer.layers[-1]
    last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    last.register_forward_hook(lambda _, __, output: kept.append(output))
    for at in range(0, len(bench.pixels), 256):
        patches = torch.from_numpy(bench.geometry.cut(bench.pixels[at : at + 256]))
        patches = patches.permute(0, 1, 4, 2, 3).float() / 255
        kept.clear()
        model(patches, torch.arange(N).expand(len(patches), -1))
        before, after = kept
        _, weights = last.self_attn(before, before, before, need_weights=True)
        attention.append(weights[:, 0, 1:].numpy())
        embeddings.append(after[:, 1:].numpy())
    return np.concatenate(attention), np.concatenate(embeddings)


def patch_policies(bench: Bench, first: np.ndarray, server_embeddings: np.ndarray) -> dict[str, Select]:
    attention, last = bench.seen.attention, bench.seen.embeddings
    m = len(bench.labels)

    def cumulative(k: int) -> np.ndarray:
        return policies.select("cumulative", attention, last, COLS, k)

    def cumulative_mean(k: int) -> np.ndarray:
        """The threshold that sends k patches on average, more of images whose attention is spread out."""
        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            counts = policies.cumulative_counts(attention, share)
            low, high = (share, high) if counts.mean() < k else (low, share)
        return np.where(np.arange(N) < counts[:, None], policies.importance(attention, N), -1)

    return {
        "random": lambda k: policies.random(m, N, k),
        "grid": lambda k: np.tile(policies.grid(GEOMETRY.rows, COLS, k), (m, 1)),
        "importance": lambda k: policies.importance(attention, k),
        "cumulative 0.97": cumulative,
        "cumulative, k on average": cumulative_mean,
        "SAGE, last": lambda k: policies.sage(attention, last, k),
        "SAGE, first": lambda k: policies.sage(attention, first, k),
        "SAGE, last, ratio 3": lambda k: policies.sage(attention, last, k, pool_ratio=3),
        "coverage, last": lambda k: policies.sage(attention, last, k, pool_ratio=None),
        "coverage, first": lambda k: policies.sage(attention, first, k, pool_ratio=None),
        "spread 0.5, last": lambda k: policies.spread(attention, last, COLS, k, position_weight=0.5),
        "spread 0.75, last": lambda k: policies.spread(attention, last, COLS, k),
        "spread 0.75, first": lambda k: policies.spread(attention, first, COLS, k),
        "spread 1 (positions only)": lambda k: policies.spread(attention, last, COLS, k, position_weight=1),
        "importance by the server": lambda k: policies.importance(server_attention, k),
        "SAGE by the server": lambda k: policies.sage(server_attention, server_embeddings, k),
    }


def try_patches(name: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Return the name, the server's answers (counts, m, C), and what was sent at 24 and how many patches."""
    bench = benches["patches"]
    patches = bench.geometry.cut(bench.pixels)
    answers, sizes = [], []
    for k in COUNTS:
        chosen = selects[name](k)
        sizes.append((chosen >= 0).sum(1).mean())
        found = []
        for at in range(0, len(chosen), 256):
            batch = []
            for row in range(at, min(at + 256, len(chosen))):
                positions = np.sort(chosen[row][chosen[row] >= 0])
                batch.append(Evidence(patches[row, positions], positions))
            found += server.answer(batch)
        answers.append(found)
    return name, np.array(answers), selects[name](24), np.array(sizes)


def try_bytes(work: tuple[str, str]) -> tuple[str, list[Trial]]:
    text, name = work
    return name, try_scheme(Scheme.parse(text), BUDGETS, benches[name], server)


def patch_tables(run: Callable[..., Iterator[Any]]) -> None:
    """Accuracy on offloaded images against the number of raw patches, and why."""
    bench = benches["patches"]
    edge_right = bench.seen.probs.argmax(1) == bench.labels
    right, pooled, sent = {}, {}, {}
    print("\n## Raw patches, counted in patches (of 64)\n")
    print(
        f"On {len(bench.labels)} offloaded images (edge {100 * edge_right.mean():.1f} %, server "
        f"{100 * bench.ceiling:.1f} %): accuracy, %, of the server's answer alone, and in brackets pooled with "
        "the edge's distribution (weight 0.5), which takes no patches. `last` and `first` are embeddings of "
        "the edge's last block and its patch embedding; `by the server` chooses by the server's own attention "
        "and embeddings of the whole image, which no edge has.\n"
    )
    print("| policy | " + " | ".join(map(str, COUNTS)) + " |")
    print("|---|" + "---|" * len(COUNTS))
    for name, answers, chosen, sizes in run(try_patches, list(selects)):
        right[name] = answers.argmax(2) == bench.labels
        pooled[name] = np.stack(
            [pool(part, bench.seen.probs, 0.5).argmax(1) == bench.labels for part in answers]
        )
        sent[name] = chosen
        cells = [
            f"{100 * a.mean():.1f} ({100 * b.mean():.1f})"
            for a, b in zip(right[name], pooled[name], strict=True)
        ]
        means = ""
        if name.startswith("cumulative"):
            means = ", sending " + " / ".join(f"{size:.1f}" for size in sizes)
        print(f"| {name}{means} | " + " | ".join(cells) + " |")
    error = 100 * np.sqrt(0.25 / len(bench.labels))
    print(f"\nOne standard error is about {error:.1f} points; differences below are paired.\n")
    paired_table({**right, "grid, pooled": pooled["grid"], "SAGE, last, pooled": pooled["SAGE, last"]})
    why_table(right, sent, edge_right)


def paired_table(right: dict[str, np.ndarray]) -> None:
    print(
        "Differences in points of accuracy, and the p-value of an exact McNemar test on the images on which "
        "the two differ (not corrected for the number of tests: of 60, 3 are below 0.05 by chance).\n"
    )
    print("| difference | " + " | ".join(map(str, COUNTS)) + " |")
    print("|---|" + "---|" * len(COUNTS))
    pairs = [*PAIRS, ("grid, pooled", "grid"), ("grid, pooled", "SAGE, last, pooled")]
    for one, other in pairs:
        cells = []
        for a, b in zip(right[one], right[other], strict=True):
            wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
            p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
            cells.append(f"{100 * (a.mean() - b.mean()):+.1f} (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})")
        print(f"| {one} - {other} | " + " | ".join(cells) + " |")


def why_table(right: dict[str, np.ndarray], sent: dict[str, np.ndarray], edge_right: np.ndarray) -> None:
    attention = server_attention / server_attention.sum(1, keepdims=True)
    ranks = [
        spearmanr(one, other).statistic
        for one, other in zip(benches["patches"].seen.attention, attention, strict=True)
    ]
    print(
        "\nWhy, at 24 patches: accuracy where the edge is right and where it is wrong; the mean distance (in "
        "patches) from a place in the image to the nearest patch that was sent; and the share of the "
        "server's own attention to the whole image that falls on the patches sent. The edge's and the "
        f"server's attention have a rank correlation of {np.mean(ranks):.2f} on average.\n"
    )
    print("| policy | edge right | edge wrong | gap | server attention |\n|---|---|---|---|---|")
    cells = np.stack(np.divmod(np.arange(N), COLS), axis=1)
    apart = np.sqrt(((cells[:, None] - cells) ** 2).sum(2))
    for name, chosen in sent.items():
        mask = np.zeros((len(chosen), N), dtype=bool)
        for row, positions in enumerate(chosen):
            mask[row, positions[positions >= 0]] = True
        gap = np.mean([apart[:, row].min(1).mean() for row in mask])
        by_edge = (100 * right[name][2][edge_right].mean(), 100 * right[name][2][~edge_right].mean())
        print(
            f"| {name} | {by_edge[0]:.1f} | {by_edge[1]:.1f} | {gap:.2f} | "
            f"{100 * (attention * mask).sum(1).mean():.0f} % |"
        )


def share(trial: Trial, weight: float) -> float:
    return 100 * float(score(trial, benches["test"], weight)["share_of_ceiling"])


FAMILIES = {
    **{f"raw patches, {policy}": (f"raw:{policy}", f"raw:{policy}:4") for policy in policies.POLICIES},
    **{f"mosaic, {policy}": (f"mosaic:{policy}:",) for policy in policies.POLICIES},
    **{
        f"whole, {codec}": (f"whole:{codec}",) for codec in ("webp", "jpeg", "avif", "dct8", "dct16", "dct32")
    },
    "whole, down-scaled": ("whole:",),
}


def family_table(by_key: dict[tuple[str, int], Trial], schemes: list[Scheme]) -> None:
    print(
        "\n### The same by kind\n\nThe best scheme of each kind with hindsight, the server's answer alone.\n"
    )
    print("| kind | " + " | ".join(f"{budget} B" for budget in BUDGETS) + " |")
    print("|---|" + "---|" * len(BUDGETS))
    for name, starts in FAMILIES.items():
        members = [
            str(scheme)
            for scheme in schemes
            if (str(scheme) in starts or (starts[0].endswith(":") and str(scheme).startswith(starts[0])))
            and (scheme.eighths < 8) == name.endswith("down-scaled")
        ]
        if members:
            best = [max(share(by_key[text, budget], 0.0) for text in members) for budget in BUDGETS]
            print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in best) + " |")


def byte_tables(run: Callable[..., Iterator[Any]], schemes: list[Scheme]) -> None:
    test = benches["test"]
    found: dict[str, list[Trial]] = {"calibration": [], "test": []}
    for name, trials in run(try_bytes, [(str(scheme), name) for scheme in schemes for name in found]):
        found[name] += trials
    by_key = {(str(trial.scheme), trial.budget): trial for trial in found["test"]}
    choices, _ = choose(found["calibration"], benches["calibration"], BUDGETS)
    print("\n## Real bytes: every payload within a hard cap\n")
    print(
        "Share of the server's ceiling on offloaded images, %, on images that calibration did not see; the "
        "server's answer alone, and in brackets pooled with the edge's distribution (weight 0.5, no bits). "
        "Where nothing fits (`unsent`) the edge's answer counts.\n"
    )
    print("| scheme | " + " | ".join(f"{budget} B" for budget in BUDGETS) + " |")
    print("|---|" + "---|" * len(BUDGETS))
    for scheme in schemes:
        cells = []
        for budget in BUDGETS:
            trial = by_key[str(scheme), budget]
            unsent = (trial.sizes == 0).mean()
            mark = f", {unsent:.0%} unsent" if unsent else ""
            cells.append(f"{share(trial, 0.0):.1f} ({share(trial, 0.5):.1f}){mark}")
        print(f"| `{scheme}` | " + " | ".join(cells) + " |")
    family_table(by_key, schemes)
    print("\n### The calibrated choice against every fixed scheme\n")
    print(
        "`best fixed` is picked with hindsight on the test images, over all schemes and edge weights, which "
        "favours it; the difference is paired, with its standard error.\n"
    )
    print(
        "| cap | choice | fill | edge weight | mean B | share of ceiling | best fixed | share | difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for budget in BUDGETS:
        choice = choices[budget]
        mine = by_key[str(choice.scheme), choice.fill]
        right = answers_of(mine, test, choice.edge_weight) == test.labels
        rivals = [(by_key[str(s), budget], weight) for s in schemes for weight in EDGE_WEIGHTS]
        best, weight = max(rivals, key=lambda pair: share(*pair))
        difference = right.astype(float) - (answers_of(best, test, weight) == test.labels)
        error = difference.std() / np.sqrt(len(difference))
        print(
            f"| {budget} | `{choice.scheme}` | {choice.fill} | {choice.edge_weight} | "
            f"{score(mine, test, choice.edge_weight)['mean_bytes']:.0f} | "
            f"{share(mine, choice.edge_weight):.1f} | `{best.scheme}` {weight} | {share(best, weight):.1f} | "
            f"{100 * difference.mean() / test.ceiling:+.1f} ± {100 * error / test.ceiling:.1f} |"
        )
    choice = choose(found["calibration"], benches["calibration"], [512], mean=280)[0][512]
    result = score(by_key[str(choice.scheme), choice.fill], test, choice.edge_weight)
    print(
        f"\nHard cap 512 bytes, at most 280 on average: `{choice.scheme}` filled to {choice.fill} reaches "
        f"{100 * result['share_of_ceiling']:.1f} % of the ceiling with {result['mean_bytes']:.0f} bytes on "
        f"average and {result['max_bytes']} at most "
        f"({100 * result['accuracy_offloaded']:.1f} % on offloaded, "
        f"{100 * result['accuracy']:.1f} % on all images)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=1600, help="images to calibrate on")
    parser.add_argument("--test", type=int, default=2000, help="images to test on, in bytes")
    parser.add_argument("--patch-test", type=int, default=4000, help="images to test on, in patches")
    parser.add_argument("--schemes", help="comma-separated; by default those of `calibrate`")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    texts = args.schemes.split(",") if args.schemes else map(str, candidate_schemes(GEOMETRY))
    schemes = [Scheme.parse(text) for text in texts]
    prepare(args)
    page = io.StringIO()
    with ProcessPoolExecutor(args.jobs, get_context("fork")) as workers:

        def run(function: Callable[..., Any], work: list[Any]) -> Iterator[Any]:
            for item, found in zip(work, workers.map(function, work), strict=True):
                print(f"  {item}", file=sys.stderr, flush=True)
                yield found

        with redirect_stdout(page):
            print("# CIFAR-10: what to send from an edge ViT to a server ViT\n")
            print(f"    {' '.join(['python', *sys.argv])}\n\n{machine.describe()}.\n")
            test, end = benches["test"], args.calibration + args.test
            print(
                f"Gate max p <= 0.5. In bytes: images {args.calibration} to {end - 1} of the test set, "
                f"{len(test.labels)} offloaded ({len(test.labels) / args.test:.1%}), where the edge is right on "
                f"{100 * (test.seen.probs.argmax(1) == test.labels).mean():.1f} % and the server on "
                f"{100 * test.ceiling:.1f} % (the ceiling); calibrated on images 0 to {args.calibration - 1} "
                f"({len(benches['calibration'].labels)} offloaded). In patches: images {args.calibration} to "
                f"{args.calibration + args.patch_test - 1}. One run. No times are given here: see "
                "`offload_codecs.md`."
            )
            patch_tables(run)
            byte_tables(run, schemes)
    print(page.getvalue())
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page.getvalue())


if __name__ == "__main__":
    main()
