"""Sparing: spend inference compute only where it pays."""

__version__ = "0.1.0"
