"""Route between three experts on corrupted scene photographs, as routing-beats-latency does (Tables 1 to 6).

    python benchmarks/intel_experts.py --data DATA/intel_scenes --work WORK/experts
    python benchmarks/intel_route.py --data DATA/intel_scenes --work WORK

The experts are trained on 55 % of the training images, routers on another 32 %, budgets and thresholds are
solved on the remaining 13 %, and everything is judged on the test images. The parts are disjoint because an
expert is nearly always right on what it was trained on: a router that learned there would trust the cheapest
one everywhere. Every image is seen once at each of four severities.

`--until latency` stops after the latencies, which are measured once and kept, so that they can be taken on a
quiet machine; the trainings can share theirs.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from intel_experts import CLEAN_SHARES, EPOCHS, SECOND_EPOCHS, STRENGTH, part_of
from machine import describe, load
from sparing.data.samples import open_samples
from sparing.images import BLUR, NOISE, SEVERITIES, decode, variants
from sparing.models import load_model
from sparing.numerics.frontier import headroom_at_cost, oracle_frontier, static_mixture
from sparing.route.baselines import STATISTICS
from sparing.route.baselines.cascades import cascade, cascade_orders, stops
from sparing.route.baselines.mixtures import mixture_shares
from sparing.route.chances import calibration_errors, fit_calibration
from sparing.route.choosing import choose, solve_multiplier
from sparing.route.evaluation import paired_difference
from sparing.route.experts import Latency
from sparing.route.fitting import Settings, fit
from sparing.route.judging import Judged, Timing, join, judge, shares_of
from sparing.route.latency import Way, measure_together
from sparing.route.networks import RouterNetwork, squeezenet_stem
from sparing.route.profiling import Profile, open_profile, profile
from sparing.route.router import Router, open_router, stem_of
from sparing.route.training import export, prepare, train

EXPERTS = ("small", "medium", "large")
TRADE_OFFS = (0.70, 0.80, 0.90, 0.95, 1.00)
SEEDS = (0, 1, 2)
SIZE = 64
OTHER_SIZES = (96, 48)
EPOCHS_ROUTER = 12
RATE = 5e-4
VARIANTS = variants("blur,noise")
PARTS = ("router", "calibration", "test")
BUDGETS = 5


def split(data: Path, work: Path) -> dict[str, Path]:
    """Write the training images' parts, and give the path of each part."""
    table = pq.read_table(data / "train.parquet")
    part = np.array([part_of(one) for one in table["id"].to_pylist()])
    paths = {name: work / f"{name}.parquet" for name in ("router", "calibration")}
    for name, path in paths.items():
        if not path.exists():
            pq.write_table(table.filter(part == name), path, row_group_size=512)
    return {**paths, "test": data / "test.parquet"}


def measure_latency(made: Profile, samples: Path, work: Path) -> dict[str, Latency]:
    """Measure experts and routers of several input sizes in turns, one sample at a time and 32, and keep it."""
    path = work / "latency.json"
    if path.exists():
        return {name: Latency(**values) for name, values in json.loads(path.read_text()).items()}
    opened = open_samples(samples)
    rows = np.linspace(0, len(opened) - 1, 256).astype(np.int64)
    ids, encoded = opened.ids.take(rows).to_pylist(), opened.fetch(rows)
    pairs = [(one, decode(value, f"id {one!r}")) for one, value in zip(ids, encoded, strict=True)]
    models = {e.name: load_model(f"{e.name}={e.target}") for e in made.experts}
    for size in (SIZE, *OTHER_SIZES):
        folder = work / f"untrained-{size}"
        folder.mkdir(exist_ok=True)
        inputs = prepare([("one", encoded[0])], VARIANTS[:1], folder / "inputs.npy", size=size)
        example = torch.from_numpy(inputs(np.array([0])))
        network = RouterNetwork(squeezenet_stem(), example, len(EXPERTS))
        export(network, example, inputs.description, folder)
        models[f"router {size}"] = load_model(f"router={folder / 'router.onnx'}", threads=1)
    found = {}
    # Every router is called after the large expert, whose weights have just filled the processor's cache: that
    # is how it finds the machine when it routes, and by itself it would seem faster.
    order = [
        name for model in models for name in (["large", model] if model.startswith("router") else [model])
    ]
    for batch_size in (1, 32):
        ways = [
            Way(
                lambda some, model=models[name]: model.function([i for i, _ in some], [v for _, v in some]),
                pairs,
                batch_size,
                calls=300 if batch_size == 1 else 30,
            )
            for name in order
        ]
        names = list(order)
        if batch_size == 1:
            ways.append(
                Way(
                    lambda some: decode(some[0][1], f"id {some[0][0]!r}"),
                    list(zip(ids, encoded, strict=True)),
                    1,
                    300,
                )
            )
            names.append("decoding")
        for name, latency in zip(names, measure_together(ways, seconds=60), strict=True):
            found.setdefault(f"{name} x{batch_size}", latency)
    path.write_text(json.dumps({name: asdict(one) for name, one in found.items()}, indent=1))
    return found


