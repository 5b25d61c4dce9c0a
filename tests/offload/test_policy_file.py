import pytest

from sparing.errors import InputError, StorageError
from sparing.offload import Choice, Gate, Geometry, Policy, Scheme, read_policy, write_policy


def test_a_policy_comes_back_from_its_file(tmp_path):
    policy = Policy(
        {
            64: None,
            256: Choice(Scheme.parse("whole:dct16"), 200, 0.25),
            99: Choice(Scheme.parse("raw:sage:4"), 99),
        },
        Geometry(32, 32, 4),
        Gate("margin", 0.5, 0.25),
        {256: {"accuracy_offloaded": 0.5, "mean_bytes": 190.25}},
    )
    path = tmp_path / "policy.toml"
    write_policy(path, policy)
    assert read_policy(path) == Policy(
        policy.choices, policy.geometry, policy.gate, {64: {}, 99: {}, **policy.scores}
    )
    assert [policy.at(size) for size in (63, 64, 98)] == [None, None, None]
    assert str(policy.at(255).scheme) == "raw:sage:4"
    assert policy.at(10_000).fill == 200


def test_a_policy_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "policy.toml"
    before = Policy({64: None}, Geometry(32, 32, 4), Gate(), {})
    write_policy(path, before)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparing.storage.files.sync", full)
    with pytest.raises(StorageError, match=r"policy\.toml could not be written: No space left on device"):
        write_policy(path, Policy({999: None}, Geometry(32, 32, 4), Gate(), {}))
    assert read_policy(path).choices == before.choices
    assert [found.name for found in tmp_path.iterdir()] == ["policy.toml"]


GOOD = """version = 1
[geometry]
height = 32
width = 32
patch = 4
[gate]
measure = "min-entropy"
threshold = 1.0
[[choice]]
budget = 256
scheme = "whole:dct16"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", "version 2"),
        ("version = 1", "version 1", "not valid TOML"),
        ("budget = 256", "budget = 0", r"budget must be a whole number from 1, got 0"),
        ("budget = 256", "", r"choice\[0\].budget is missing"),
        ("whole:dct16", "whole:gif", "codec must be"),
        ('scheme = "whole:dct16"', 'scheme = "whole:dct16"\nfill = 300', "fill is 300, above the budget 256"),
        ('scheme = "whole:dct16"', 'scheme = "whole:dct16"\nedge_weight = -1', "edge_weight must be"),
        ("patch = 4", "patch = 5", "cannot be cut"),
        ("patch = 4", "patch = 4\nsize = 3", "size"),
        ("min-entropy", "variance", "variance"),
        ("[[choice]]", "[choice]", "choice must be a list of tables"),
        ("[[choice]]", "[[choice]]\nbudget = 256\n[[choice]]", "256 has two choices"),
        ('scheme = "whole:dct16"', 'scheme = "whole:dct16"\nweight = 1', "unknown key 'weight'"),
    ],
)
def test_bad_policies_are_refused_and_the_file_is_named(tmp_path, old, new, message):
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    read_policy(path)
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_policy(path)
    assert "policy.toml" in str(caught.value)
