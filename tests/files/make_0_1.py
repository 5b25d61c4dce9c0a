"""Write the files of version 0.1, as it stood at commit 07b49cb; run it with that version's code.

    git worktree add --detach OLD 07b49cb
    PYTHONPATH=OLD/src python tests/files/make_0_1.py

It builds in /tmp/sparing-0.1, since profiles name their experts by absolute paths, and copies all but `route`
to `0.1` beside it: empty that of its earlier files first. Running it again with a later
version would defeat the purpose.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent / "0.1"
WORK = Path("/tmp/sparing-0.1")  # noqa: S108 -- its name is in the files
CLI = "from sparing.cli.main import main; main()"
EXPECTED = {}


def sparing(*arguments, fails=False, **environment):
    run = subprocess.run(
        [sys.executable, "-c", CLI, *map(str, arguments)],
        env={**os.environ, **environment, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode != 0) == fails, run.stderr
    return run.stdout


def as_json(*arguments, **environment):
    return json.loads(sparing(*arguments, "--json", **environment))


def export(name, *arguments, to=None):
    sparing("cache", "export", f"{name}.lance", "--out", f"{to or name}.parquet", *arguments)


def told(name):
    info = as_json("cache", "info", f"{name}.lance")
    keep = (
        "rows",
        "classes",
        "encoding",
        "round",
        "version",
        "id_type",
        "accuracy",
        "labelled",
        "unfinished",
    )
    history = as_json("cache", "history", f"{name}.lance")["history"]
    EXPECTED[name] = {
        **{key: info[key] for key in keep},
        "models": [{key: m[key] for key in ("name", "rows")} for m in info["models"]],
        "history": [{key: entry[key] for key in ("op", "round", "version")} for entry in history],
        "reports": [entry["report"] for entry in history if "report" in entry],
    }
    export(name)


def write_inputs():
    sys.path.insert(0, str(WORK))
    import models

    from sparing.data.tables import write_outputs

    ids = [f"s{i:04d}" for i in range(400)]
    labels = models.newest(range(400)).argmax(axis=1)
    labels[::7] = 0
    pq.write_table(pa.table({"id": ids, "value": range(400), "label": labels}), "samples.parquet")
    write_outputs(Path("old.parquet"), pa.array(ids[:120]), models.old(range(120)), labels[:120])
    write_outputs(Path("many.parquet"), pa.array(ids), models.old(range(400)), labels)
    write_outputs(Path("numbered.parquet"), pa.array(range(1000, 1060)), models.old(range(60)))
    Path("classes.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    rng = np.random.default_rng(5)
    vectors = np.stack([np.ones(60), rng.random(60)], axis=1).astype(np.float32)
    pq.write_table(
        pa.table(
            {
                "id": [f"v{i:02d}" for i in range(60)],
                "value": pa.array(vectors.tolist(), pa.list_(pa.float32())),
                "label": np.where(rng.random(60) < 0.8, 0, 1),
            }
        ),
        "vectors.parquet",
    )
    images = []
    for number in range(24):
        shade = 128 + (60 if number % 2 else -60) + rng.integers(-20, 20)
        waves = 40 * np.sin(np.arange(32) / 4)[:, None, None] * rng.normal(size=(1, 1, 3))
        pixels = np.clip(shade + waves + 8 * rng.normal(size=(32, 32, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append({"id": f"i{number:02d}", "image": buffer.getvalue(), "label": 1 - number % 2})
    pq.write_table(pa.Table.from_pylist(images), "images.parquet")


def write_caches():
    samples = ("--samples", "samples.parquet")
    sparing("cache", "import", "strings.lance", "--from", "old.parquet", "--model", "old",
        "--digest", "callable:models:old", "--classes", "classes.txt")  # fmt: skip
    fit = ("fit", "strings.lance", *samples, "--rows", 60, "--epochs", 4, "--out")
    sparing(*fit, "sorted.router", "--model", "new=models.py:new", "--scorer", "change")
    shutil.copytree("strings.lance", "known.lance")
    EXPECTED["known_preview"] = as_json(
        "refresh", "known.lance", "--model", "new=models.py:new", *samples,
        "--router", "sorted.router", "--scorer", "router", "--budget", "70%", "--dry-run",
    )  # fmt: skip
    told("known")
    sparing(
        "refresh", "strings.lance", "--model", "new=models.py:new", *samples,
        "--router", "sorted.router", "--scorer", "router", "--budget", "50%",
    )  # fmt: skip
    sparing(
        "fit", "strings.lance", *samples, "--rows", 40, "--epochs", 4, "--hidden", 8, "--input", "plain",
        "--model", "newer=models.py:newer", "--model", "new=models.py:new", "--out", "plain.router",
    )  # fmt: skip
    correct = ("--correct", "--recent", "old=models.py:old", "--recent", "new=models.py:new")
    sparing(
        "fit", "strings.lance", *samples, "--rows", 40, "--epochs", 4,
        "--model", "newer=models.py:newer", "--out", "round2.router",
    )  # fmt: skip
    sparing(
        "refresh", "strings.lance", "--model", "newer=models.py:newer", *samples, *correct,
        "--router", "round2.router", "--scorer", "router", "--budget", "50%",
    )  # fmt: skip
    sparing(
        "refresh", "strings.lance", "--model", "newest=models.py:newest", *samples,
        "--objective", "accuracy", "--scorer", "entropy", "--budget", "40%",
    )  # fmt: skip
    told("strings")
    for version in {entry["version"] for entry in EXPECTED["strings"]["history"]}:
        export("strings", "--version", version, to=f"strings-version{version}")

    # What the version did next, from here on: the same is asked of its files.
    def continued(name, *arguments):
        shutil.copytree("strings.lance", f"{name}.lance")
        report = as_json("refresh", f"{name}.lance", *samples, *arguments)
        EXPECTED[name] = {
            key: report[key] for key in ("round", "rows", "refreshed", "screened", "corrected", "accuracy")
        }
        EXPECTED[name]["forwards"] = report["account"]["forwards"]
        export(name)
        shutil.rmtree(f"{name}.lance")

    again = ("--recent", "new=models.py:new", "--recent", "newer=models.py:newer")
    sparing(
        "fit", "strings.lance", *samples, "--rows", 40, "--epochs", 4,
        "--model", "failing=models.py:failing", "--out", "next.router",
    )  # fmt: skip
    continued(
        "corrected", "--model", "failing=models.py:failing", "--correct", "--recent", "old=models.py:old",
        *again, "--recent", "newest=models.py:newest", "--router", "next.router", "--scorer", "router",
        "--budget", "50%",
    )  # fmt: skip
    continued(
        "by-plain", "--model", "newer=models.py:newer", "--model", "new=models.py:new",
        "--router", "plain.router", "--scorer", "router", "--budget", "50%",
    )  # fmt: skip
    continued(
        "by-change", "--model", "new=models.py:new", "--router", "sorted.router", "--scorer", "change",
        "--budget", "30%",
    )  # fmt: skip
    for scorer in ("router", "change", "entropy", "margin", "least-confidence", "random"):
        EXPECTED[f"preview-{scorer}"] = as_json(
            "refresh", "strings.lance", "--model", "new=models.py:new", *samples, "--router", "sorted.router",
            "--scorer", scorer, "--budget", "50%", "--dry-run",
        )  # fmt: skip

    EXPECTED["preview-preferred"] = as_json(
        "refresh", "strings.lance", "--model", "new=models.py:new", *samples, "--router", "sorted.router",
        "--budget", "50%", "--dry-run",
    )  # fmt: skip

    for encoding in ("float32", "int8", "int4", "top2-int4", "top3-int4"):
        name = f"numbered-{encoding}"
        sparing(
            "cache", "import", f"{name}.lance", "--from", "numbered.parquet", "--model", "old",
            "--encoding", encoding,
        )  # fmt: skip
        told(name)

    sparing("cache", "import", "staged.lance", "--from", "many.parquet", "--model", "old")
    shutil.copytree("staged.lance", "finished.lance")
    command = ("--model", "failing=models.py:failing", *samples, "--scorer", "margin", "--budget", "80%")
    sparing("refresh", "staged.lance", *command, fails=True, FAIL_AFTER="200")
    told("staged")
    report = as_json("refresh", "finished.lance", *command)
    EXPECTED["finished"] = {"refreshed": report["refreshed"], "forwards": report["account"]["forwards"]}
    export("finished")
    shutil.rmtree("finished.lance")
    fill = ("cache", "fill", "filled.lance", "--model", "failing=models.py:failing", *samples)
    sparing(*fill, fails=True, FAIL_AFTER="200")
    beside = [path for path in Path().iterdir() if "filled" in path.name]
    EXPECTED["filling"] = {"beside": sorted(path.name for path in beside)}
    for path in beside:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(f"kept{path.name}"))
    sparing(*fill)
    export("filled")
    shutil.rmtree("filled.lance")
    for path in Path().glob("kept*"):
        path.rename(path.name.removeprefix("kept"))


def save_onnx(path, nodes, feed, output, **constants):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, feed)],
        [info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_models():
    rng = np.random.default_rng(3)
    product = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    save_onnx("vector.onnx", product, ["n", 2], ["n", 5], w=rng.normal(size=(2, 5)).astype(np.float32))
    Path("vector.toml").write_text(
        '[input]\nmean = [0.5, 0.25]\nstd = 2.0\nscale = 3\ndtype = "float32"\n\n'
        '[output]\nname = "y"\nlogits = true\nclasses = ["a", "b", "c", "d", "e"]\n\n'
        '[run]\nbatch_size = 7\nthreads = 1\nproviders = ["CPUExecutionProvider"]\n'
    )
    flat = [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["y"])]
    weights = rng.normal(size=(3 * 6 * 8, 5)).astype(np.float32) / 4
    save_onnx("image.onnx", flat, ["n", 3, 6, 8], ["n", 5], w=weights)
    Path("image.toml").write_text(
        '[input]\nname = "x"\ndecode = "image"\nresize = [6, 8]\nmean = [0.4, 0.5, 0.6]\n'
        'std = [0.2, 0.3, 0.4]\nlayout = "NCHW"\n\n[output]\nlogits = true\n'
    )
    for name, samples in (("vector", "vectors.parquet"), ("image", "images.parquet")):
        sparing("cache", "fill", f"{name}.lance", "--model", f"{name}={name}.onnx", "--samples", samples)
        told(name)


def write_routers():
    from sparing.route.experts import Latency
    from sparing.route.gater import Description, write_gater
    from sparing.route.profile import open_profile

    vectors = ("--samples", "vectors.parquet")
    sparing(
        "route", "profile", "--expert", "small=models.py:small", "--expert", "large=models.py:large",
        *vectors, "--out", "experts", "--cost", "small=0.1", "--cost", "large=0.9",
    )  # fmt: skip
    single = (2e-3, 8e-3)
    experts = tuple(
        replace(
            expert,
            single=replace(expert.single, median=time, p95=1.2 * time),
            batched=replace(expert.batched, median=8 * time, p95=10 * time),
        )
        for expert, time in zip(open_profile(WORK / "experts").experts, single, strict=True)
    )
    for objective in ("benefit", "trade-off", "entropy"):
        folder = Path(f"gater-{objective}")
        folder.mkdir()
        described = Description(
            objective, experts, Latency(1, 5e-4, 6e-4, 50), Latency(32, 1.6e-3, 2e-3, 50), None, {"seed": 0}
        )
        write_gater(folder, described)
        product = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        weights = np.array([[4.0, 5.0], [-5.0, -2.0]], np.float32)
        save_onnx(folder / "gater.onnx", product, ["n", 2], ["n", 2], w=weights)
        (folder / "gater.toml").touch()
    for objective in ("benefit", "entropy"):
        found = as_json(
            "route", "calibrate", f"gater-{objective}", "experts", *vectors,
            "--cost-budget", 0.3, "--cost-budget", 0.5, REFUSE="1",
        )  # fmt: skip
        EXPECTED[f"calibrate-{objective}"] = [
            {key: point[key] for key in ("budget", "unit", "spent", "accuracy", "shares")}
            for point in found["points"]
        ]
    for name, more in (
        ("benefit", ()), ("trade-off", ()), ("entropy", ()), ("benefit", ("--budget", "0.3 units")),
    ):  # fmt: skip
        out = f"answers-{name}{len(more)}.parquet"
        point = json.loads(Path(f"gater-{name}/gater.json").read_text())["points"]
        budget = () if not more else ("--budget", point[1]["budget"])
        sparing("route", "run", f"gater-{name}", *vectors, "--out", out, *budget)
        EXPECTED[out] = list(budget)
    report = as_json("route", "evaluate", "gater-benefit", "experts", *vectors, REFUSE="1")
    EXPECTED["evaluate-benefit"] = [
        {
            "budget": point["budget"],
            "rows": [
                {key: row[key] for key in ("name", "kind", "accuracy", "shares")}
                for row in point["parts"][0]["rows"]
                if row["kind"] in ("gater", "expert", "oracle")
            ],
        }
        for point in report["points"]
    ]
    images = ("--samples", "images.parquet")
    sparing(
        "route", "profile", "--expert", "dark=models.py:dark", "--expert", "sure=models.py:sure", *images,
        "--out", "image-experts", "--corrupt", "blur", "--cost", "dark=1", "--cost", "sure=2",
    )  # fmt: skip
    sparing(
        "route", "train", "image-experts", *images, "--out", "gater-trained", "--backbone", "models.py:tiny",
        "--size", 16, "--epochs", 2, "--trade-off", 0.5,
    )  # fmt: skip
    trained = onnx.load("gater-trained/gater.onnx")
    for node in trained.graph.node:
        del node.metadata_props[:]  # torch writes down where on this machine its own source lies
    onnx.save(trained, "gater-trained/gater.onnx")
    sparing("route", "run", "gater-trained", *images, "--out", "answers-trained.parquet")


def write_offload():
    from sparing.models.load import load_callable
    from sparing.offload import Scheme, read_picture
    from sparing.offload.payload import unpack

    edge = load_callable("models.py:edge")
    both = ("--edge", "models.py:edge", "--server-model", "models.py:server", "--samples", "images.parquet")
    sparing(
        "offload", "calibrate", *both, "--budgets", "64B,200B,500B", "--threshold", "0.01",
        "--gate", "entropy", "--policies", "raw:importance:4,mosaic:spread:16:dct8,whole:dct16,whole:webp:4",
        "--out", "policy.toml",
    )  # fmt: skip
    evaluated = as_json(
        "offload", "evaluate", *both, "--budgets", "64B,200B,500B", "--policies", "whole:dct16",
        "--policy", "policy.toml",
    )  # fmt: skip
    EXPECTED["offload"] = [
        {key: row[key] for key in ("budget", "scheme", "accuracy_offloaded", "mean_bytes")}
        for row in evaluated["rows"]
    ]
    values = pq.read_table("images.parquet")["image"].to_pylist()[:2]
    pixels = np.stack([read_picture(value, edge.geometry) for value in values])
    schemes = [
        "raw:random", "raw:grid:2", "raw:importance:4", "raw:sage:8", "mosaic:spread:16:dct8",
        "mosaic:coverage:9:webp", "mosaic:importance:9:jpeg", "whole:dct8", "whole:dct16", "whole:dct32",
        "whole:webp", "whole:jpeg", "whole:avif", "whole:dct16:4", "whole:webp:4", "whole:jpeg:6",
    ]  # fmt: skip
    payloads, patches, positions = {}, {}, {}
    for text in schemes:
        payload = Scheme.parse(text).encode(pixels, edge(pixels), edge.geometry, [400])[0][1]
        evidence = unpack(payload, edge.geometry)
        payloads[text] = np.frombuffer(payload, np.uint8)
        patches[text], positions[text] = evidence.patches, evidence.positions
    for name, arrays in (("payloads", payloads), ("patches", patches), ("positions", positions)):
        np.savez_compressed(f"{name}.npz", **arrays)
    assert asdict(edge.geometry) == {"height": 32, "width": 32, "patch": 4}


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.chdir(WORK)
    shutil.copy(HERE / "models.py", WORK)
    for step in (write_inputs, write_caches, write_models, write_routers, write_offload):
        step()
    Path("expected.json").write_text(json.dumps(EXPECTED, indent=1, sort_keys=True) + "\n")
    shutil.rmtree("__pycache__", ignore_errors=True)
    shutil.copytree(WORK, HERE, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
