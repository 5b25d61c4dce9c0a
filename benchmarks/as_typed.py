"""The documented commands, as a user types them, on every pair of models: all forwards in the budget.

    python benchmarks/as_typed.py --data DATA --work WORK [--jobs 2] [--only PART] > results/as_typed.md

Every policy is a call of `sparing.refresh` on a cache of its own, with the new model's outputs replayed:

- default: `sparing refresh CACHE --model new=... --budget B`, with `--features` where the name says "+ text";
- entropy: the same with `--scorer entropy`;
- PURE: `sparing fit` with its default of 500 rows, whose forwards count, then `sparing refresh --ranker`;
- random: the same as the first with `--scorer random`;
- oracle: no policy that keeps the old answer of a row that is not run can be better.

Consistency is the share of rows on which the cache agrees with a full re-run, mean over draws. DATA holds the
folders cifar100, cifar10 and text. The text classifiers are trained here: naive Bayes on word counts, replaced by
logistic regression on tf-idf with three times the data. WORK keeps outputs and finished runs between calls.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from machine import describe, load
from sparing.cache import Cache, import_outputs
from sparing.data.tables import read_outputs, write_outputs
from sparing.models import load_model
from sparing.refresh import RefreshOptions, fit, refresh

BUDGETS = (0.1, 0.2, 0.5, 0.8)
POLICIES = ("random", "entropy", "PURE", "default", "oracle")
FIT_ROWS = 500


@dataclass(frozen=True)
class Pair:
    """An update: where the outputs of both models are, and what columns the samples have."""

    name: str
    old: Path
    new: Path
    features: Path | None = None


CIFAR = (
    ("cifar100", "resnet20", "resnet56"),
    ("cifar100", "resnet56", "resnet20"),
    ("cifar100", "resnet20_distilled", "resnet56"),
    ("cifar100", "resnet44_distilled", "resnet56"),
    ("cifar100", "resnet20_distilled", "resnet20"),
    ("cifar10", "resnet20", "resnet56"),
    ("cifar10", "vit_server", "resnet56"),
    ("cifar10", "vit_edge", "resnet56"),
    ("cifar10", "vit_edge", "vit_server"),
    ("cifar10", "vit_nano", "vit_edge"),
)
TEXTS = ("sst2", "ag_news")


def pairs(data: Path, work: Path) -> Iterator[Pair]:
    """Yield every pair; outputs that are not in WORK are computed."""
    for folder, old, new in CIFAR:
        paths = [cifar_outputs(name, data / folder, work / folder) for name in (old, new)]
        yield Pair(f"{folder} {old} → {new}", *paths)
    for name in TEXTS:
        old_path, new_path, texts = text_outputs(name, data / "text", work / "text")
        yield Pair(f"{name} naive Bayes → logistic regression", old_path, new_path)
        yield Pair(f"{name} naive Bayes → logistic regression + text", old_path, new_path, texts)


def cifar_outputs(name: str, data: Path, work: Path) -> Path:
    """Compute the outputs of a ResNet or a ViT over the test rows, unless they are there."""
    path = work / f"{name}.parquet"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        if name.startswith("vit"):
            write_outputs(path, pq.read_table(data / "test.parquet")["id"], vit_outputs(name, data))
        else:
            from cifar import outputs

            outputs(name, data, work)
    return path


def vit_outputs(name: str, data: Path) -> np.ndarray:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "offload"))
    import torch
    from cifar10_vits import EdgeViT, ServerViT, load_images

    pixels = torch.from_numpy(load_images(data)[0]).permute(0, 3, 1, 2).float() / 255
    weights = torch.load(data / f"{name}.pth", weights_only=True, map_location="cpu")
    if name == "vit_nano":
        with torch.inference_mode():
            return torch.softmax(nano_logits(weights, pixels), dim=1).numpy()
    model = EdgeViT() if name == "vit_edge" else ServerViT()
    model.load_state_dict(weights)
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 250):
            batch = pixels[start : start + 250]
            if name == "vit_edge":
                logits = model(batch, -1)[0]
            else:
                patches = batch.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
                places = torch.arange(64).expand(len(batch), 64)
                logits = model(patches.reshape(len(batch), 64, 3, 4, 4), places)
            parts.append(torch.softmax(logits, dim=1).numpy())
    return np.concatenate(parts)


def nano_logits(weights: dict, pixels):
    """Run the smallest ViT: four patches of 16 pixels, no class token, their mean; ten of its 1,000 classes."""
    import torch.nn.functional as F  # noqa: N812

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (32,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    x = F.conv2d(
        (pixels - 0.5) / 0.5, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], 16
    )
    x = x.flatten(2).transpose(1, 2) + weights["pos_embed"]
    for block in (f"blocks.{number}" for number in range(3)):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(len(x), 4, 3, 4, 8).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 4, 32)
        x = x + weights[f"{block}.ls1.gamma"] * linear(attended, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return linear(norm(x.mean(dim=1), "fc_norm"), "head")[:, :10]


def text_outputs(name: str, data: Path, work: Path) -> tuple[Path, Path, Path]:
    """Train both text classifiers, and write what they say of the texts that neither has seen."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    old, new, kept = (work / f"{name}-{part}.parquet" for part in ("old", "new", "text"))
    if all(path.exists() for path in (old, new, kept)):
        return old, new, kept
    work.mkdir(parents=True, exist_ok=True)
    texts, labels = read_texts(name, data)
    few, many = {"sst2": (1000, 3000), "ag_news": (500, 1600)}[name]
    order = np.random.default_rng(0).permutation(len(texts))
    texts, labels = [texts[i] for i in order], labels[order]
    counts = CountVectorizer(min_df=2).fit(texts[:few])
    bayes = MultinomialNB().fit(counts.transform(texts[:few]), labels[:few])
    weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit(texts[:many])
    linear = LogisticRegression(C=10, max_iter=1000).fit(weights.transform(texts[:many]), labels[:many])
    rest, ids = texts[many:], [f"t{i:05d}" for i in range(len(texts) - many)]
    write_outputs(old, ids, bayes.predict_proba(counts.transform(rest)), labels[many:])
    write_outputs(new, ids, linear.predict_proba(weights.transform(rest)), labels[many:])
    pq.write_table(pa.table({"id": ids, "text": rest}), kept)
    return old, new, kept