def router_of(
    made: Profile, samples: Path, work: Path, settings: Settings, size: int = SIZE, inputs: object = None
) -> Router:
    """Train a router, or open it where it was trained before."""
    name = f"{settings.objective}-{settings.trade_off or ''}-{settings.seed}-{size}"
    folder = work / "routers" / name
    if stem_of(folder) is None:
        started = time.perf_counter()
        train(
            made,
            samples,
            folder,
            settings=settings,
            variants=VARIANTS,
            size=size,
            inputs=inputs(size),
            progress=lambda stage, done, loss: (
                print(f"{name}: {stage} {done} {loss:.4f}", file=sys.stderr) if stage == "train" else None
            ),
        )
        print(f"trained {name} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return open_router(folder)


class Bench:
    """Experts' outcomes on the calibration and test images, and what routers say about them."""

    def __init__(self, made: Profile, paths: dict[str, Path], latency: dict[str, Latency]) -> None:
        self.made, self.latency = made, latency
        self.samples = {name: open_samples(paths[name]) for name in ("calibration", "test")}
        self.counts = {name: pq.read_metadata(path).num_rows for name, path in paths.items()}
        total = pq.read_metadata(paths["test"].with_name("train.parquet")).num_rows
        self.counts["experts"] = total - self.counts["router"] - self.counts["calibration"]
        self.experts = np.array([latency[f"{name} x1"].median for name in EXPERTS])
        self.decoding = latency["decoding x1"].median
        self.seen: dict[tuple[Path, str], list[Judged]] = {}
        self.prepared: dict[str, list[tuple[list, list, Judged]]] = {}

    def times(self, size: int = SIZE) -> Timing:
        """Latencies with a router of some input size; decoding is shared by all policies and left out."""
        return Timing(self.experts, self.latency[f"router {size} x1"].median)

    def gather(self, router: Router, part: str) -> list[Judged]:
        """What is known by severity, as `sparing.route.judging.gather` collects it; images are prepared once."""
        key = router.path, part
        if key not in self.seen:
            self.seen[key] = [
                replace(
                    experts,
                    scores=np.concatenate(
                        [
                            router.scores(ids[at : at + 256], values[at : at + 256])
                            for at in range(0, len(ids), 256)
                        ]
                    ),
                )
                for ids, values, experts in self._prepared(part)
            ]
        return self.seen[key]

    def _prepared(self, part: str) -> list[tuple[list, list, Judged]]:
        if part not in self.prepared:
            samples, self.prepared[part] = self.samples[part], []
            labels, rows = samples.labels(), np.arange(len(samples))
            for variant in VARIANTS:
                values = variant.apply(samples.ids, samples.fetch(rows))
                logs = self.made.outputs(samples, variant)
                experts = judge(np.zeros(logs.shape[:2], np.float32), logs, labels, STATISTICS)
                ids = samples.ids.to_pylist()
                decoded = [decode(value, f"id {one!r}") for one, value in zip(ids, values, strict=True)]
                self.prepared[part].append((ids, decoded, experts))
        return self.prepared[part]


def solved(bench: Bench, router: Router, budgets: list[float], size: int = SIZE) -> dict:
    """Calibrate a router, solve mean-latency budgets on the calibration images, and choose on both parts."""
    known, test = (bench.gather(router, part) for part in ("calibration", "test"))
    fitted_on, judged = join(known), join(test)
    if router.description.objective == "benefit":
        fitted = fit_calibration(fitted_on.scores, fitted_on.correct)

        def gains(scores: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-(scores.astype(float) * fitted.scale + np.array(fitted.bias))))
    else:

        def gains(scores: np.ndarray) -> np.ndarray:
            return scores.astype(float)

    costs = bench.times(size).routed
    chosen = []
    for budget in budgets:
        multiplier = solve_multiplier(gains(fitted_on.scores), costs, budget)
        chosen.append(choose(gains(judged.scores), costs, multiplier))
    errors = None
    if router.description.objective == "benefit":
        raw = 1 / (1 + np.exp(-judged.scores.astype(float)))
        errors = (
            calibration_errors(raw, judged.correct),
            calibration_errors(gains(judged.scores), judged.correct),
        )
    return {"chosen": chosen, "calibration": fitted_on, "test": judged, "by": test, "errors": errors}


