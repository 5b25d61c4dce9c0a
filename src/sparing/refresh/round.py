"""One round before it runs: its candidates, what ranks the rows, and what its budget still allows."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from sparing.budget import Budget, affordable
from sparing.cache import Cache, Metadata, ModelInfo, Rows, Store
from sparing.cache.known import Known, load_known
from sparing.cache.metadata import CHANGED
from sparing.data.columns import SampleColumns, open_columns
from sparing.data.fingerprints import Fingerprints
from sparing.data.samples import Samples
from sparing.errors import BudgetError, InputError
from sparing.models import Model
from sparing.outputs import Classes, OutputKind, Outputs
from sparing.refresh.correction.screening import RoundCorrection, prepare_correction
from sparing.refresh.options import Objective, RefreshOptions
from sparing.refresh.pooling.pools import Pooler
from sparing.refresh.promise import Promise, prepare_promise
from sparing.refresh.recorded import as_recorded
from sparing.refresh.running import changed_inputs
from sparing.refresh.scoring.holdout import Prediction
from sparing.refresh.scoring.ranker import Ranker
from sparing.refresh.scoring.ranking import LEARNED, Ranking, make_ranking
from sparing.refresh.scoring.scorer import ScoringRows

FIRST_OF_ALL = np.float32(1e30)
"""The benefit of running rows whose sample has changed: above all others, and finite, to be stored."""


BEFORE_OTHERS = np.float32(1000)
"""Added to the benefits of rows whose answer is predicted: above those of all others."""


@dataclass
class Round:
    """Everything that a round is decided by.

    Attributes:
        cache: the cache, at the version that the round starts from.
        candidates: models that the round may run.
        scorer: what ranks the rows.
        ranker: what fit made; None when there is none.
        budget: what the round may spend.
        target: name of the candidate whose full re-run is the reference.
        only_positive: leave alone rows that no candidate is predicted to improve.
        seed: decides the order among equal benefits.
        known: what fit has run for each candidate; None where it has not.
        columns: columns of the samples to learn from; None when there are none.
        correction: how the round corrects; None when it does not.
        correct_within_budget: whether correction's forwards are paid from the budget.
        objective: "consistency" stores new outputs as they are, "accuracy" pools them with the cached.
        fingerprints: of the samples as they are now, where the cache keeps them; None elsewhere.
        once: the name of the round; None when it has none.
        impute: whether rows that are not run may store predicted answers.
        promise: what must hold afterwards; None when the budget decides. The budget is then the most that may
            be spent.
        pools: makes what pools rows, from the metadata of the new round; None fits it to the labelled rows
            that the round refreshes.
    """

    cache: Store
    candidates: list[Model]
    scorer: Ranking
    ranker: Ranker | None
    budget: Budget
    target: str
    only_positive: bool
    seed: int
    known: list[Known | None]
    columns: SampleColumns | None = None
    correction: RoundCorrection | None = None
    correct_within_budget: bool = False
    objective: Objective = "consistency"
    pools: Callable[[Metadata], Pooler] | None = None
    once: str | None = None
    impute: bool = False
    fingerprints: Fingerprints | None = None
    promise: Promise | None = None

    @property
    def names(self) -> list[str]:
        """Names of the candidates."""
        return [model.name for model in self.candidates]

    @property
    def learns(self) -> bool:
        """Whether the round ranks rows by what it learns while it spends."""
        return self.scorer.name == LEARNED

    def benefits(self, rows: Rows, ties: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """Score rows of the cache by their outputs, tie keys (m,) and models; shape (m, n)."""
        holders = [model.name for model in self.cache.metadata.models]
        given = ScoringRows(
            outputs=rows.stored, ties=ties, holders=holders, held=rows.models, kind=self.cache.metadata.kind
        )
        benefits = self.scorer.benefits(given).astype(np.float32, copy=False)
        if rows.imputed.any():  # what is predicted is run before what is not
            benefits = benefits + np.where(rows.imputed, BEFORE_OTHERS, np.float32(0))[:, None]
        changed = self.changed(rows.models)
        return np.where(changed[:, None], FIRST_OF_ALL, benefits) if changed.any() else benefits

    def changed(self, models: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
        """Return which rows hold the output of a sample that has changed since; models of shape (m,)."""
        index = self.cache.metadata.model_index(CHANGED)
        return np.zeros(len(models), dtype=bool) if index is None else models == index

    def seconds_per_forward(self) -> list[float | None]:
        """Return each candidate's seconds: as fit measured, as stated, or as earlier rounds measured."""
        fitted = {} if self.ranker is None else {c.digest: c.seconds for c in self.ranker.candidates}
        stored = {info.digest: info for info in self.cache.metadata.models}
        result: list[float | None] = []
        for model in self.candidates:
            info = stored.get(model.digest)
            stated = model.cost if model.unit == "seconds" else None
            before = info.cost if info is not None and info.unit == "seconds" else None
            measured = fitted.get(model.digest)
            result.append(next((s for s in (stated, measured, before) if s is not None), None))
        return result

    def costs(self) -> list[float]:
        """Return what the budget counts for one forward of each candidate.

        Raises:
            BudgetError: a candidate's cost is not known.
        """
        if self.budget.unit == "seconds":
            seconds = self.seconds_per_forward()
            for name, value in zip(self.names, seconds, strict=True):
                if value is None:
                    raise BudgetError(
                        f"how long a forward of {name!r} takes is not known, so several candidates cannot be "
                        "weighed against a time: fit a ranker with it first, or state its --cost"
                    )
            return [value for value in seconds if value is not None]
        for model in self.candidates:
            if model.cost is None or model.unit == "seconds":
                raise BudgetError(
                    f"a budget in cost needs the cost of {model.name!r} in the same units: state it with "
                    f"--cost {model.name}=NUMBER"
                )
        return [model.cost for model in self.candidates if model.cost is not None]

    def spent_by_fit(self) -> float:
        """Add up what fit has spent on the known rows, in the budget's unit."""
        forwards = [0 if item is None else len(item.ids) for item in self.known]
        if self.budget.unit in ("share", "rows"):
            return sum(forwards)
        if self.budget.unit == "seconds":
            return sum(item.seconds for item in self.known if item is not None)
        if not any(forwards):
            return 0.0
        return sum(count * cost for count, cost in zip(forwards, self.costs(), strict=True))

    def capacity(self, rows: int) -> tuple[float, list[float] | None]:
        """Return what may still be spent, and the costs to weigh it by; no costs: rows are counted."""
        spent = self.spent_by_fit() + self._reserved(rows)
        if self.budget.unit in ("share", "rows"):
            return max(self.budget.rows(rows) - spent, 0), None
        left = max(float(self.budget.amount) - spent, 0.0)
        if len(self.candidates) > 1 and not self.learns:
            return left, self.costs()
        if self.budget.unit == "seconds":
            # One candidate: rows in order of benefit until the time is up.
            return rows, None
        cost = self.costs()[self.names.index(self.target)]
        return (rows if cost == 0 else affordable(left, cost)), None

    def target_rows(self, rows: int) -> int:
        """Return how many rows the budget may still run by the target alone."""
        capacity, costs = self.capacity(rows)
        if costs is not None:
            raise AssertionError("several candidates are weighed against each other")
        return int(capacity)

    def _reserved(self, rows: int) -> float:
        """Return what correction may take out of the budget, in its unit."""
        if self.correction is None or not self.correct_within_budget:
            return 0.0
        return self.correction.forwards(self.to_screen(rows)) * self._correction_cost()

    def to_screen(self, rows: int) -> int:
        """Return how many rows correction screens: what its step says, or less where its budget is short."""
        if self.correction is None:
            return 0
        if not self.correct_within_budget:
            return self.correction.step.screened(rows)
        whole = self.budget.rows(rows) if self.budget.unit in ("share", "rows") else float(self.budget.amount)
        left, each = max(whole - self.spent_by_fit(), 0), self._correction_cost()
        return self.correction.affordable(rows, left / each if each else float("inf"))

    def _correction_cost(self) -> float:
        """Return what a forward of correction takes from the budget at most, in its unit."""
        if self.correction is None or self.budget.unit in ("share", "rows"):
            return 1
        costs = [model.cost for model in self.correction.given]
        if any(cost is None for cost in costs):
            raise BudgetError(
                "a budget in cost needs the cost of every model that corrects: state it with --cost"
            )
        return max(cost for cost in costs if cost is not None)

    def predict(self, refreshed: int, competing: int, rows: int) -> Prediction | None:
        """Predict consistency (and accuracy) from the rows that were held out of the fit.

        Args:
            refreshed: rows to be refreshed beside those that fit ran.
            competing: rows that some candidate may still be run on.
            rows: rows of the cache.

        Returns:
            The prediction; None without held-out rows, or when the candidates have written rows since, so
            that the rows left are no longer like those held out.
        """
        if self.ranker is None or self.ranker.holdout is None or rows == 0:
            return None
        if self.objective == "accuracy":
            # What held-out rows say is of new distributions stored as they are.
            return None
        known = len(self.known_rows())
        others = rows - known
        agreeing = self._known_agreement()
        names = self.ranker.holdout.names
        if competing < others or agreeing is None or any(name not in names for name in self.names):
            return None
        share = min(refreshed / others, 1.0) if others else 1.0
        held_out = self.ranker.holdout.predict(self.scorer.name, self.names, self.target, share)
        full = self.ranker.holdout.predict(self.scorer.name, self.names, self.target, 1.0)
        if held_out is None or full is None:
            return None
        weight = others / rows
        accuracy = None
        if held_out.accuracy is not None and full.accuracy is not None:
            accuracy = weight * held_out.accuracy + (1 - weight) * full.accuracy
        return replace(
            held_out,
            consistency=weight * held_out.consistency + (1 - weight) * agreeing,
            error=weight * held_out.error,
            accuracy=accuracy,
        )

    def _known_agreement(self) -> float | None:
        """Share of the rows that fit ran whose choice agrees with the target; None when not known."""
        chosen = self.known_rows()
        if not chosen:
            return 1.0
        target = self.known[self.names.index(self.target)]
        if target is None:
            return None
        wanted = dict(zip(target.ids.to_pylist(), range(len(target.ids)), strict=True))
        if any(name not in wanted for name in chosen):
            return None
        stored = self.outputs_of(chosen.values())
        reference = target.outputs[np.array([wanted[name] for name in chosen])]
        return float(self.cache.metadata.kind.agree(stored, reference).mean(dtype=np.float64))

    def outputs_of(self, chosen: Iterable[tuple[int, int]]) -> Outputs:
        """Return what fit ran, for pairs of a candidate's index and a position in its known rows."""
        picks = np.array(list(chosen), dtype=np.int64).reshape(-1, 2)
        parts, places = [], []
        for index, item in enumerate(self.known):
            at = np.flatnonzero(picks[:, 0] == index)
            if item is not None and len(at):
                parts.append(item.outputs[picks[at, 1]])
                places.append(at)
        joined = self.cache.metadata.kind.join(parts)
        return joined[np.argsort(np.concatenate([np.zeros(0, np.int64), *places]))]

    def known_rows(self) -> dict[Any, tuple[int, int]]:
        """Choose, for every row that fit ran, the candidate whose output is least in doubt.

        For distributions that is the one with the largest true entropy decrease; for a kind of output that
        says nothing of its doubt, the last candidate that was run.

        Returns:
            By id: the candidate's index and the position in its known rows.
        """
        kind = self.cache.metadata.kind
        informed = bool(kind.uncertainties)
        best: dict[Any, tuple[int, int]] = {}
        lowest: dict[Any, float] = {}
        for index, item in enumerate(self.known):
            if item is None:
                continue
            for position, (name, left) in enumerate(
                zip(item.ids.to_pylist(), _doubt(kind, item.outputs), strict=True)
            ):
                if name not in best or left < lowest[name] or (left == lowest[name] and not informed):
                    best[name], lowest[name] = (index, position), float(left)
        return best

    @property
    def what(self) -> str:
        """The round in words."""
        if self.promise is not None:
            return f"{', '.join(self.names)} for {self.promise}, ranked by {self.scorer.name}"
        return f"{', '.join(self.names)} under {self.budget}, ranked by {self.scorer.name}"

    @property
    def command(self) -> str:
        """Digest of what was asked for, so that a restart can tell whether it is the same."""
        asked: dict[str, Any] = {
            "models": {model.name: model.digest for model in self.candidates},
            "scorer": self.scorer.digest,
            "budget": [str(self.budget.amount), self.budget.unit],
            "target": self.target,
            "only_positive": self.only_positive,
            "seed": self.seed,
            "objective": self.objective,
            "correction": None if self.correction is None else self.correction.describe(),
            "correct_within_budget": self.correct_within_budget,
        }
        all_classes = {None, getattr(self.cache.metadata.kind, "classes", None)}
        knows = {model.name: model.knows for model in self.candidates if model.knows not in all_classes}
        if knows:
            asked["knows"] = knows
        if self.impute:
            asked["impute"] = True
        if self.columns is not None:
            asked["columns"] = self.columns.digest
        if self.promise is not None:
            asked["promise"] = self.promise.describe()
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """Digest of what was asked for and of the version of the cache that the round starts from."""
        return hashlib.sha256(f"{self.command} {self.cache.version}".encode()).hexdigest()


