import pytest

torch = pytest.importorskip("torch", reason="training a router needs torch")

from torch import nn  # noqa: E402

from sparing.errors import InputError  # noqa: E402
from sparing.route.networks import RouterNetwork, squeezenet_stem  # noqa: E402


def test_the_stem_is_squeezenet_1_1s_first_five_modules():
    stem = squeezenet_stem()
    # By hand: 3*64*9+64; Fire(64,16,64): 64*16+16 + 16*64+64 + 16*64*9+64; Fire(128,16,64) likewise.
    first = 3 * 64 * 9 + 64
    fires = sum(c * 16 + 16 + 16 * 64 + 64 + 16 * 64 * 9 + 64 for c in (64, 128))
    assert sum(parameter.numel() for parameter in stem.parameters()) == first + fires
    assert stem(torch.zeros(2, 3, 96, 96)).shape == (2, 128, 23, 23)
    assert len(stem) == 5


def published(stem):
    """A state dict as torchvision's squeezenet1_1 has it, further layers included."""
    state = {f"features.{key}": torch.randn_like(value) for key, value in stem.state_dict().items()}
    return {
        **state,
        "features.6.squeeze.weight": torch.zeros(32, 128, 1, 1),
        "classifier.1.bias": torch.zeros(9),
    }


def test_published_weights_fit(tmp_path):
    state = published(squeezenet_stem())
    torch.save(state, tmp_path / "squeezenet1_1.pth")
    stem = squeezenet_stem(tmp_path / "squeezenet1_1.pth")
    for key, value in stem.state_dict().items():
        assert torch.equal(value, state[f"features.{key}"])


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_other_files_are_no_weights(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"features.0.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="no weights of SqueezeNet"):
        squeezenet_stem(path)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        squeezenet_stem(tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("backbone", "shape", "width"),
    [(nn.Conv2d(3, 7, 3), (1, 3, 8, 8), 7), (nn.Linear(5, 4), (1, 5), 4), (nn.Conv1d(2, 6, 1), (1, 2, 9), 6)],
)
def test_any_backbone_is_pooled_to_one_vector(backbone, shape, width):
    example = torch.randn(shape)
    network = RouterNetwork(backbone, example, 3)
    assert network.head.in_features == width
    batch = torch.randn(4, *shape[1:])
    features = backbone(batch)
    pooled = features if features.ndim == 2 else features.flatten(2).mean(dim=2)
    torch.testing.assert_close(network(batch), network.head(pooled))


def test_a_backbone_that_fails_or_gives_no_features():
    with pytest.raises(InputError, match="the backbone failed"):
        RouterNetwork(nn.Linear(3, 2), torch.zeros(1, 5), 2)
    with pytest.raises(InputError, match="must return"):
        RouterNetwork(nn.Flatten(0), torch.zeros(1, 5), 2)
