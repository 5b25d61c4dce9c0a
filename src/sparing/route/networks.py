"""The router's network (routing-beats-latency, section 3.3). Needs torch."""

from pathlib import Path

import torch
from torch import nn

from sparing.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What images are normalised by: as the published weights of SqueezeNet expect it."""
STEM_CHANNELS = 128
STEM_MODULES = 5
"""SqueezeNet 1.1's first five modules: convolution, ReLU, pooling and two Fire modules."""


class Fire(nn.Module):
    """SqueezeNet's module: squeeze to few channels, expand by 1x1 and 3x3 convolutions side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        # The names are torchvision's, so that its published weights fit.
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (m, channels, h, w) to (m, 2 * expand, h, w)."""
        squeezed = torch.relu(self.squeeze(x))
        wide = [torch.relu(self.expand1x1(squeezed)), torch.relu(self.expand3x3(squeezed))]
        return torch.cat(wide, dim=1)


def squeezenet_stem(weights: str | Path | None = None) -> nn.Sequential:
    """Build the first five modules of SqueezeNet 1.1.

    Args:
        weights: a state dict of torchvision's `squeezenet1_1`, or of this stem; None for random weights.

    Returns:
        From images (m, 3, h, w) to features (m, 128, h / 4, w / 4), about.

    Raises:
        InputError: the file is missing, no state dict, or of another network.
    """
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
    )
    for module in stem.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    if weights is None:
        return stem
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        renamed = {key.removeprefix("features."): value for key, value in state.items()}
        stem.load_state_dict({key: renamed[key] for key in stem.state_dict()})
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error.strerror}") from error
    except Exception as error:  # damaged files raise what they like: pickle, zip, runtime and key errors
        raise InputError(f"{weights}: no weights of SqueezeNet 1.1 ({error})") from error
    return stem


class RouterNetwork(nn.Module):
    """A backbone, pooled, and a linear layer to one score per expert.

    Args:
        backbone: from a batch of inputs to features (m, d) or (m, d, ...); what follows d is averaged.
        example: a batch of one input, to learn d from.
        experts: how many scores.

    Raises:
        InputError: the backbone fails on the example, or returns no features.
    """

    def __init__(self, backbone: nn.Module, example: torch.Tensor, experts: int) -> None:
        super().__init__()
        self.backbone = backbone
        try:
            with torch.no_grad():
                features = self._pooled(example)
        except Exception as error:  # whatever the user's module raises
            raise InputError(
                f"the backbone failed on an input of shape {tuple(example.shape)}: {error}"
            ) from error
        if features.ndim != 2:
            raise InputError(f"the backbone must return (m, d) or (m, d, ...), got {tuple(features.shape)}")
        self.head = nn.Linear(features.shape[1], experts)

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.backbone(x)
        return features.flatten(2).mean(dim=2) if features.ndim > 2 else features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a batch of inputs to scores of shape (m, experts)."""
        scores: torch.Tensor = self.head(self._pooled(x))
        return scores
