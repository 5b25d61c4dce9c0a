"""Scoring: what ranks the rows of a round, and what `fit` learns and saves."""
