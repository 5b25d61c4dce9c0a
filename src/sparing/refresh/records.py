"""What a job notes down when it begins a piece of work, and how notes of earlier releases are read.

To change a record: raise `FORMAT`, and turn what the format before wrote into the new one in `upgraded`.
"""

from typing import Any, Literal

from msgspec import Struct, field

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


class SliceLearning(Struct, frozen=True, kw_only=True):
    """What ranked the rows of a slice, when a round learns while it spends.

    Attributes:
        ranked_by: "random" for the probe, else "entropy", or "learned" where that is shown to be better.
        label_model: whether the model of the new classes took part.
        loss: mean log-loss of the prediction whether a row changes, on held-out rows, nats; None when nothing
            was compared.
        entropy_loss: the same of entropy alone.
        seen: rows that were learned from.
        imputing: whether rows were ranked by how likely a predicted answer is wrong.
    """

    ranked_by: Literal["random", "entropy", "learned"] = "random"
    label_model: bool = False
    loss: float | None = None
    entropy_loss: float | None = None
    seen: int = 0
    imputing: bool = False


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
        learning: what ranked the first slice, when the round learns; None when it is decided at once.
        samples: what the samples were; see `Samples.identity`.
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
    learning: SliceLearning | None = None
    samples: str | None = None


class PromisedRows(Struct, frozen=True, kw_only=True):
    """Rows that a promise holds for, when their audit was drawn.

    Attributes:
        name: of the group; empty where the promise holds for all rows at once.
        rows: rows of the cache among them.
        allowed: how many of the rows that were not run then may stay wrong; negative where more had failed
            already than may be wrong.
        limit: what the audit shows; see `sparing.numerics.certificate.AuditPlan`.
        failed: how many had failed before.
        measure: what is promised of them: that they agree; "precision": of the rows that hold class `label`;
            "recall": of the rows that hold another class, which of them should have held `label`.
        label: the class that precision or recall is promised of; -1 for none.
        share: the least precision or recall, as text; empty where the audit serves another promise only.
        known: rows that were known to be of that class before.
    """

    name: str
    rows: int
    allowed: int
    limit: int
    failed: int
    measure: Literal["consistency", "precision", "recall"] = "consistency"
    label: int = -1
    share: str = ""
    known: int = 0


class SlicePromise(Struct, frozen=True, kw_only=True):
    """The audit of a promise, noted down with the slice that runs its rows.

    Attributes:
        alpha: the accepted probability of a miss, for each group.
        groups: what the promise holds for.
    """

    alpha: float
    groups: list[PromisedRows]


class SliceRecord(Struct, frozen=True, kw_only=True):
    """A later slice of a round.

    Attributes:
        chunk_rows: rows per chunk.
        seconds: what planning it took, by phase.
        learning: what ranked it, when the round learns.
        promise: what its rows are to certify, when they were drawn to audit a promise.
    """

    chunk_rows: int
    seconds: dict[str, float] = field(default_factory=dict)
    learning: SliceLearning | None = None
    promise: SlicePromise | None = None


class FitRecord(Struct, frozen=True, kw_only=True):
    """The rows that `fit` runs.

    Attributes:
        chunk_rows: rows per chunk.
        names: names of the candidates.
        digests: their digests.
        rows: how many rows were asked for.
        seed: what drew them.
        version: version of the cache that they were drawn from.
        samples: what the samples were; see `Samples.identity`.
    """

    chunk_rows: int
    names: list[str]
    digests: list[str]
    rows: int
    seed: int
    version: int
    samples: str | None = None


class FillRecord(Struct, frozen=True, kw_only=True):
    """Samples that a cache does not hold yet.

    Attributes:
        chunk_rows: rows per chunk.
        model: digest of the model that runs.
        rows: how many samples.
        first: id of the first of all samples, as text.
        base: version of the cache that they are appended to; empty for a new one.
        samples: what the samples were; see `Samples.identity`.
    """

    chunk_rows: int
    model: str
    rows: int
    first: str
    base: str
    samples: str | None = None


def upgraded(document: dict[str, Any], kind: type[Struct]) -> dict[str, Any]:
    """Turn what format 1 wrote into format 2: it kept a round's whole account, and more of what was asked."""
    if kind is not RoundRecord:
        return document
    account = document.get("account", {})
    values = {key: document[key] for key in RoundRecord.__struct_fields__ if key in document}
    return {**values, "rows_scored": account.get("rows_scored"), "seconds": account.get("seconds")}
