"""Codecs: how an image becomes few bytes, and back."""
