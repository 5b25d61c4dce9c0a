"""What ranks the rows of one round: a scorer, for the candidates of that round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparing.cache.metadata import ranker_digest
from sparing.errors import InputError
from sparing.outputs import Classes, OutputKind
from sparing.refresh.scoring import SCORERS, find_scorer, refresh_scorers
from sparing.refresh.scoring.ranker import Ranker
from sparing.refresh.scoring.scorer import Floats, Scorer, ScoringRows, on_target

LEARNED = "learned"
"""What ranks by what the round itself learns; see `sparing.refresh.learning`."""


@dataclass(frozen=True)
class Ranking:
    """What ranks the rows of a round.

    Attributes:
        name: how reports call it.
        digest: what it is; equal digests give equal benefits.
        benefits: from m rows to benefits (m, n), one column per candidate of the round; -inf where a
            candidate is not to be run.
        kept: the ranker file that a cache keeps, to score the same way again; None for a scorer that learns
            nothing.
    """

    name: str
    digest: str
    benefits: Callable[[ScoringRows], Floats]
    kept: bytes | None = None


def make_ranking(
    name: str,
    candidates: Sequence[str],
    target: str,
    *,
    ranker: Ranker | None = None,
    kind: OutputKind | None = None,
) -> Ranking:
    """Return the ranking by a scorer.

    Args:
        name: of the scorer.
        candidates: names of the n candidates.
        target: the candidate whose full re-run is the reference.
        ranker: what holds the scorers that learn.
        kind: what the cache holds; distributions by default.

    Raises:
        InputError: an unknown scorer, or one that lacks what it needs: a ranker, one that holds it, one that
            was fitted for these candidates and this target.
    """
    if kind is not None and not isinstance(kind, Classes):
        return _of_kind(name, candidates, target, kind)
    if name == LEARNED:
        # Where its models are not at hand (rows that `fit` ran, correction in later rounds) it is entropy.
        return replace(make_ranking("entropy", candidates, target), name=LEARNED, digest=LEARNED)
    scorer = find_scorer(name)
    if scorer.needs:
        lacking = {
            "others": "outputs of further cached models, but a cache holds one output per row",
            "answers": "what the candidates give for every row, which only an evaluation knows",
            "labels": "labels",
        }
        raise InputError(
            f"the scorer {name!r} needs {lacking[min(scorer.needs)]}: it serves `sparing evaluate`. "
            f"A refresh ranks by one of {', '.join(refresh_scorers())}"
        )
    if not scorer.learns:
        return _by_itself(scorer(), candidates, target)
    if ranker is None:
        raise InputError(
            f"the scorer {name!r} needs a ranker: make one with `sparing fit`, give it with --ranker"
        )
    if scorer.name not in ranker.scorers:
        raise InputError(f"this ranker does not hold the scorer {name!r}: run `sparing fit` again")
    known = ranker.names
    for candidate in candidates:
        if candidate not in known:
            raise InputError(
                f"the ranker was fitted for {', '.join(known)}, not for {candidate!r}: "
                "run `sparing fit` for it"
            )
    if scorer.for_target and target != known[-1]:
        raise InputError(
            f"the scorer {name!r} was fitted with {known[-1]!r} as the target, not {target!r}: "
            "give `sparing fit` that candidate last"
        )
    columns = [known.index(candidate) for candidate in candidates]
    kept = ranker.kept(scorer.name)
    digest = ranker_digest(kept)
    # Caches of the time of format 1 call PURE's router by the digest of its file alone.
    if not (ranker.source is not None and scorer.name == "router"):
        digest = f"{scorer.name}:{digest}"
    return Ranking(scorer.name, digest, lambda rows: ranker.score(scorer.name, rows)[:, columns], kept)


def _by_itself(scorer: Scorer, candidates: Sequence[str], target: str) -> Ranking:
    at = list(candidates).index(target)

    def benefits(rows: ScoringRows) -> Floats:
        return scorer.benefits(replace(rows, candidates=len(candidates), target=at))

    return Ranking(scorer.name, scorer.name, benefits)


def _of_kind(name: str, candidates: Sequence[str], target: str, kind: OutputKind) -> Ranking:
    """Rank outputs that are not distributions: by the kind's own measures of doubt, or as any output."""
    if name in kind.uncertainties:
        measure, at = kind.uncertainties[name], list(candidates).index(target)

        def unsure(rows: ScoringRows) -> Floats:
            return on_target(replace(rows, candidates=len(candidates), target=at), measure(rows.outputs))

        return Ranking(name, name, unsure)
    known = [each for each, scorer in SCORERS.items() if scorer.any_kind]
    if name not in known:
        raise InputError(
            f"the scorer {name!r} reads distributions, but the cache holds {kind.name}: "
            f"choose one of {', '.join([*kind.uncertainties, *known])}"
        )
    return _by_itself(SCORERS[name](), candidates, target)