def read_texts(name: str, data: Path) -> tuple[list[str], np.ndarray]:
    if name == "ag_news":
        with (data / "ag_news_test.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row[0] in "1234"]
        return [f"{row[1]} {row[2]}" for row in rows], np.array([int(row[0]) - 1 for row in rows])
    found = []
    for part in ("train", "dev", "test"):
        for line in (data / "sst2" / f"{part}.tsv").read_text(encoding="utf-8").splitlines():
            text, tab, label = line.rpartition("\t")
            if tab and label in ("0", "1"):
                found.append((text, int(label)))
    return [text for text, _ in found], np.array([label for _, label in found])


def play(pair: Pair, seed: int) -> list[dict[str, object]]:
    """Run every policy at every budget with one seed."""
    found: list[dict[str, object]] = []
    wanted = read_outputs(pair.new)
    classes = dict(zip(wanted.ids.to_pylist(), wanted.probs.argmax(axis=1).tolist(), strict=True))

    def agreement(path: Path) -> float:
        rows = Cache.open(path).get(wanted.ids)
        new = np.array([classes[name] for name in rows.ids.to_pylist()])
        return float((rows.probs.argmax(axis=1) == new).mean())

    with tempfile.TemporaryDirectory() as folder:
        fresh, fitted, run = (Path(folder) / name for name in ("fresh.lance", "fitted.lance", "run.lance"))
        import_outputs(fresh, pair.old, model="old")
        model = load_model(f"new={pair.new}")
        shutil.copytree(fresh, fitted)
        ranker = fit(fitted, [model], rows=FIT_ROWS, seed=seed)
        agree = agreement(fresh)
        for budget in BUDGETS:
            for policy in POLICIES:
                started = perf_counter()
                learning = None
                if policy == "oracle":
                    share, forwards = min(agree + budget, 1.0), budget
                else:
                    shutil.rmtree(run, ignore_errors=True)
                    shutil.copytree(fitted if policy == "PURE" else fresh, run)
                    options = {
                        "random": {"scorer": "random"},
                        "entropy": {"scorer": "entropy"},
                        "PURE": {"ranker": ranker, "scorer": "router"},
                        "default": {} if pair.features is None else {"features": pair.features},
                    }[policy]
                    report = refresh(run, [model], RefreshOptions(budget=str(budget), seed=seed, **options))
                    share, forwards, learning = agreement(run), report.share_of_forwards, report.learning
                found.append(
                    {
                        "pair": pair.name,
                        "rows": len(classes),
                        "agree": agree,
                        "seed": seed,
                        "budget": budget,
                        "policy": policy,
                        "consistency": share,
                        "forwards": forwards,
                        "learning": learning,
                        "seconds": perf_counter() - started,
                    }
                )
    return found


def table(found: list[dict[str, object]]) -> str:
    """Write the tables of all finished runs."""
    lines, gaps, wide, worst = [], [], [], []
    for name in dict.fromkeys(str(run["pair"]) for run in found):
        mine = [run for run in found if run["pair"] == name]
        lines += [f"\n**{name}** ({mine[0]['rows']:,} rows, both agree on {mine[0]['agree']:.1%})\n"]
        lines += ["| budget | " + " | ".join(POLICIES) + " | default - best | learned slices | seconds |"]
        lines += ["|" + "---|" * (len(POLICIES) + 4)]
        for budget in BUDGETS:
            at = [run for run in mine if run["budget"] == budget]
            values = {p: np.array([100 * r["consistency"] for r in at if r["policy"] == p]) for p in POLICIES}
            over = {p: max(float(r["forwards"]) for r in at if r["policy"] == p) for p in POLICIES}
            means = {policy: float(v.mean()) for policy, v in values.items()}
            gap = means["default"] - max(means["entropy"], means["PURE"])
            if budget >= 0.2:
                gaps.append((gap, name, budget))
            if budget == 0.5 and float(mine[0]["agree"]) < WIDE:
                wide.append((means["default"] - means["entropy"], name))
            worst += [policy for policy in POLICIES if over[policy] > budget]
            own = [r for r in at if r["policy"] == "default"]
            learned = [f"{r['learning']['learned']}/{r['learning']['slices']}" for r in own]
            cells = [f"{means['random']:.2f}", f"{means['entropy']:.2f}"]
            cells += [
                f"{means[p]:.2f} ({values[p].min():.2f} to {values[p].max():.2f})"
                for p in ("PURE", "default")
            ]
            cells += [f"{means['oracle']:.2f}", f"{gap:+.2f}", learned[0]]
            cells += [f"{np.mean([r['seconds'] for r in own]):.1f}"]
            lines.append(f"| {budget:.0%} | " + " | ".join(cells) + " |")
    head = []
    for what, cells in (
        ("Without columns", [gap for gap in gaps if "+" not in gap[1]]),
        ("With the text as a column", [gap for gap in gaps if "+" in gap[1]]),
    ):
        if cells:
            low = min(cells)
            head.append(
                f"- {what}, from 20 % up, the default is on average {np.mean([g for g, *_ in cells]):+.2f} points "
                f"from the better of entropy and PURE; at worst {low[0]:+.2f} ({low[1]}, {low[2]:.0%})."
            )
    below = [f"{name} at {budget:.0%} ({gap:+.2f})" for gap, name, budget in gaps if gap < -0.3]
    head.append(f"- Cells from 20 % up that are more than 0.3 points below: {', '.join(below) or 'none'}.")
    if wide:
        head.append(
            f"- Over the wide gaps (both models agree on less than {WIDE:.0%}) at 50 % the default is on average "
            f"{np.mean([g for g, _ in wide]):+.2f} points above entropy: "
            + ", ".join(f"{n} {g:+.2f}" for g, n in wide)
            + "."
        )
    if worst:
        head.append(f"- OVER BUDGET: {', '.join(sorted(set(worst)))}.")
    return "\n".join([*head, *lines])


WIDE = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only", default="", help="only pairs whose name has this in it")
    parser.add_argument("--table", action="store_true", help="run nothing; write the table of what is there")
    given = parser.parse_args()
    kept = given.work / "as_typed.jsonl"
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(run["pair"], run["seed"]) for run in found}
    every = [pair for pair in pairs(given.data, given.work) if given.only in pair.name]
    work = [(pair, seed) for seed in range(given.draws) for pair in every if (pair.name, seed) not in done]
    if not given.table:
        with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool, kept.open("a") as file:
            for runs in pool.map(_play, work):
                found += runs
                file.writelines(json.dumps(run) + "\n" for run in runs)
                file.flush()
                print(runs[0]["pair"], runs[0]["seed"], file=sys.stderr, flush=True)
    names = [pair.name for pair in every]
    found = sorted((r for r in found if r["pair"] in names), key=lambda r: names.index(r["pair"]))
    whole = [
        seed for seed in range(given.draws) if {r["pair"] for r in found if r["seed"] == seed} == set(names)
    ]
    found, draws = [run for run in found if run["seed"] in whole], len(whole)
    print("# The documented commands, with every forward in the budget\n")
    print(f"`python benchmarks/as_typed.py --data DATA --work WORK --jobs {given.jobs} --draws {draws}`\n")
    print(f"{describe()}; {load()}.")
    print(
        f"Consistency in percent, mean (and range) over draws: {draws}. Seconds are the default's own, since"
    )
    print("outputs are replayed, on a machine that others used, too. Learned slices: of the first draw.\n")
    print(table(found))


def _play(work: tuple[Pair, int]) -> list[dict[str, object]]:
    return play(*work)


if __name__ == "__main__":
    main()
