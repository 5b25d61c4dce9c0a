"""What a round is asked to do, as values that `refresh`, `preview` and the command line share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sparing.budget import Budget
from sparing.models import Model
from sparing.refresh.correction.rules import Schedule
from sparing.refresh.scoring.ranker import Ranker

Objective = Literal["consistency", "accuracy"]

Unfinished = Literal["resume", "commit", "discard"]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """From round 2 on, screen rows that look stale and settle them (PURE, 3.3).

    Attributes:
        schedule: how much is screened and settled; PURE's Table 3 by default.
        recent: models of earlier rounds that may be run again.
        within_budget: whether the forwards are paid from the budget; on top of it by default.
    """

    schedule: Schedule = field(default_factory=Schedule)
    recent: Sequence[Model] = ()
    within_budget: bool = False


@dataclass(frozen=True, kw_only=True)
class RefreshOptions:
    """What a round may spend, and what decides where.

    Attributes:
        budget: what may be spent; see `Budget.parse`. With a promise, the most that may be spent to keep it;
            None for as much as it takes. What `fit` ran for the candidates on the cache's rows
            counts in it, and those rows are refreshed without running them again. With one candidate, a
            budget in seconds or cost runs rows in order of benefit until it is spent; with several, each row
            gets the candidate that brings most for its cost, and rows that none improves are left alone.
        consistency: the share of rows that must agree with a full re-run of the target afterwards, such as
            "95%", in place of a budget; see `docs/promise.md`. Under a promise there is one candidate, and
            rows are ranked by "learned" or "entropy".
        confidence: how sure that must be, over the draw of the audited rows.
        by: the groups in each of which the promise must hold, all of them at once with that confidence: a
            column of the features or the samples, or "class", the cached class.
        precision: least shares by class ({"unsafe": "99%"}): of the rows that hold the class afterwards,
            those that a full re-run gives it.
        recall: least shares by class: of the rows that a full re-run gives the class, those that hold it.
            Every promise of a round holds at once, with that confidence.
        scorer: what ranks the rows: "learned", which begins with a few random rows and learns from every row
            that it has run where the target's answers differ; a name in `sparing.refresh.scoring.SCORERS`; or
            "auto": what the ranker's held-out rows advise. By default "router" when there is a ranker
            ("change" under the objective "accuracy"), else "learned"; "entropy" where that does not apply: a
            round that corrects, and outputs that are no distributions. Other scorers that learn need a
            ranker.
        ranker: from `fit`, or its file.
        features: columns that "learned" may learn from beside the cached outputs: names of columns of the
            samples, a Parquet file or Arrow table with a column `id`; see
            `sparing.data.columns.open_columns`.
        target: the candidate whose full re-run is the reference; the last one by default.
        only_positive: leave alone rows that no candidate is predicted to improve.
        objective: "consistency" stores the new outputs as they are; "accuracy" pools each with the one that
            the row holds, by exponents fitted to the labelled rows that both are known of.
        correction: how rows that look stale are corrected; None leaves them alone.
        seed: decides the order among equal benefits.
        max_failures: how many rows may fail: a number, or a share of those tried such as "5%". By default a
            round stops when 20 rows in a row fail, or more than 10 % of those tried and 20 at least.
        once: a name for the round, such as the date of a nightly job. When the cache has a round of that
            name, nothing is run and its report is returned: a job that is repeated spends its budget once.
        impute: rows that are not run may store the answer that the target is predicted to give, where rows
            that were run show that it agrees with the target more often than the cached one; needs the scorer
            "learned".
        rename: new names of classes by their old ones, in the cache and in the candidates. Classes that a
            candidate has and the cache lacks, by name (`Model.classes`), are added to the cache.
    """

    budget: str | Budget | None = None
    consistency: str | float | None = None
    confidence: str | float = 0.95
    by: str | None = None
    precision: Mapping[str, str | float] = field(default_factory=dict)
    recall: Mapping[str, str | float] = field(default_factory=dict)
    scorer: str | None = None
    ranker: Ranker | str | Path | None = None
    features: Any = None
    target: str | None = None
    only_positive: bool = False
    objective: Objective = "consistency"
    correction: Correction | None = None
    seed: int = 0
    max_failures: int | str | None = None
    once: str | None = None
    impute: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
