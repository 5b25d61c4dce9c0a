"""A round over a kind of output that is not a distribution: words of any number, each with a confidence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing import outputs as kinds
from sparing.cache import Cache, export
from sparing.errors import CacheError, InputError, ModelError
from sparing.models import from_callable
from sparing.models.replay import load_replay
from sparing.outputs import Classes
from sparing.refresh import Correction, RefreshOptions, append_samples, fill, preview, refresh


@dataclass(frozen=True)
class Tags:
    """Outputs are object arrays of (words, confidence)."""

    name: ClassVar[str] = "tags"
    version: ClassVar[int] = 1
    uncertainties: ClassVar[dict] = {"doubt": lambda outputs: np.array([1 - c for _, c in outputs])}

    def spec(self):
        return {"type": self.name, "version": self.version}

    @classmethod
    def from_spec(cls, spec):  # noqa: ARG003
        return cls()

    @classmethod
    def of(cls, outputs):  # noqa: ARG003
        return cls()

    def check(self, values, *, what, ids=None):
        for row, (_, confidence) in enumerate(values):
            if not 0 <= confidence <= 1:
                raise InputError(f"{what}: id {ids[row]!r} has a confidence of {confidence}")
        return self.join([values])

    def matches(self, outputs):  # noqa: ARG002
        return True

    def join(self, parts):
        joined = np.empty(sum(map(len, parts)), object)
        joined[:] = [(tuple(words), round(confidence, 6)) for part in parts for words, confidence in part]
        return joined

    def to_columns(self, outputs):
        return {
            "words": pa.array([list(words) for words, _ in outputs], pa.list_(pa.string())),
            "confidence": pa.array([confidence for _, confidence in outputs], pa.float64()),
        }

    def from_columns(self, table):
        pairs = zip(table["words"].to_pylist(), table["confidence"].to_pylist(), strict=True)
        return self.join([list(pairs)])

    def agree(self, a, b):
        return np.array([x[0] == y[0] for x, y in zip(a, b, strict=True)], np.float32)

    def correct(self, outputs, labels):
        return np.array([len(w) == label for (w, _), label in zip(outputs, labels, strict=True)], bool)


ROWS = 40
SAMPLES = pa.table({"id": [f"s{i:02d}" for i in range(ROWS)], "value": list(range(ROWS))})


def old_output(value):
    return ["old"] * (value % 3), (value * 7 % ROWS) / ROWS


def new_output(value):
    return ["new"] * (value % 4), 0.5


@pytest.fixture
def tags(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", {"classes": Classes, "tags": Tags})
    return Tags()


def model(name, output, kind, **options):
    return from_callable(
        lambda values: [output(v) for v in values],
        name=name,
        digest=f"d:{name}",
        kind=kind,
        batch_size=4,
        **options,
    )


def rows_of(path):
    rows = Cache.open(path).get(SAMPLES["id"].combine_chunks())
    return dict(zip(rows.ids.to_pylist(), rows.outputs, strict=True))


def expected(refreshed, kind):
    values = dict(zip(SAMPLES["id"].to_pylist(), SAMPLES["value"].to_pylist(), strict=True))
    pairs = [(new_output if name in refreshed else old_output)(value) for name, value in values.items()]
    return dict(zip(values, kind.join([pairs]), strict=True))


def test_the_most_doubtful_rows_are_refreshed(tmp_path, tags):
    path = tmp_path / "c.lance"
    fill(path, model("old", old_output, tags), SAMPLES)
    assert rows_of(path) == expected([], tags)
    by_doubt = sorted(SAMPLES.to_pylist(), key=lambda row: old_output(row["value"])[1])
    chosen = [row["id"] for row in by_doubt[: ROWS // 2]]
    new = model("new", new_output, tags)
    assert preview(path, [new], RefreshOptions(budget="50%")).scorer == "doubt"
    report = refresh(path, [new], RefreshOptions(budget="50%"), samples=SAMPLES)
    assert (report.refreshed, report.complete) == (ROWS // 2, True)
    assert rows_of(path) == expected(chosen, tags)
    cache = Cache.open(path)
    cache.rollback(0)
    assert rows_of(path) == expected([], tags)


def test_a_round_that_failed_resumes(tmp_path, tags):
    path, ran = tmp_path / "c.lance", []
    fill(path, model("old", old_output, tags), SAMPLES)

    def failing(value):
        ran.append(value)
        if len(ran) == 10:
            raise SystemExit("no more")
        return new_output(value)

    options = RefreshOptions(budget="100%", scorer="random")
    with pytest.raises(ModelError, match="no more"):
        refresh(path, [model("new", failing, tags)], options, samples=SAMPLES)
    refresh(path, [model("new", failing, tags)], options, samples=SAMPLES)
    assert rows_of(path) == expected(SAMPLES["id"].to_pylist(), tags)


def test_an_exported_table_replays(tmp_path, tags):
    fill(tmp_path / "new.lance", model("new", new_output, tags), SAMPLES)
    export(Cache.open(tmp_path / "new.lance"), tmp_path / "new.parquet")
    assert pq.read_table(tmp_path / "new.parquet")["words"].to_pylist()[3] == ["new"] * 3
    path = tmp_path / "c.lance"
    fill(path, model("old", old_output, tags), SAMPLES.slice(0, 30))
    assert append_samples(path, model("old", old_output, tags), SAMPLES) == 10
    replayed = load_replay(tmp_path / "new.parquet", name="new", kind=tags)
    refresh(path, [replayed], RefreshOptions(budget="100%"))
    assert rows_of(path) == expected(SAMPLES["id"].to_pylist(), tags)


@pytest.mark.parametrize("scorer", ["entropy", "router", "nonsense"])
def test_a_scorer_of_distributions_is_refused(tmp_path, tags, scorer):
    path = tmp_path / "c.lance"
    fill(path, model("old", old_output, tags), SAMPLES)
    with pytest.raises(
        InputError, match=f"'{scorer}' reads distributions, .* tags: choose one of doubt, random"
    ):
        refresh(
            path,
            [model("new", new_output, tags)],
            RefreshOptions(budget="1rows", scorer=scorer),
            samples=SAMPLES,
        )


@pytest.mark.parametrize("extra", [{"objective": "accuracy"}, {"correction": Correction()}])
def test_pooling_and_correction_are_refused(tmp_path, tags, extra):
    path = tmp_path / "c.lance"
    fill(path, model("old", old_output, tags), SAMPLES)
    with pytest.raises(InputError, match="but the cache holds tags"):
        refresh(
            path, [model("new", new_output, tags)], RefreshOptions(budget="1rows", **extra), samples=SAMPLES
        )


def test_an_invalid_output_names_its_id(tmp_path, tags):
    odd = model("odd", lambda v: ([], v if v == 3 else 0), tags)
    with pytest.raises(ModelError, match=r"model 'odd': id 's03' has a confidence of 3"):
        fill(tmp_path / "c.lance", odd, SAMPLES, max_failures=0)


def test_a_model_of_another_kind_is_refused(tmp_path, tags):
    path = tmp_path / "c.lance"
    fill(path, model("old", old_output, tags), SAMPLES)
    classes = from_callable(lambda values: np.full((len(values), 2), 0.5), name="new", digest="d")
    with pytest.raises(CacheError, match="model 'new' returns classes, but the cache holds tags"):
        refresh(path, [classes], RefreshOptions(budget="1rows"), samples=SAMPLES)
