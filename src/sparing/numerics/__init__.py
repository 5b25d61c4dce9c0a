"""Arithmetic over rows: distributions, metrics, the oracle frontier, exact selection, compiled loops."""
