import subprocess
import sys

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.offload.adapters import timm_edge, timm_server, transformers_edge, transformers_server

torch = pytest.importorskip("torch")


def pixels(m, size):
    return np.random.default_rng(0).integers(0, 256, (m, size, size, 3), dtype=np.uint8)


def peaked(model):
    """Make a random model's answers differ between images and patches."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def keep(tokens, positions, special):
    rows = [
        torch.cat([t[:special], t[special + p]])
        for t, p in zip(tokens, torch.from_numpy(positions), strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(("kind", "special"), [("ViT", 1), ("DeiT", 2)])
def test_transformers(kind, special):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    config.num_labels = 5
    model = peaked(getattr(transformers, f"{kind}ForImageClassification")(config))
    edge, server = transformers_edge(model), transformers_server(model)
    assert (edge.geometry.patches, edge.geometry.patch) == (16, 8)
    x = pixels(3, 32)
    seen = edge(x)
    assert seen.embeddings.shape == (3, 16, 24)
    assert (seen.attention.sum(1) < 1).all()  # the rest goes to the class token itself
    assert transformers_edge(model, layer=0)(x).embeddings.tolist() != seen.embeddings.tolist()
    np.testing.assert_allclose(server.whole(x), seen.probs, atol=1e-5)

    # By hand: embed the whole image, drop tokens, and run what follows.
    positions = np.array([[0, 3, 15], [1, 2, 4], [7, 8, 9]])
    base = getattr(model, model.base_model_prefix)
    with torch.inference_mode():
        values = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        tokens = base.embeddings(values)
        kept = keep(tokens, positions, special)
        for layer in base.layers if hasattr(base, "layers") else base.encoder.layer:
            kept = layer(kept)
            kept = kept[0] if isinstance(kept, tuple) else kept
        expected = model.classifier(base.layernorm(kept)[:, 0]).softmax(1).numpy()
    patches = server.geometry.cut(x)[np.arange(3)[:, None], positions]
    found = server(patches, positions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - server.whole(x)).max() > 0.01


def test_timm():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision built for another torch raises RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")
    model = peaked(
        timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=5, depth=2)
    )
    edge, server = timm_edge(model), timm_server(model)
    x = pixels(2, 32)
    seen = edge(x)
    assert seen.attention.shape == (2, 16)
    assert ((seen.attention.sum(1) > 0) & (seen.attention.sum(1) < 1)).all()
    assert timm_edge(model, layer=0)(x).embeddings.tolist() != seen.embeddings.tolist()
    np.testing.assert_allclose(server.whole(x), seen.probs, atol=1e-5)
    positions = np.array([[0, 3, 15], [1, 2, 4]])
    with torch.inference_mode():
        values = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        tokens = model._pos_embed(model.patch_embed(values))
        kept = keep(tokens, positions, 1)
        expected = model.forward_head(model.norm(model.blocks(kept))).softmax(1).numpy()
    patches = server.geometry.cut(x)[np.arange(2)[:, None], positions]
    np.testing.assert_allclose(server(patches, positions), expected, atol=1e-5)


@pytest.mark.parametrize("where", [{"dtype": torch.bfloat16}, {"device": "cuda"}])
def test_pixels_go_to_the_models_device_and_type(where):
    if "device" in where and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    x = pixels(2, 32)
    expected = transformers_server(model).whole(x)
    model.to(**where)
    given = []

    def keep_input(_module, _inputs, named):
        given.append(named["pixel_values"])

    model.register_forward_pre_hook(keep_input, with_kwargs=True)
    np.testing.assert_allclose(transformers_server(model).whole(x), expected, atol=0.02)
    np.testing.assert_allclose(transformers_edge(model)(x).probs, expected, atol=0.02)
    assert {(x.dtype, x.device) for x in given} == {(model.dtype, model.device)}


def test_other_models_are_refused():
    model = torch.nn.Linear(2, 2)
    for adapter in (transformers_edge, transformers_server, timm_edge, timm_server):
        with pytest.raises(InputError, match="Linear is no"):
            adapter(model)


def test_importing_the_adapters_loads_no_library():
    code = (
        "import sys, sparing.offload, sparing.offload.adapters; "
        "assert not {'torch', 'timm', 'transformers', 'starlette', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