def prepare_round(
    cache: Cache,
    candidates: Sequence[Model],
    options: RefreshOptions,
    samples: Samples | None = None,
    *,
    staged: Mapping[str, str] | None = None,
) -> Round:
    """Check what a round is asked to do; see `sparing.refresh.job.refresh` for the arguments and errors.

    What `fit` ran for a sample that has changed since is left out. `staged` holds the digests by name of the
    models of a round that is staged.
    """
    if not candidates:
        raise InputError("a refresh needs at least one candidate model")
    ranker = options.ranker
    if isinstance(ranker, str | Path):
        ranker = Ranker.load(ranker)
    recorded = {*(staged or {}).values(), *(() if ranker is None else (c.digest for c in ranker.candidates))}
    candidates = as_recorded(candidates, cache, recorded)
    if options.correction is not None:
        recent = tuple(as_recorded(options.correction.recent, cache))
        options = replace(options, correction=replace(options.correction, recent=recent))
    objective, correction = options.objective, options.correction
    if objective not in get_args(Objective):
        raise InputError(f"the objective is {' or '.join(get_args(Objective))}, not {objective!r}")
    kind = cache.metadata.kind
    if (objective == "accuracy" or correction is not None) and not isinstance(kind, Classes):
        raise InputError(
            f"pooling and correction work on distributions over classes, but the cache holds {kind.name}: "
            'leave both out, with objective="consistency" and no correction'
        )
    names = [model.name for model in candidates]
    if len(set(names)) < len(names):
        raise InputError(f"the candidates' names are not unique: {', '.join(names)}")
    target = names[-1] if options.target is None else options.target
    if target not in names:
        raise InputError(f"the target {target!r} is not among the candidates {', '.join(names)}")
    metadata = cache.metadata
    for model in (*candidates, *(() if correction is None else correction.recent)):
        metadata.check_model(model.name, model.classes, model.kind)
        metadata = metadata.with_model(ModelInfo(model.name, model.digest, classes=model.knows))
    if ranker is not None:
        _check_ranker(ranker, candidates)
    scorer = options.scorer
    if scorer is None:
        scorer = _default_scorer(cache, options, ranker, target)
    if scorer == "auto":
        scorer = advised_scorer(ranker, names, target)
    if scorer == LEARNED and correction is not None:
        raise InputError(
            "the scorer 'learned' cannot correct: leave --correct out, or name a scorer, such as entropy"
        )
    if scorer == LEARNED and not isinstance(kind, Classes):
        raise InputError(
            f"the scorer 'learned' reads distributions over classes, the cache holds {kind.name}"
        )
    if options.features is not None and scorer != LEARNED:
        raise InputError(
            f"only the scorer 'learned' learns from features, but {scorer!r} ranks: leave out the features, "
            "or what decides otherwise (--scorer, --ranker, --correct)"
        )
    columns = None if options.features is None else open_columns(options.features, samples)
    promise = prepare_promise(options, scorer, names=names, columns=columns, samples=samples, kind=kind)
    given = "100%" if options.budget is None else options.budget
    if options.impute and (scorer != LEARNED or objective != "consistency"):
        other = f"the scorer {scorer!r} ranks" if scorer != LEARNED else f"the objective is {objective!r}"
        raise InputError(
            f"answers are predicted by the scorer 'learned', for the objective 'consistency', but {other}: "
            "leave out --impute, or what decides otherwise"
        )
    budget = given if isinstance(given, Budget) else Budget.parse(given)
    return Round(
        cache,
        list(candidates),
        scorer=make_ranking(scorer, names, target, ranker=ranker, kind=kind),
        ranker=ranker,
        budget=budget,
        target=target,
        only_positive=options.only_positive,
        seed=options.seed,
        known=[known_of(cache, model, samples) for model in candidates],
        columns=columns,
        correction=_correction(cache, candidates, options, budget),
        correct_within_budget=correction is not None and correction.within_budget,
        objective=objective,
        once=options.once,
        impute=options.impute,
        fingerprints=fingerprints_of(cache, samples),
        promise=promise,
    )


