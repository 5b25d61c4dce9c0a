"""Format 1 of ranker files: PURE's router and the change predictor, held-out rows in unnamed columns."""

from typing import Any

import numpy as np
import numpy.typing as npt

UNCERTAINTY = ("entropy", "least-confidence", "margin")
"""The columns of `evidence_uncertainty`, which the file does not name."""

FIRST = "0.1"
"""The release that wrote it."""


def upgraded(
    document: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the document and the arrays of format 2."""
    made: dict[str, npt.NDArray[Any]] = {"router/form": np.array(document["form"])}
    for index, candidate in enumerate(document["candidates"]):
        for layer in range(candidate["layers"]):
            for kind in ("weights", "biases"):
                made[f"router/{index}_{kind}_{layer}"] = arrays[f"{kind}_{index}_{layer}"]
    scorers = [{"name": "router", "version": 1}]
    if document.get("change"):
        scorers.append({"name": "change", "version": 1})
        for key in ("rates", "holders", "weights", "biases"):
            made[f"change/{key}"] = arrays[f"change_{key}"]
    holdout = None
    if document["evidence"]:
        rows = len(arrays["evidence_cached"])
        columns = {
            "router": arrays["evidence_router"],
            "change": arrays["evidence_change"],
            **dict(zip(UNCERTAINTY, arrays["evidence_uncertainty"].T, strict=True)),
            # Chance was not stored, but drawn again each time.
            "random": np.random.default_rng(0).random(rows),
        }
        made.update({f"holdout/benefits/{name}": column for name, column in columns.items()})
        made.update({f"holdout/{key}": arrays[f"evidence_{key}"] for key in ("cached", "outputs", "labels")})
        holdout = {
            "version": 1,
            "names": [str(name) for name in arrays["evidence_names"]],
            "columns": list(columns),
        }
    candidates = [
        {"name": c["name"], "digest": c["digest"], "seconds": c["seconds"]} for c in document["candidates"]
    ]
    header = {
        "type": "ranker",
        "format": 2,
        "sparing": FIRST,
        "n_classes": document["n_classes"],
        "candidates": candidates,
        "scorers": scorers,
        "holdout": holdout,
        "preferred": document.get("preferred"),
    }
    return header, made
