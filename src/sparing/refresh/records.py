"""What a job notes down when it begins a piece of work, and how notes of earlier releases are read.

To change a record: raise `FORMAT`, and turn what the format before wrote into the new one in `upgraded`.
"""

from typing import Any

from msgspec import Struct

FORMAT = 2
"""The format that this release writes; format 1 did not say so."""


class Totals(Struct, frozen=True):
    """What the scoring pass of a round counted.

    Attributes:
        rows: rows of the cache.
        competing: rows that some candidate may still be run on.
        labelled: rows with a label.
        right: labelled rows whose cached output is right.
    """

    rows: int = 0
    competing: int = 0
    labelled: int = 0
    right: int = 0


class RoundRecord(Struct, frozen=True, kw_only=True):
    """A round, noted down with its first slice.

    Attributes:
        chunk_rows: rows per chunk of that slice.
        command: digest of what was asked for.
        digest: the same, with the version of the cache that the round starts from.
        what: it in words.
        models: digests of the candidates, by name.
        scorer: digest of what ranks the rows.
        target: the candidate whose full re-run is the reference.
        seed: what breaks ties.
        totals: what scoring counted.
        rows_scored: rows that were scored.
        seconds: what planning took, by phase.
    """

    chunk_rows: int
    command: str
    digest: str
    what: str
    models: dict[str, str]
    scorer: str
    target: str
    seed: int
    totals: Totals
    rows_scored: int
    seconds: dict[str, float]


class SliceRecord(Struct, frozen=True, kw_only=True):
    """A later slice of a round.

    Attributes:
        chunk_rows: rows per chunk.
    """

    chunk_rows: int


class FitRecord(Struct, frozen=True, kw_only=True):
    """The rows that `fit` runs.

    Attributes:
        chunk_rows: rows per chunk.
        names: names of the candidates.
        digests: their digests.
        rows: how many rows were asked for.
        seed: what drew them.
        version: version of the cache that they were drawn from.
    """

    chunk_rows: int
    names: list[str]
    digests: list[str]
    rows: int
    seed: int
    version: int


class FillRecord(Struct, frozen=True, kw_only=True):
    """Samples that a cache does not hold yet.

    Attributes:
        chunk_rows: rows per chunk.
        model: digest of the model that runs.
        rows: how many samples.
        first: id of the first of all samples, as text.
        base: version of the cache that they are appended to; empty for a new one.
    """

    chunk_rows: int
    model: str
    rows: int
    first: str
    base: str


def upgraded(document: dict[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """Turn what format 1 wrote into format 2: it kept a round's whole account, and more of what was asked."""
    if kind is not RoundRecord:
        return document
    account = document.get("account", {})
    values = {key: document[key] for key in RoundRecord.__struct_fields__ if key in document}
    return {**values, "rows_scored": account.get("rows_scored"), "seconds": account.get("seconds")}
