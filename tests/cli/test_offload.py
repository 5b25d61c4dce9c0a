import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparing.cli.main import main
from sparing.cli.offload import _print_rows
from sparing.data.tables import read_outputs

MODELS = """
import numpy as np
from sparing.offload import EdgeModel, EdgeOutput, Geometry, ServerModel

GEOMETRY = Geometry(32, 32, 4)

def describe(pixels):
    cut = GEOMETRY.cut(pixels).reshape(len(pixels), 64, -1).astype(float)
    bright = cut.mean((1, 2)) / 10 - 12.8
    return EdgeOutput(np.stack([bright, -bright], axis=1), cut.std(2), cut)

def judge(patches, positions):
    bright = patches.mean((1, 2, 3, 4)) / 2 - 64
    return np.stack([bright, -bright], axis=1)

edge = EdgeModel(describe, GEOMETRY)
server = ServerModel(judge, GEOMETRY)
other = ServerModel(judge, Geometry(32, 32, 8))

def plain(values):
    return values
"""


def images(m):
    rng = np.random.default_rng(0)
    shade = 128 + 15 * rng.normal(size=(m, 1, 1, 1))
    waves = 60 * np.sin(np.arange(32) / 4)[:, None, None] * rng.normal(size=(m, 1, 1, 3))
    return np.clip(shade + waves + 10 * rng.normal(size=(m, 32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    rows = []
    for number, image in enumerate(images(30)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        rows.append({"id": f"s{number}", "image": buffer.getvalue(), "label": int(image.mean() < 128)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "images.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sparing(monkeypatch, *arguments):
    """Run the command; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sparing", "offload", *arguments])
    try:
        main()
    except SystemExit as done:
        return done.code or 0
    return 0


BOTH = ("--edge", "models.py:edge", "--server-model", "models.py:server", "--samples", "images.parquet")
EVERYTHING = ("--threshold", "0")


@pytest.fixture
def url(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "t").write_text("s3cret\n")
    code = "from sparing.cli.main import main; main()"
    arguments = ["offload", "serve", "--model", "models.py:server", "--port", str(port), "--token-file", "t"]
    service = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0
    finally:
        service.kill()
        service.wait()


def test_serve_and_send(folder, url, monkeypatch, capsys):
    code = sparing(
        monkeypatch, "send", "--edge", "models.py:edge", "--server", url, "--samples", "images.parquet",
        "--budget", "200B", "--out", "answers.parquet", "--token-file", "t", "--json", *EVERYTHING,
        "--timeout", "20",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answered_by"] == {"server": 30}
    assert said["payload_bytes"]["max"] <= 200
    table = pq.read_table("answers.parquet")
    assert table["id"].to_pylist() == [f"s{number}" for number in range(30)]
    assert set(table["by"].to_pylist()) == {"server"}
    assert read_outputs("answers.parquet").probs.shape == (30, 2)
    assert not Path("answers.parquet.partial").exists()


def test_send_answers_without_a_server_and_says_why(folder, monkeypatch, capsys):
    code = sparing(
        monkeypatch, "send", "--edge", "models.py:edge", "--server", "http://127.0.0.1:1", "--samples",
        "images.parquet", "--budget", "200B", "--out", "answers.parquet", "--json", *EVERYTHING,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0
    assert json.loads(captured.out)["answered_by"] == {"edge": 30}
    assert "the edge answers until the server does" in captured.err
    assert pq.read_table("answers.parquet").num_rows == 30


def test_send_refuses_a_server_of_another_geometry_and_writes_nothing(folder, url, monkeypatch, capsys):
    text = MODELS.replace("Geometry(32, 32, 4)", "Geometry(32, 32, 8)").replace("), 64, -1)", "), 16, -1)")
    (folder / "coarse.py").write_text(text)
    code = sparing(
        monkeypatch, "send", "--edge", "coarse.py:edge", "--server", url, "--samples", "images.parquet",
        "--budget", "200B", "--out", "answers.parquet", "--token-file", "t",
    )  # fmt: skip
    assert code == 1
    assert "differ in patch: 8 here, 4 there" in capsys.readouterr().err
    assert not list(folder.glob("answers*"))


def test_send_names_differing_class_counts_before_anything_is_offloaded(folder, url, monkeypatch, capsys):
    text = MODELS.replace("np.stack([bright, -bright]", "np.stack([bright, -bright, bright]")
    (folder / "three.py").write_text(text)
    code = sparing(
        monkeypatch, "send", "--edge", "three.py:edge", "--server", url, "--samples", "images.parquet",
        "--budget", "200B", "--out", "answers.parquet", "--token-file", "t",
    )  # fmt: skip
    assert code == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error == ["error: edge and server differ in classes: 3 here, 2 there"]
    assert not list(folder.glob("answers*"))
    metrics = httpx.get(f"{url}/metrics", headers={"authorization": "Bearer s3cret"}).text
    assert "/v1/answer" not in metrics


@pytest.mark.parametrize("size", [1, 64])
def test_a_share_holds_over_the_whole_run(folder, monkeypatch, capsys, size):
    monkeypatch.setattr("sparing.offload.session.BATCH", size)
    code = sparing(
        monkeypatch, "send", "--edge", "models.py:edge", "--server", "http://127.0.0.1:1", "--samples",
        "images.parquet", "--budget", "200B", "--out", "a.parquet", "--json", "--share", "0.3",
    )  # fmt: skip
    assert code == 0
    assert json.loads(capsys.readouterr().out)["offloaded"] == 9


def test_evaluate_compares_schemes(folder, monkeypatch, capsys):
    schemes = "whole:dct16,raw:sage"
    arguments = ["evaluate", *BOTH, *EVERYTHING, "--budgets", "2KB,100B", "--policies", schemes]
    assert sparing(monkeypatch, *arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [(row["budget"], row["max_bytes"] <= row["budget"]) for row in said["rows"]] == [
        (100, True), (100, True), (2000, True), (2000, True),
    ]  # fmt: skip
    assert said["offloaded"] == 30
    assert sparing(monkeypatch, *arguments, "--rate", "1000", "--timeout", "0.5") == 0
    assert "whole:dct16" in capsys.readouterr().out


def test_calibrate_writes_a_policy_that_evaluate_reads(folder, monkeypatch, capsys):
    arguments = [*BOTH, *EVERYTHING, "--budgets", "3B,60B,500B", "--policies", "whole:dct16,raw:grid"]
    assert sparing(monkeypatch, "calibrate", *arguments, "--out", "policy.toml", "--json") == 0
    assert [row["budget"] for row in json.loads(capsys.readouterr().out)["rows"]] == [3, 60, 500]
    assert sparing(monkeypatch, "evaluate", *arguments, "--policy", "policy.toml", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    best = max(row["accuracy_offloaded"] for row in rows if row["budget"] == 500)
    chosen = [row for row in rows if row["budget"] == 500 and row["scheme"].startswith("policy.toml")]
    assert [row["accuracy_offloaded"] for row in chosen] == [best] or not chosen
    assert sparing(monkeypatch, "calibrate", *arguments, "--out", "tight.toml", "--mean", "100B") == 0
    assert "offl.%" in capsys.readouterr().out


def test_a_first_row_of_the_edge_alone_hides_no_column(capsys):
    _print_rows([{"budget": 3, "scheme": None}, {"budget": 60, "scheme": "whole:dct8", "unsent": 7}])
    assert "unsent" in capsys.readouterr().out


def test_send_says_that_the_policy_sends_nothing(folder, monkeypatch, capsys):
    geometry = "[geometry]\nheight = 32\nwidth = 32\npatch = 4\n"
    gate = '[gate]\nmeasure = "min-entropy"\nthreshold = 0.0\n'
    Path("p.toml").write_text(f"version = 1\n{geometry}{gate}[[choice]]\nbudget = 200\n")
    code = sparing(
        monkeypatch, "send", "--edge", "models.py:edge", "--server", "http://127.0.0.1:1", "--samples",
        "images.parquet", "--budget", "200B", "--out", "a.parquet", "--json", "--policy", "p.toml",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["edge_answered_because"] == {"the policy sends nothing at this budget": 30}


def test_serve_names_its_address_only_once_it_has_it(folder, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert sparing(monkeypatch, "serve", "--model", "models.py:server", "--port", port) == 1
    error = capsys.readouterr().err
    assert "cannot listen" in error
    assert "serving" not in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--edge", "models.py:nothing"), "has no 'nothing'"),
        (("--edge", "models.py:plain"), "expected a sparing.offload.EdgeModel"),
        (("--edge", "absent.py:edge"), "no such file"),
        (("--server-model", "models.py:edge"), "expected a sparing.offload.ServerModel"),
        (("--server-model", "models.py:other"), "server model of"),
        (("--samples", "absent.parquet"), "no such file"),
        (("--budgets", "lots"), "cannot read the budget"),
        (("--policies", "whole:gif"), "codec must be"),
        (("--policies", "mosaic:sage:65:webp"), "only 64 patches"),
        (("--gate", "variance"), "variance"),
        (("--share", "2"), "share to offload"),
        (("--policy", "absent.toml"), "No such file"),
        (("--threshold", "9"), "offloads none"),
        (("--loss", "1"), "loss in [0, 1)"),
    ],
)
def test_bad_input_is_one_clear_line(folder, monkeypatch, capsys, change, message):
    options = dict(zip(BOTH[::2], BOTH[1::2], strict=True)) | {"--budgets": "300B", "--policies": "raw:sage"}
    options |= {"--threshold": "0", change[0]: change[1]}
    code = sparing(monkeypatch, "evaluate", *(part for pair in options.items() for part in pair))
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 1
    assert error[-1].startswith("error: ")
    assert message in error[-1]


def test_a_sample_that_is_no_image_is_named(folder, monkeypatch, capsys):
    pq.write_table(pa.table({"id": ["a"], "image": [b"junk"]}), "junk.parquet")
    code = sparing(monkeypatch, "evaluate", *BOTH[:4], "--samples", "junk.parquet", "--budgets", "300B")
    assert code == 1
    assert "the image of sample 'a' of junk.parquet cannot be decoded" in capsys.readouterr().err


def test_serving_to_others_without_a_token_is_refused(folder, monkeypatch, capsys):
    assert sparing(monkeypatch, "serve", "--model", "models.py:server", "--host", "0.0.0.0") == 1  # noqa: S104
    assert "give a token" in capsys.readouterr().err


def test_help_ends_with_an_example_and_loads_nothing_heavy():
    for verb in ("serve", "send", "evaluate", "calibrate"):
        code = (
            "import sys; from sparing.cli.main import main\n"
            "try:\n main()\nexcept SystemExit:\n pass\n"
            "assert not {'numpy', 'numba', 'torch', 'starlette', 'PIL', 'pyarrow'} & set(sys.modules)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, "offload", verb, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"Example: sparing offload {verb}" in found.stdout


def test_the_vits_score_as_their_table_says(shared_data, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples" / "offload"))
    import cifar10_vits

    folder = shared_data / "cifar10"
    pixels, labels = cifar10_vits.load_images(folder)
    pixels, labels = pixels[:1000], labels[:1000]
    torch.set_num_threads(1)
    edge, server = cifar10_vits.load_edge(folder), cifar10_vits.load_server(folder)
    # On all 10,000 images 52.1 % and 73.7 %; a thousand are within 4 standard errors.
    assert abs((edge(pixels).logits.argmax(1) == labels).mean() - 0.521) < 0.064
    whole = server.whole(pixels)
    assert abs((whole.argmax(1) == labels).mean() - 0.737) < 0.056
    fewer = server(server.geometry.cut(pixels)[:, ::2], np.tile(np.arange(0, 64, 2), (1000, 1)))
    assert 0.3 < (fewer.argmax(1) == labels).mean() < (whole.argmax(1) == labels).mean()