def fingerprints_of(cache: Cache, samples: Samples | None) -> Fingerprints | None:
    """Return the fingerprints of samples as they are now; None where the cache keeps none.

    Raises:
        InputError: the samples lack the column that the cache's fingerprints are taken of.
    """
    by = cache.metadata.fingerprint
    return None if by is None or samples is None else Fingerprints(samples, by)


def known_of(cache: Cache, model: Model, samples: Samples | None) -> Known | None:
    """Return what `fit` ran for a model, but for samples that have changed since; None if it ran nothing."""
    known = load_known(cache.work_dir, cache.metadata, model.name, model.digest)
    if known is None or known.inputs is None or samples is None or not model.needs_samples:
        return known
    changed = changed_inputs(known.ids, known.inputs, samples)
    # What was run for a sample that is gone was paid for in vain.
    return replace(known.take(~changed), wasted=known.wasted + int(changed.sum()))


def _correction(
    cache: Cache, candidates: Sequence[Model], options: RefreshOptions, budget: Budget
) -> RoundCorrection | None:
    if options.correction is None:
        return None
    return prepare_correction(
        cache, candidates, options.correction, unit=budget.unit, pooling=options.objective == "accuracy"
    )


def _doubt(kind: OutputKind, outputs: Outputs) -> npt.NDArray[Any]:
    measure = next(iter(kind.uncertainties.values()), None)
    return np.zeros(len(outputs)) if measure is None else measure(outputs)


