"""Vision transformers of transformers and timm as edge and server models.

Both libraries fuse attention by default and then hide its weights, so the edge adapters switch to the plain
implementation. The server adapters hand the model an image with only the chosen patches in it and drop the
other tokens right after the position embeddings, so that nothing stands in for what was not sent.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from sparing.errors import InputError, MissingExtraError
from sparing.offload.models import EdgeModel, EdgeOutput, Geometry, Indices, Pixels, ServerModel

if TYPE_CHECKING:
    import torch

HALF = (0.5, 0.5, 0.5)


def transformers_edge(
    model: Any, *, layer: int = -1, mean: tuple[float, ...] = HALF, std: tuple[float, ...] = HALF
) -> EdgeModel:
    """Make an edge model of a transformers ViT or DeiT for image classification.

    Args:
        model: for example `ViTForImageClassification` or `DeiTForImageClassification`; its attention is
            switched to "eager".
        layer: whose patch embeddings to use: 0 the first, -1 the last.
        mean: of the model's preprocessing, per channel, for values in [0, 1].
        std: likewise.

    Returns:
        The edge model.

    Raises:
        InputError: not such a model.
    """
    geometry = _transformers_geometry(model)
    model.set_attn_implementation("eager")
    model.eval()
    lib = _torch()

    def run(pixels: Pixels) -> EdgeOutput:
        with lib.inference_mode():
            x = _normalised(lib.from_numpy(np.ascontiguousarray(pixels)), mean, std, model)
            out = model(pixel_values=x, output_attentions=True, output_hidden_states=True)
            n = geometry.patches
            attention = out.attentions[-1].mean(dim=1)[:, 0, -n:]
            embeddings = out.hidden_states[layer][:, -n:]
            return EdgeOutput(*(part.float().cpu().numpy() for part in (out.logits, attention, embeddings)))

    return EdgeModel(run, geometry)


def transformers_server(
    model: Any, *, mean: tuple[float, ...] = HALF, std: tuple[float, ...] = HALF
) -> ServerModel:
    """Make a server model of a transformers ViT or DeiT for image classification.

    Args:
        model: as for `transformers_edge`.
        mean: of the model's preprocessing.
        std: likewise.

    Returns:
        The server model.

    Raises:
        InputError: not such a model.
    """
    geometry = _transformers_geometry(model)
    model.eval()
    embeddings = getattr(model, model.base_model_prefix).embeddings
    lib = _torch()

    def run(patches: Pixels, positions: Indices) -> Any:
        def keep(_module: Any, _inputs: Any, tokens: "torch.Tensor") -> "torch.Tensor":
            return _kept(tokens, positions, geometry)

        hook = embeddings.register_forward_hook(keep)
        try:
            with lib.inference_mode():
                x = _normalised(lib.from_numpy(_canvas(patches, positions, geometry)), mean, std, model)
                return model(pixel_values=x).logits.float().cpu().numpy()
        finally:
            hook.remove()

    return ServerModel(run, geometry)


def timm_edge(model: Any, *, layer: int = -1) -> EdgeModel:
    """Make an edge model of a timm vision transformer.

    Args:
        model: a `timm.models.VisionTransformer` with a class token; the attention of its last block is not
            fused any more.
        layer: whose patch embeddings to use: 0 the first block's input, -1 the last block's output.

    Returns:
        The edge model.

    Raises:
        InputError: not such a model.
    """
    geometry, mean, std = _timm_parts(model)
    last = model.blocks[-1].attn
    last.fused_attn = False
    model.eval()
    lib = _torch()

    def run(pixels: Pixels) -> EdgeOutput:
        seen: dict[str, Any] = {"tokens": []}

        def keep_attention(_module: Any, inputs: tuple[Any, ...]) -> None:
            seen["attention"] = inputs[0]

        def keep_input(_module: Any, inputs: tuple[Any, ...]) -> None:
            seen["tokens"].append(inputs[0])

        def keep_output(_module: Any, _inputs: Any, tokens: Any) -> None:
            seen["last"] = tokens

        hooks = [last.attn_drop.register_forward_pre_hook(keep_attention)]
        hooks += [block.register_forward_pre_hook(keep_input) for block in model.blocks]
        hooks.append(model.blocks[-1].register_forward_hook(keep_output))
        try:
            with lib.inference_mode():
                x = _normalised(lib.from_numpy(np.ascontiguousarray(pixels)), mean, std, model)
                logits = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        n = geometry.patches
        attention = seen["attention"].mean(dim=1)[:, 0, -n:]
        embeddings = [*seen["tokens"], seen["last"]][layer][:, -n:]
        return EdgeOutput(*(part.float().cpu().numpy() for part in (logits, attention, embeddings)))

    return EdgeModel(run, geometry)


def timm_server(model: Any) -> ServerModel:
    """Make a server model of a timm vision transformer.

    Args:
        model: a `timm.models.VisionTransformer`.

    Returns:
        The server model.

    Raises:
        InputError: not such a model.
    """
    geometry, mean, std = _timm_parts(model)
    model.eval()
    lib = _torch()

    def run(patches: Pixels, positions: Indices) -> Any:
        def keep(_module: Any, inputs: tuple[Any, ...]) -> Any:
            return (_kept(inputs[0], positions, geometry), *inputs[1:])

        hook = model.norm_pre.register_forward_pre_hook(keep)
        try:
            with lib.inference_mode():
                x = _normalised(lib.from_numpy(_canvas(patches, positions, geometry)), mean, std, model)
                return model(x).float().cpu().numpy()
        finally:
            hook.remove()

    return ServerModel(run, geometry)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "torch", "Running a vision transformer") from error
    return torch


def _transformers_geometry(model: Any) -> Geometry:
    config = getattr(model, "config", None)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not (isinstance(size, int) and isinstance(patch, int) and hasattr(model, "base_model_prefix")):
        raise InputError(
            f"{type(model).__name__} is not a transformers ViT: its config lacks image_size or patch_size"
        )
    return Geometry(size, size, patch)


def _timm_parts(model: Any) -> tuple[Geometry, tuple[float, ...], tuple[float, ...]]:
    needed = ("blocks", "norm_pre", "patch_embed", "num_prefix_tokens")
    missing = [name for name in needed if not hasattr(model, name)]
    if missing or model.num_prefix_tokens < 1:
        lacks = ", ".join(missing) or "a class token"
        raise InputError(
            f"{type(model).__name__} is not a timm VisionTransformer with a class token: it lacks {lacks}"
        )
    height, width = model.patch_embed.img_size
    settings = getattr(model, "pretrained_cfg", None) or {}
    return (
        Geometry(int(height), int(width), int(model.patch_embed.patch_size[0])),
        tuple(settings.get("mean") or HALF),
        tuple(settings.get("std") or HALF),
    )


def _normalised(
    pixels: "torch.Tensor", mean: tuple[float, ...], std: tuple[float, ...], model: Any
) -> "torch.Tensor":
    """Scale pixels as the model was trained to see them, on its device and in its type of numbers."""
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    x = pixels.to(weight.device).permute(0, 3, 1, 2).float() / 255
    normalised = (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)
    return normalised.to(weight.dtype)


def _canvas(patches: Pixels, positions: Indices, geometry: Geometry) -> Pixels:
    """Put patches at their places in otherwise empty images."""
    m, p = len(patches), geometry.patch
    grid = np.zeros((m, geometry.patches, p, p, 3), dtype=np.uint8)
    grid[np.arange(m)[:, None], positions] = patches
    rows = grid.reshape((m, geometry.rows, geometry.cols, p, p, 3)).transpose(0, 1, 3, 2, 4, 5)
    return rows.reshape(m, geometry.height, geometry.width, 3)


def _kept(tokens: "torch.Tensor", positions: Indices, geometry: Geometry) -> "torch.Tensor":
    """Keep the class token and others like it, and the tokens of some patches."""
    lib = _torch()
    special = tokens.shape[1] - geometry.patches
    first = np.tile(np.arange(special), (len(positions), 1))
    index = lib.from_numpy(np.concatenate([first, positions + special], axis=1)).to(tokens.device)
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))
