"""Pooling: a refreshed row stores what its cached and its new distribution say together."""
