"""The version of this release, which files name."""

__version__ = "0.1.0"
