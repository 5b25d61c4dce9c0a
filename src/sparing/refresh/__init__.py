"""Refresh: a cache of model outputs kept current across model updates under a budget."""

from sparing.refresh.commit import RefreshReport
from sparing.refresh.correction.rules import Schedule, Step
from sparing.refresh.filling import append_samples, fill
from sparing.refresh.fitting import fit, fit_outputs
from sparing.refresh.job import Preview, preview, refresh
from sparing.refresh.options import Correction, RefreshOptions
from sparing.refresh.scoring.ranker import Ranker, train_ranker

__all__ = [
    "Correction",
    "Preview",
    "Ranker",
    "RefreshOptions",
    "RefreshReport",
    "Schedule",
    "Step",
    "append_samples",
    "fill",
    "fit",
    "fit_outputs",
    "preview",
    "refresh",
    "train_ranker",
]
