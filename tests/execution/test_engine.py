import pytest

from sparing.execution import ENGINES, Local


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_runs_every_chunk(name):
    engine = ENGINES[name]()
    assert engine.name == name
    assert sorted(engine.map(abs, [-3, 1, -2])) == [1, 2, 3]


def test_local_takes_a_chunk_only_when_it_runs_it():
    taken = []

    def chunks():
        for number in range(3):
            taken.append(number)
            yield number

    results = Local().map(lambda number: 10 * number, chunks())
    assert taken == []
    assert next(results) == 0
    assert taken == [0]


def test_what_a_task_raises_comes_through_after_what_was_done():
    def task(number):
        if number == 2:
            raise ValueError("told to fail")
        return number

    results = Local().map(task, range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="told to fail"):
        next(results)
