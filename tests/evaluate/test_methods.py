import pytest

from sparing.errors import InputError
from sparing.evaluate.methods import METHODS, read_methods
from sparing.refresh.scoring import SCORERS


def test_methods_rank_by_scorers_that_a_refresh_has():
    for name, method in METHODS.items():
        assert method.scorer == "full" or not SCORERS[method.scorer].needs, name


def test_names():
    assert read_methods("all") == list(METHODS)
    assert read_methods(" pure, full,") == ["pure", "full"]
    for asked, message in (("vibes", "no method 'vibes': choose among random"), (",", "at least one")):
        with pytest.raises(InputError, match=message):
            read_methods(asked)
