"""Torch modules as models, under the extra `torch`."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparing.errors import InputError, MissingExtraError
from sparing.models.model import Model

if TYPE_CHECKING:
    import torch


def from_torch(
    module: "torch.nn.Module",
    preprocess: "Callable[[list[Any]], torch.Tensor]",
    *,
    name: str,
    digest: str | None = None,
    cost: float | None = None,
    unit: str = "seconds",
    batch_size: int = 64,
    logits: bool = False,
    device: str = "cpu",
) -> Model:
    """Make a model of a torch module; it is moved to the device and put into evaluation mode.

    Args:
        module: maps an input tensor to a tensor of shape (m, C).
        preprocess: from a list of m sample values to the input tensor.
        name: what the model is called.
        digest: what it is; by default a SHA-256 of the module's class name and its weights.
        cost: stated cost per sample, in `unit`; None to measure seconds.
        unit: what `cost` counts.
        batch_size: how many samples are passed at a time.
        logits: whether the module returns logits instead of probabilities.
        device: where it runs, for example "cpu" or "cuda".

    Returns:
        The model.

    Raises:
        MissingExtraError: torch is not installed.
        InputError: not a torch module, or the device is not there.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "torch", "Running a torch module") from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"model {name!r}: expected a torch.nn.Module, got {type(module).__name__}")
    try:
        module = module.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise InputError(f"model {name!r}: cannot use the device {device!r}: {error}") from error

    def forward(_: list[object], values: list[Any]) -> Any:
        module.eval()  # the caller may have trained it further since
        with torch.inference_mode():
            output = module(preprocess(values).to(device))
            return output.float().cpu().numpy()

    return Model(
        name=name,
        digest=digest or f"sha256:{_weights_digest(module)}",
        function=forward,
        cost=cost,
        unit=unit,
        batch_size=batch_size,
        logits=logits,
    )


def _weights_digest(module: "torch.nn.Module") -> str:
    import torch

    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