def _default_scorer(cache: Store, options: RefreshOptions, ranker: Ranker | None, target: str) -> str:
    """Name what ranks when nobody says."""
    if ranker is not None:
        return ranker.preferred or _usual_scorer(ranker, target, options.objective)
    kind = cache.metadata.kind
    if isinstance(kind, Classes) and options.correction is None:
        return LEARNED
    return next(iter(kind.uncertainties), "random")


def _usual_scorer(ranker: Ranker, target: str, objective: Objective) -> str:
    """Name what a ranker ranks by when nobody says: pooled rows gain by what they do not hold yet."""
    fitted_for_it = "change" in ranker.scorers and ranker.names[-1] == target
    return "change" if objective == "accuracy" and fitted_for_it else "router"


def advised_scorer(ranker: Ranker | None, names: Sequence[str], target: str) -> str:
    """Return the scorer that a ranker's held-out rows recommend for these candidates.

    Raises:
        InputError: there is no ranker, it has no held-out rows, or routing is not appropriate on this data.
    """
    if ranker is None:
        raise InputError(
            "the scorer 'auto' needs a ranker: make one with `sparing fit`, give it with --ranker"
        )
    if ranker.holdout is None:
        raise InputError("the scorer 'auto' needs held-out rows: run `sparing fit` with --holdout above 0")
    for name in names:
        if name not in ranker.holdout.names:
            raise InputError(f"the ranker was not fitted for {name!r}: run `sparing fit` for it")
    advised, reason = ranker.holdout.advise(names, target)
    if advised == "random":
        raise InputError(f"{reason} To refresh all the same, name a scorer, for example --scorer random")
    return advised


def _check_ranker(ranker: Ranker, candidates: Sequence[Model]) -> None:
    digests = {candidate.name: candidate.digest for candidate in ranker.candidates}
    for model in candidates:
        fitted = digests.get(model.name)
        if fitted is not None and fitted != model.digest:
            raise InputError(
                f"the ranker was fitted for another {model.name!r} ({fitted} there, {model.digest} here): "
                "run `sparing fit` again for this one"
            )
