"""Refresh: a cache of model outputs kept current across model updates under a budget."""

from sparing.refresh.commit import Report
from sparing.refresh.fill import append_samples, fill
from sparing.refresh.fit import fit, fit_outputs
from sparing.refresh.job import Preview, preview, refresh
from sparing.refresh.router import Router, train_router

__all__ = [
    "Preview",
    "Report",
    "Router",
    "append_samples",
    "fill",
    "fit",
    "fit_outputs",
    "preview",
    "refresh",
    "train_router",
]
