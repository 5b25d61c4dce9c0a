"""What `simulate` can replay: the paper's method, its ablations and its baselines, and ours."""

from dataclasses import dataclass
from typing import Literal

from sparing.errors import InputError


@dataclass(frozen=True)
class Method:
    """One way to keep a cache current.

    Attributes:
        scorer: what ranks the rows, a name in `sparing.refresh.scoring.SCORERS`; "full" refreshes all.
        correct: whether rounds from the second on correct.
        screen: what chooses the screened rows: omission risk or chance.
        settle: what chooses the corrected ones among them: divergence or omission risk.
        store: what a corrected row gets: the vote's result or the most recent model's output.
        pool: whether refreshed rows hold the pooled distribution, and corrections pool instead of voting.
        labelled: whether pooling may read labels.
    """

    scorer: str
    correct: bool = False
    screen: Literal["risk", "chance"] = "risk"
    settle: Literal["divergence", "risk"] = "divergence"
    store: Literal["vote", "latest"] = "vote"
    pool: bool = False
    labelled: bool = False


METHODS = {
    "random": Method("random"),
    "entropy": Method("entropy"),
    "cema": Method("cema"),
    "mlink": Method("mlink"),
    "pure": Method("router", correct=True),
    "pure-no-correction": Method("router"),
    "only-omission": Method("router", correct=True, settle="risk"),
    "only-misclass": Method("router", correct=True, screen="chance"),
    "no-voting": Method("router", correct=True, store="latest"),
    "full": Method("full"),
    "change": Method("change"),
    "pooled": Method("change", pool=True, labelled=True),
    "pooled-unlabelled": Method("change", pool=True),
    "pooled-entropy": Method("entropy", pool=True, labelled=True),
    "pooled-pure": Method("router", correct=True, pool=True, labelled=True),
}
"""Methods by name. "change" ranks by the label-change predictor, which sees the model that a row holds;
"pooled" does the same and stores pooled distributions."""


def read_methods(asked: str) -> list[str]:
    """Read a comma-separated list of methods.

    Args:
        asked: names, or "all".

    Raises:
        InputError: an unknown name.
    """
    if asked == "all":
        return list(METHODS)
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}: choose among {', '.join(METHODS)}, or all")
    if not names:
        raise InputError("name at least one method")
    return names
