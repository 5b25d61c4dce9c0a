from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache, ModelInfo
from sparing.models import Model

CLASSES = 5


def outputs_of(name, numbers):
    """What a model of this name says of samples 0, 1, 2, ...: fixed by name and number alone."""
    offset = sum(name.encode())
    rows = [np.random.default_rng([offset, int(n)]).dirichlet(np.full(CLASSES, 0.4)) for n in numbers]
    return np.array(rows, dtype=np.float32).reshape(-1, CLASSES)


@dataclass
class Recorder:
    """A model whose every forward is written down; it can be told to fail."""

    name: str
    seen: list = field(default_factory=list)
    fail_at: object = None
    error: type[BaseException] = SystemExit  # no row fails alone: the job stops

    def model(self, **options):
        def function(ids, values):
            if self.fail_at in ids:
                raise self.error(f"cannot do {self.fail_at}")
            self.seen += ids
            return outputs_of(self.name, values)

        return Model(
            self.name, f"d:{self.name}", function, batch_size=options.pop("batch_size", 8), **options
        )


@dataclass
class World:
    """A cache of an old model over samples s0000, s0001, ... whose value is their number."""

    cache: Cache
    samples: dict

    @property
    def path(self):
        return self.cache.path

    def stored(self):
        cache = Cache.open(self.path)
        rows = cache.get(list(self.samples))
        return dict(
            zip(rows.ids.to_pylist(), zip(rows.probs, rows.models, rows.rounds, strict=True), strict=True)
        )

    def ids_of(self, name):
        metadata = Cache.open(self.path).metadata
        index = metadata.model_index(name)
        return {i for i, (_, model, _) in self.stored().items() if model == index}


@pytest.fixture
def world(tmp_path):
    def make(m=300, name="photos.lance"):
        samples = {f"s{i:04d}": i for i in range(m)}
        labels = np.random.default_rng(1).integers(0, CLASSES, m)
        chunk = (pa.array(list(samples)), outputs_of("old", range(m)), labels)
        return World(Cache.create(tmp_path / name, [chunk], ModelInfo("old", "d:old")), samples)

    return make
