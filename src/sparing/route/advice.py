"""Whether routing pays, in sentences: what is better than the router, and by how much."""

from collections.abc import Sequence

import numpy as np

from sparing.route.baselines import BASELINES
from sparing.route.rows import Row

SURE = 1.96
"""Standard errors within which a difference is noise, at 95 %."""

OVERHEAD = 0.11
"""The router's latency as a share of the most accurate expert's in the paper: 0.82 of 7.56 ms (Table 1)."""

ONE_SIDED = 0.999
"""A router that sends this share to one expert decides nothing."""


def advise(
    rows: Sequence[Row], names: Sequence[str], router: float, experts: Sequence[float], *, samples: int
) -> tuple[str, ...]:
    """Say what is better than the router; else, what the router brings.

    Args:
        rows: from `evaluate.compare`: the router first, then each expert, then the baselines at the
            router's mean latency.
        names: n, of the experts.
        router: the router's own seconds per sample.
        experts: n, each expert's own seconds per sample.
        samples: how many the rows were judged on; bounds the noise where a row does not state it.

    Returns:
        Sentences, the most important first.
    """
    routed = rows[0]
    alone = [row for row in rows if row.kind == "expert"]
    rivals = _rivals(rows)
    better = _single(routed, alone, names, samples)
    better += [_beaten(row, routed, names, samples) for row in rivals if row.behind <= 0]
    said = better or [_pays(routed, alone, names, samples)]
    said += [
        f"More than {_describe(row)} is not shown: {_percent(row.accuracy)} at {_ms(row.latency)}"
        f"{_aside(row, routed, names, samples)}; judge the router on more samples."
        for row in rivals
        if 0 < row.behind <= noise(row, routed, names, samples)
    ]
    if routed.shares is not None and max(routed.shares) >= ONE_SIDED:
        only = names[int(np.argmax(routed.shares))]
        said.append(
            f"The router sends {_percent(max(routed.shares))} of the samples to {only}: it decides nothing "
            f"here, and {only} alone saves the router's {_ms(router)}."
        )
    return (*said, *_overhead(alone, names, router, experts))


def noise(row: Row, routed: Row, names: Sequence[str], samples: int) -> float:
    """Return what a difference in accuracy has to exceed to be more than noise.

    Where the paired error is not known, an expert's answers can differ from the router's only on samples that
    the router sends elsewhere, which bounds it; other rows count as independent.

    Args:
        row: the policy that is compared with the router.
        routed: the router.
        names: n, of the experts.
        samples: how many both were judged on.
    """
    if row.error is not None:
        return SURE * row.error
    if row.kind == "expert" and routed.shares is not None:
        return SURE * float(np.sqrt((1 - routed.shares[names.index(row.name)]) / samples))
    spread = sum(one.accuracy * (1 - one.accuracy) for one in (row, routed))
    return SURE * float(np.sqrt(spread / samples))


def _single(routed: Row, alone: Sequence[Row], names: Sequence[str], samples: int) -> list[str]:
    as_good = [
        row
        for row in alone
        if row.latency <= routed.latency and row.behind <= noise(row, routed, names, samples)
    ]
    if not as_good:
        return []
    best = max(as_good, key=lambda row: (row.accuracy, -row.latency))
    aside = _aside(best, routed, names, samples)
    return [
        f"Run {best.name} alone: {_percent(best.accuracy)} at {_ms(best.latency)}, against "
        f"{_percent(routed.accuracy)} at {_ms(routed.latency)} with the router{aside}."
    ]


def _rivals(rows: Sequence[Row]) -> list[Row]:
    """Choose the most accurate row of each family of baselines, the most accurate family first."""
    best: dict[str, Row] = {}
    for row in rows:
        # Of what sends every sample to one expert there is nothing to add to what is said of experts.
        if row.kind not in BASELINES or (row.shares is not None and np.count_nonzero(row.shares) < 2):
            continue
        family = BASELINES[row.kind].family
        if family not in best or row.accuracy > best[family].accuracy:
            best[family] = row
    return sorted(best.values(), key=lambda row: -row.accuracy)


def _describe(row: Row) -> str:
    return BASELINES[row.kind].describe(row.name)


def _beaten(row: Row, routed: Row, names: Sequence[str], samples: int) -> str:
    """Say that a baseline reaches at least what the router does."""
    figures = (
        f"{_describe(row)} reaches {_percent(row.accuracy)} at {_ms(row.latency)}, the router "
        f"{_percent(routed.accuracy)}{_aside(row, routed, names, samples)}."
    )
    surely = row.behind < -noise(row, routed, names, samples)
    return BASELINES[row.kind].beats(figures, surely=surely)


def _pays(routed: Row, alone: Sequence[Row], names: Sequence[str], samples: int) -> str:
    best = max(alone, key=lambda row: (row.accuracy, -row.latency))
    saved = 1 - routed.latency / best.latency
    aside = _aside(best, routed, names, samples)
    if saved > 0:
        return (
            f"The router pays: {100 * saved:.0f} % less mean latency than {best.name}, the most accurate "
            f"expert ({_ms(routed.latency)} against {_ms(best.latency)}), at {_points(best.behind)} of "
            f"accuracy{aside}."
        )
    return (
        f"The router pays in accuracy, not in time: {_percent(routed.accuracy)} at {_ms(routed.latency)}, "
        f"against {_percent(best.accuracy)} at {_ms(best.latency)} for {best.name}, the most accurate "
        f"expert{aside}."
    )


def _overhead(
    alone: Sequence[Row], names: Sequence[str], router: float, experts: Sequence[float]
) -> list[str]:
    best = max(alone, key=lambda row: (row.accuracy, -row.latency)).name
    share = router / experts[names.index(best)]
    if share <= OVERHEAD:
        return []
    slowest = int(np.argmax(experts))
    beside = (
        ""
        if names[slowest] == best
        else f" and {100 * router / experts[slowest]:.0f} % of {names[slowest]}'s"
    )
    return [
        f"The router itself takes {_ms(router)}, {100 * share:.0f} % of the latency of {best}, the most "
        f"accurate expert{beside}; in the paper it is {100 * OVERHEAD:.0f} %. A smaller input or network "
        "leaves more to save."
    ]


def _aside(row: Row, routed: Row, names: Sequence[str], samples: int) -> str:
    limit = noise(row, routed, names, samples)
    if row.behind == 0 or abs(row.behind) > limit:
        return ""
    return f" (the difference of {_points(abs(row.behind), sign='')} is within noise, {_points(limit, '±')})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(difference: float, sign: str = "+") -> str:
    return f"{100 * difference:+.2f} points" if sign == "+" else f"{sign}{100 * difference:.2f} points"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
