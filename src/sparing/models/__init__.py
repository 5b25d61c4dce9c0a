"""Models: named maps from a batch of samples to distributions, whatever runs them."""

from sparing.models.load import load_callable, load_model
from sparing.models.model import Model, from_callable, run
from sparing.models.torch import from_torch

__all__ = ["Model", "from_callable", "from_torch", "load_callable", "load_model", "run"]
