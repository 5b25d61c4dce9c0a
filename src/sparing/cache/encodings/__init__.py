"""How distributions are stored in a cache column, and read back as valid distributions."""

from sparing.cache.encodings.encoded import Encoded
from sparing.cache.encodings.encoding import DEFAULT, Encoding, encoded

__all__ = ["DEFAULT", "Encoded", "Encoding", "encoded"]
