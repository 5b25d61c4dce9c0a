import numpy as np
import pytest

from sparing.errors import InputError, ModelError
from sparing.offload import EdgeModel, Evidence, Geometry, ServerModel


@pytest.mark.parametrize("sides", [(0, 32, 4), (32, 33, 4), (32, 32, 0), (5000, 5000, 8), (32.0, 32, 4)])
def test_impossible_geometries_are_refused(sides):
    with pytest.raises(InputError):
        Geometry(*sides)


def test_patches_are_cut_row_by_row():
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(1, 6, 4, 3)
    cut = Geometry(6, 4, 2).cut(pixels)
    assert cut.shape == (1, 6, 2, 2, 3)
    np.testing.assert_array_equal(cut[0, 3], pixels[0, 2:4, 2:4])


def test_a_server_answers_mixed_numbers_of_patches_in_order(server, images, geometry):
    cut = geometry.cut(images(6))
    batch = [Evidence(cut[i, :k], np.arange(k)) for i, k in enumerate([3, 64, 3, 1, 64, 2])]
    together = server.answer(batch)
    for evidence, found in zip(batch, together, strict=True):
        np.testing.assert_allclose(found, server(evidence.patches[None], evidence.positions[None])[0])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda m: (np.zeros((m, 2)), np.ones((m, 64))), "logits, attention and embeddings"),
        (lambda m: (np.zeros((m, 1)), np.ones((m, 64)), np.ones((m, 64, 2))), "2 or more logits"),
        (lambda m: (np.zeros((m, 2)), np.ones((m, 65)), np.ones((m, 64, 2))), "attention must be"),
        (lambda m: (np.zeros((m, 2)), -np.ones((m, 64)), np.ones((m, 64, 2))), "not negative"),
        (lambda m: (np.full((m, 2), np.nan), np.ones((m, 64)), np.ones((m, 64, 2))), "NaN"),
        (lambda m: (np.zeros((m, 2)), np.ones((m, 64)), np.array([["x"]])), "embeddings must be"),
        (lambda _m: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_an_edge_model_gets_wrong_is_named(output, message, geometry, images):
    edge = EdgeModel(lambda pixels: output(len(pixels)), geometry)
    with pytest.raises(ModelError, match=message):
        edge(images(2))


def test_what_a_server_model_gets_wrong_is_named(geometry, images):
    for output, message in [(np.zeros((1, 3)), "shape"), (np.full((2, 3), np.inf), "infinity")]:
        server = ServerModel(lambda _patches, _positions, output=output: output, geometry)
        with pytest.raises(ModelError, match=message):
            server.whole(images(2))


def test_a_grid_too_fine_to_choose_from_is_refused():
    assert Geometry(256, 256, 4).patches == 4096
    with pytest.raises(InputError, match="larger patches"):
        Geometry(512, 512, 4)


def test_embeddings_that_float32_cannot_hold_are_named(geometry, images):
    def run(pixels):
        return np.zeros((len(pixels), 3)), np.ones((len(pixels), 64)), np.full((len(pixels), 64, 2), 1e300)

    with pytest.raises(ModelError, match="embeddings hold"):
        EdgeModel(run, geometry)(images(2))