def outcome(judged: Judged, chosen: np.ndarray) -> np.ndarray:
    """Whether each sample was answered rightly."""
    return judged.correct[np.arange(len(chosen)), chosen]


def pc(value: float) -> str:
    """Write a share in percent."""
    return f"{100 * value:.2f}"


def ms(value: float) -> str:
    """Write seconds in milliseconds."""
    return f"{1000 * value:.2f}"


def table(header: str, rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    names = header.split("|")
    lines = ["| " + " | ".join(n.strip() for n in names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def fair_cascade(
    known: Judged, judged: Judged, costs: np.ndarray, budget: float, by_entropy: bool
) -> tuple[np.ndarray, float, str] | None:
    """Pick the best cascade and its threshold on calibration images; chance of being right and cost on test."""
    certainty = [part.statistics["entropy" if by_entropy else "confidence"] for part in (known, judged)]
    best = None
    for order in cascade_orders(costs):
        traced = cascade(certainty[0], known.correct, costs, order)
        if budget < traced.costs[0]:
            continue
        expected = traced.accuracy_at(budget)
        if best is None or expected > best[0]:
            best = expected, order, traced.between(budget)
    if best is None:
        return None
    _, order, thresholds = best
    right, cost = np.zeros(len(judged.correct)), 0.0
    ends = np.cumsum(costs[list(order)])
    for threshold, share in thresholds:
        at = stops(certainty[1], order, threshold)
        right += share * judged.correct[np.arange(len(at)), np.array(order)[at]]
        cost += share * float(ends[at].mean())
    return right, cost, " > ".join(EXPERTS[i] for i in order)


def severity_tables(bench: Bench, lam: dict[tuple[float, int], dict]) -> list[str]:
    """Tables 2 to 6: accuracy, latency and shares by trade-off, mean over seeds."""
    costs = bench.times().routed
    text = []
    for at, name in enumerate(("overall", *SEVERITIES)):
        rows = []
        for trade_off in TRADE_OFFS:
            found = []
            for seed in SEEDS:
                one = lam[trade_off, seed]
                judged = one["test"] if at == 0 else one["by"][at - 1]
                chosen = judged.scores.argmax(axis=1)
                shares = shares_of(chosen, 3)
                found.append([outcome(judged, chosen).mean(), shares @ costs, *shares])
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
            rows.append(
                [
                    f"{trade_off:.2f}",
                    f"{pc(mean[0])} ± {pc(spread[0])}",
                    f"{ms(mean[1])} ± {ms(spread[1])}",
                    *(pc(v) for v in mean[2:]),
                ]
            )
        what = "the whole test set" if at == 0 else f"{name} images"
        text += [
            f"### Table {at + 2}: {what}\n",
            table("lambda | accuracy % | latency ms | → small % | → medium % | → large %", rows),
            "",
        ]
    return text


def live_comparison(made: Profile, paths: dict[str, Path], inputs: object) -> list[str]:
    """Train on profiled outputs and on experts run in every step, over the same steps."""
    opened = open_samples(paths["router"])
    m, count = len(opened), 640
    positions = np.random.default_rng(0).permutation(m * len(VARIANTS))[:count]
    known = np.concatenate([made.outputs(opened, variant) for variant in VARIANTS])
    models = [load_model(f"{e.name}={e.target}") for e in made.experts]
    prepared = inputs(SIZE)
    labels = np.tile(opened.labels(), len(VARIANTS))[positions]

    def live(rows: np.ndarray) -> np.ndarray:
        said = np.empty((len(rows), len(models), known.shape[2]), dtype=np.float32)
        for k, position in enumerate(positions[rows]):
            at = np.array([position % m])
            ids = opened.ids.take(at)
            values = VARIANTS[position // m].apply(ids, opened.fetch(at))
            for i, model in enumerate(models):
                said[k, i] = model.log_probs(ids.to_pylist(), values)[0]
        return said

    latencies = np.array([e.single.median for e in made.experts])
    settings = Settings("trade-off", 0.8, epochs=1, learning_rate=RATE)
    seconds, losses = {}, {}
    for name, lookup in (("profiled", lambda rows: known[positions[rows]]), ("live", live)):
        torch.manual_seed(0)
        example = torch.from_numpy(prepared(np.array([0])))
        network = RouterNetwork(squeezenet_stem(), example, len(models))
        started = time.perf_counter()
        steps: list[float] = []
        for epoch in range(3):
            steps += fit(
                network, lambda rows: prepared(positions[rows]), log_probs=lookup, labels=labels,
                latencies=latencies, settings=Settings(**{**asdict(settings), "seed": epoch}),
            )  # fmt: skip
        seconds[name], losses[name] = time.perf_counter() - started, steps
    gap = max(abs(a - b) for a, b in zip(losses["profiled"], losses["live"], strict=True))
    return [
        f"Three epochs over the same {count} samples: {seconds['profiled']:.1f} s from profiled outputs, "
        f"{seconds['live']:.1f} s with the experts run in every step: {seconds['live'] / seconds['profiled']:.1f} "
        f"times as fast. Losses of the epochs: {', '.join(f'{v:.6f}' for v in losses['profiled'])} and "
        f"{', '.join(f'{v:.6f}' for v in losses['live'])}; the largest difference is {gap:.1e}.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="where experts/ is and routers are kept")
    parser.add_argument("--until", choices=("profile", "latency", "training"))
    parser.add_argument("--seeds", default=None, help="train only these seeds, for --until training")
    arguments = parser.parse_args()
    work = arguments.work
    paths = split(arguments.data, work)
    targets = {name: str(work / "experts" / f"{name}.onnx") for name in EXPERTS}
    if not (work / "profile" / "profile.json").exists():
        profile(targets, paths["router"], work / "profile", variants=VARIANTS)
    made = open_profile(work / "profile")
    for part in PARTS:
        made.fill(open_samples(paths[part]), VARIANTS)
    if arguments.until == "profile":
        return
    latency = measure_latency(made, paths["test"], work)
    if arguments.until == "latency":
        return
    print(describe(), "|", load(), file=sys.stderr)

    kept: dict[int, object] = {}

    def inputs(size: int) -> object:
        if size not in kept:
            kept[size] = prepare(
                paths["router"], VARIANTS, work / f"inputs-{size}-{arguments.seeds}.npy", size=size
            )
        return kept[size]

    shared = {"epochs": EPOCHS_ROUTER, "learning_rate": RATE, "precision": "bfloat16"}
    seeds = SEEDS if arguments.seeds is None else [int(s) for s in arguments.seeds.split(",")]
    routers: dict[tuple, Router] = {}
    for seed in seeds:
        for objective, trade_off in [("benefit", None), *(("trade-off", one) for one in TRADE_OFFS)]:
            settings = Settings(objective, trade_off, seed=seed, **shared)
            routers[objective, trade_off, seed] = router_of(
                made, paths["router"], work, settings, inputs=inputs
            )
    if 0 in seeds:
        for size in OTHER_SIZES:
            settings = Settings("benefit", **shared)
            routers["size", size] = router_of(made, paths["router"], work, settings, size=size, inputs=inputs)
        settings = Settings("entropy", **shared)
        routers["entropy"] = router_of(made, paths["router"], work, settings, inputs=inputs)
    if arguments.until == "training":
        return
    bench = Bench(made, paths, latency)
    text = report(bench, routers)
    text += ["## Training from profiled outputs\n", *live_comparison(made, paths, inputs)]
    result = "\n".join(text)
    (Path(__file__).parent / "results" / "intel_route.md").write_text(result)
    print(result)


def report(bench: Bench, routers: dict) -> list[str]:
    """Write every table."""
    times = bench.times()
    lam = {(t, s): solved(bench, routers["trade-off", t, s], []) for t in TRADE_OFFS for s in SEEDS}
    test = lam[TRADE_OFFS[0], 0]["test"]
    known = lam[TRADE_OFFS[0], 0]["calibration"]
    alone, routed = times.alone, times.routed
    accuracy = test.correct.mean(axis=0)
    by_severity = [part.correct.mean(axis=0) for part in lam[TRADE_OFFS[0], 0]["by"]]
    best = int(accuracy.argmax())
    repeats = len(VARIANTS)
    counts = bench.counts
    text = [
        "# Routing between three experts on corrupted scene photographs\n",
        "```\npython benchmarks/intel_experts.py --data DATA/intel_scenes --work WORK/experts",
        "python benchmarks/intel_route.py --data DATA/intel_scenes --work WORK\n```\n",
        f"Machine: {describe()}. Router and experts run on one thread each. Latency is the median of 300 calls "
        "(30 of batches), experts and routers in turns, from decoded images: resizing, normalising and the "
        f"network. Decoding one image takes {ms(bench.decoding)} ms more, once, whatever is chosen; it is in "
        "no figure below.\n",
        f"Experts: trained from random weights on {counts['experts']:,} training images, {EPOCHS} epochs each and for `large` "
        f"{SECOND_EPOCHS['large']} more; corruption in training of at most {STRENGTH['small']:.0%}, "
        f"{STRENGTH['medium']:.0%} and {STRENGTH['large']:.0%} of the strongest (`intel_experts.py`; a clean "
        f"share of {CLEAN_SHARES[0]:.0%}, then {CLEAN_SHARES[1]:.0%}). Routers: {EPOCHS_ROUTER} epochs on {counts['router']:,} other "
        f"training images at four severities, Adam {RATE:g}, bfloat16, batch 32, input {SIZE} x {SIZE}, three seeds. "
        f"Budgets and thresholds: solved on {counts['calibration']:,} others. Test: {counts['test']:,} images "
        "at four severities.\n",
        "Severities, blur as standard deviation in hundredths of the image's shorter side, noise where pixels "
        "go from 0 to 1: "
        + ", ".join(f"{one} {BLUR[one]:g} or {NOISE[one]:g}" for one in SEVERITIES[1:])
        + "; each image gets one of the two.\n",
        "## Table 1: the experts and the router\n",
        table(
            "model | accuracy % | "
            + " | ".join(f"{s} %" for s in SEVERITIES)
            + " | latency ms | P95 ms | batched ms",
            [
                [
                    name,
                    pc(accuracy[i]),
                    *(pc(part[i]) for part in by_severity),
                    ms(bench.latency[f"{name} x1"].median),
                    ms(bench.latency[f"{name} x1"].p95),
                    ms(bench.latency[f"{name} x32"].per_sample),
                ]
                for i, name in enumerate(EXPERTS)
            ]
            + [
                [
                    f"router, {size} x {size}",
                    *["-"] * 5,
                    ms(bench.latency[f"router {size} x1"].median),
                    ms(bench.latency[f"router {size} x1"].p95),
                    ms(bench.latency[f"router {size} x32"].per_sample),
                ]
                for size in sorted((SIZE, *OTHER_SIZES))
            ],
        ),
        "",
        f"The most accurate expert is `{EXPERTS[best]}`; the router's {ms(times.router)} ms are "
        f"{times.router / alone[best]:.1%} of its latency (the paper: 0.82 of 7.56 ms, 10.8 %).\n",
        "## The paper's router, by lambda\n",
        f"Mean and standard deviation over {len(SEEDS)} seeds; latency is the router's plus the chosen expert's.\n",
        *severity_tables(bench, lam),
    ]
    low, high = routed.min(), alone.max()
    budgets = [float(low + (high - low) * k / (BUDGETS + 1)) for k in range(1, BUDGETS + 1)]
    one_router = {s: solved(bench, routers["benefit", None, s], budgets) for s in SEEDS}
    heuristic = solved(bench, routers["entropy"], budgets)
    mixture, frontier = static_mixture(alone, accuracy), oracle_frontier(test.correct, alone)

    def points(part: str) -> dict[int, list[tuple[float, float]]]:
        return {
            s: [
                (
                    float(shares_of(lam[t, s][part].scores.argmax(axis=1), 3) @ routed),
                    float(outcome(lam[t, s][part], lam[t, s][part].scores.argmax(axis=1)).mean()),
                )
                for t in TRADE_OFFS
            ]
            for s in SEEDS
        }

    judged_points = points("test")
    rows, against = [], []
    for k, budget in enumerate(budgets):
        spent, right, paper = [], [], []
        for s in SEEDS:
            chosen = one_router[s]["chosen"][k]
            spent.append(float(shares_of(chosen, 3) @ routed))
            right.append(outcome(test, chosen))
            # What a random mixture of this seed's lambda routers and the single experts reaches, in hindsight.
            costs = np.array([c for c, _ in judged_points[s]])
            hull = static_mixture(costs, np.array([a for _, a in judged_points[s]]))
            paper.append(hull.accuracy_at(spent[-1]))
        mean_right = np.mean(right, axis=0)
        cost, reached = float(np.mean(spent)), float(mean_right.mean())
        mixed = mixture_shares(alone, accuracy, cost)
        confident = fair_cascade(known, test, bench.experts, cost, by_entropy=False)
        unsure = fair_cascade(known, test, bench.experts, cost, by_entropy=True)
        predicted = outcome(test, heuristic["chosen"][k])
        others = {
            "mixture": (test.correct @ mixed, cost),
            "confidence cascade": confident[:2],
            "entropy cascade": unsure[:2],
            "predicted entropy": (predicted, float(shares_of(heuristic["chosen"][k], 3) @ routed)),
        }

        def room(accuracy: float, cost: float) -> str:
            return f"{headroom_at_cost(cost, accuracy, mixture, frontier):+.3f}"

        rows.append(
            [
                ms(budget),
                f"{ms(cost)} ({(cost / budget - 1):+.1%}, worst {max(abs(s / budget - 1) for s in spent):.1%})",
                f"{pc(reached)} ± {pc(np.std([r.mean() for r in right], ddof=1))} [{room(reached, cost)}]",
                (
                    "-"
                    if np.isnan(paper).any()
                    else f"{pc(np.mean(paper))} [{room(float(np.mean(paper)), cost)}]"
                ),
                *(f"{pc(r.mean())} [{room(float(r.mean()), c)}]" for r, c in others.values()),
                pc(frontier.accuracy_at(cost)),
            ]
        )
        for name, (r, _) in others.items():
            ahead, error = paired_difference(mean_right - r, repeats)
            against.append([ms(budget), name, f"{100 * ahead:+.2f} ± {196 * error:.2f}"])
    text += [
        "## One calibrated router for every budget\n",
        "Budgets evenly between the cheapest expert with a router and the dearest without; solved on the calibration "
        "images, spent on the test images. Accuracy in %, mean over seeds, and in brackets the headroom: 0 is the random "
        "mixture of experts, 1 the oracle, at the same mean latency. `paper` mixes the five lambda routers of a seed at "
        "the latency spent, choosing in hindsight, `-` where all of them spend more. Cascades: which one and its threshold are "
        "chosen on the calibration images, for the latency that the router spends; they need no router, and pay for every "
        "expert they run. `predicted entropy` is the paper's first phase: a router trained to predict the small expert's "
        "entropy.\n",
        table(
            "budget ms | spent ms | one router | paper | mixture | confidence cascade | entropy cascade | "
            "predicted entropy | oracle",
            rows,
        ),
        "",
        "Points of accuracy by which the calibrated router is ahead, with 95 % intervals, paired by image:\n",
        table("budget ms | against | points", against),
        "",
    ]
    text += against_paper(bench, routers, lam, repeats)
    text += claim(bench, one_router, budgets, alone=alone, accuracy=accuracy, best=best)
    text += sizes(bench, routers, budgets)
    errors = np.array([one_router[s]["errors"] for s in SEEDS]).mean(axis=0)
    text += [
        "## Calibration of the chances\n",
        "Expected calibration error on the test images, mean over seeds, before and after Platt scaling on the calibration images: "
        + ", ".join(f"{n} {pc(errors[0][i])} → {pc(errors[1][i])} %" for i, n in enumerate(EXPERTS))
        + ".\n",
    ]
    return text


def against_paper(bench: Bench, routers: dict, lam: dict, repeats: int) -> list[str]:
    """Give the calibrated router the latency that each lambda router spends, and compare point by point."""
    routed = bench.times().routed
    rows = []
    for trade_off in TRADE_OFFS:
        pairs, spent = [], []
        for seed in SEEDS:
            one = lam[trade_off, seed]
            budget = float(shares_of(one["calibration"].scores.argmax(axis=1), 3) @ routed)
            ours = solved(bench, routers["benefit", None, seed], [budget])
            chosen = ours["chosen"][0]
            theirs = one["test"].scores.argmax(axis=1)
            pairs.append((outcome(one["test"], chosen), outcome(one["test"], theirs)))
            spent.append((shares_of(chosen, 3) @ routed, shares_of(theirs, 3) @ routed))
        gaps = [float(a.mean() - b.mean()) for a, b in pairs]
        ahead, error = paired_difference(np.mean([a.astype(float) - b for a, b in pairs], axis=0), repeats)
        (mine, his), (ours, theirs) = (
            np.mean(spent, axis=0),
            np.mean([(a.mean(), b.mean()) for a, b in pairs], axis=0),
        )
        rows.append(
            [
                f"{trade_off:.2f}",
                ms(his),
                pc(theirs),
                ms(mine),
                pc(ours),
                f"{100 * ahead:+.2f} ± {196 * error:.2f}",
                ", ".join(f"{100 * gap:+.2f}" for gap in gaps),
            ]
        )
    return [
        "### Point by point\n",
        "The calibrated router with the mean latency of each lambda router as its budget, both as measured on the "
        "calibration images; interval paired by image.\n",
        table("lambda | its ms | its accuracy % | ours ms | ours % | points ahead | by seed", rows),
        "",
    ]


def claim(
    bench: Bench, one_router: dict, budgets: list[float], alone: np.ndarray, accuracy: np.ndarray, best: int
) -> list[str]:
    """Say at which budgets the paper's claim holds: 29 % less latency for at most 4 points."""
    routed = bench.times().routed
    rows = []
    for k, budget in enumerate(budgets):
        found, shares = [], []
        for seed in SEEDS:
            one = one_router[seed]
            chosen = one["chosen"][k]
            found.append((float(shares_of(chosen, 3) @ routed), float(outcome(one["test"], chosen).mean())))
            m = len(chosen) // len(VARIANTS)
            shares.append([shares_of(chosen[v * m : (v + 1) * m], 3) for v in range(len(VARIANTS))])
        cost, reached = np.mean(found, axis=0)
        by = np.mean(shares, axis=0)
        less, points = 1 - cost / alone[best], 100 * (reached - accuracy[best])
        rows.append(
            [
                ms(budget),
                f"{less:.0%}",
                f"{points:+.2f}",
                "yes" if less >= 0.29 and points >= -4 else "no",
                *(" / ".join(f"{100 * v:.0f}" for v in by[v]) for v in range(len(VARIANTS))),
            ]
        )
    return [
        f"### Against `{EXPERTS[best]}` alone ({ms(alone[best])} ms, {pc(accuracy[best])} %)\n",
        "The calibrated router, its own latency included; the paper reached 29 % less latency at -4.0 points. Shares are "
        "in % of small / medium / large.\n",
        table(
            "budget ms | less latency | points | 29 % at most 4 points down | "
            + " | ".join(f"shares, {one}" for one in SEVERITIES),
            rows,
        ),
        "",
    ]


def sizes(bench: Bench, routers: dict, budgets: list[float]) -> list[str]:
    """Say what a smaller or larger input of the router costs and brings."""
    rows = []
    for size in sorted((SIZE, *OTHER_SIZES)):
        router = routers["benefit", None, 0] if size == SIZE else routers["size", size]
        times = bench.times(size)
        within = [b for b in budgets if b >= times.routed.min()]
        one = solved(bench, router, within, size)
        rows.append(
            [
                f"{size} x {size}",
                ms(times.router),
                f"{times.router / times.alone.max():.1%}",
                *["-"] * (len(budgets) - len(within)),
                *(
                    f"{pc(outcome(one['test'], c).mean())} ({ms(shares_of(c, 3) @ times.routed)})"
                    for c in one["chosen"]
                ),
            ]
        )
    return [
        "## The router's input size\n",
        "One seed; accuracy in % and in brackets the ms spent, at the same five budgets.\n",
        table("input | ms | of the large expert | " + " | ".join(f"at {ms(b)} ms" for b in budgets), rows),
        "",
    ]


if __name__ == "__main__":
    main()
