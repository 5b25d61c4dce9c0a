import numpy as np
import pytest

from sparing.offload import EdgeModel, EdgeOutput, Geometry, ServerModel

GEOMETRY = Geometry(32, 32, 4)


@pytest.fixture
def geometry():
    return GEOMETRY


@pytest.fixture
def images():
    """Make smooth images with some texture: shape (m, 32, 32, 3)."""

    def make(m, seed=0, geometry=GEOMETRY):
        rng = np.random.default_rng(seed)
        rows, cols = np.mgrid[: geometry.height, : geometry.width] / 32
        waves = rng.normal(size=(m, 1, 1, 3)) * np.sin(6 * rows + 4 * cols * rng.random((m, 1, 1)))[..., None]
        noise = rng.normal(size=(m, geometry.height, geometry.width, 3))
        shade = 15 * rng.normal(size=(m, 1, 1, 1))
        return np.clip(128 + shade + 60 * waves + 15 * noise, 0, 255).astype(np.uint8)

    return make


def describe(pixels):
    """A made-up edge: two classes told apart by brightness, attention by contrast of patches."""
    cut = GEOMETRY.cut(pixels).reshape(len(pixels), GEOMETRY.patches, -1).astype(float)
    bright = cut.mean((1, 2)) / 10 - 12.8
    return EdgeOutput(
        np.stack([bright, -bright, np.zeros_like(bright)], axis=1),
        cut.std(2) / cut.std(2).sum(1)[:, None],
        cut,
    )


def judge(patches, positions):
    bright = patches.mean((1, 2, 3, 4)) / 2 - 64
    return np.stack([bright, -bright, np.zeros_like(bright)], axis=1)


@pytest.fixture
def edge():
    return EdgeModel(describe, GEOMETRY)


@pytest.fixture
def server():
    return ServerModel(judge, GEOMETRY)
