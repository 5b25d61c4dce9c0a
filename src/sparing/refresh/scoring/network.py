"""The small network that learned scorers regress with: fitted by scikit-learn, kept and run as arrays."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.refresh.scoring.scorer import Arrays, Floats

Layers = tuple[tuple[Floats, Floats], ...]
"""Weights (inputs, outputs) and biases of each layer."""


def regress(
    inputs: Floats,
    wanted: npt.NDArray[np.floating[Any]],
    *,
    hidden: Sequence[int] = (64,),
    epochs: int = 30,
    seed: int = 0,
) -> Layers:
    """Fit a network by mean squared error: Adam, 1e-3, batches of 32 (PURE, 3.2 and B.3).

    Args:
        inputs: shape (m, d).
        wanted: shape (m,) or (m, outputs).
        hidden: sizes of the hidden layers; 64 as in appendix B.3.
        epochs: passes over the rows.
        seed: fixes the start and the shuffling.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(
        hidden_layer_sizes=tuple(hidden),
        solver="adam",
        learning_rate_init=1e-3,
        batch_size=min(32, len(inputs)),
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A fixed number of epochs is the recipe, not a failure to converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(inputs, wanted)
    return tuple(
        (w.astype(np.float32), b.astype(np.float32))
        for w, b in zip(network.coefs_, network.intercepts_, strict=True)
    )


def forward(layers: Layers, inputs: Floats) -> Floats:
    """Run a network: from shape (m, d) to shape (m, outputs)."""
    return finish(layers, inputs @ layers[0][0])


def finish(layers: Layers, products: Floats) -> Floats:
    """Finish a forward pass from the products of the first layer, which are overwritten."""
    values = products
    values += layers[0][1]
    for weights, biases in layers[1:]:
        np.maximum(values, 0, out=values)
        values = values @ weights
        values += biases
    return values


def layers_to_arrays(layers: Layers, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return a network's arrays by name; `layers_from_arrays` reads them back."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, (weights, biases) in enumerate(layers):
        arrays[f"{prefix}weights_{index}"] = weights
        arrays[f"{prefix}biases_{index}"] = biases
    return arrays


def layers_from_arrays(arrays: Arrays, prefix: str = "") -> Layers:
    """Read what `layers_to_arrays` returned."""
    layers: list[tuple[Floats, Floats]] = []
    while f"{prefix}weights_{len(layers)}" in arrays:
        at = len(layers)
        layers.append((arrays[f"{prefix}weights_{at}"], arrays[f"{prefix}biases_{at}"]))
    return tuple(layers)
