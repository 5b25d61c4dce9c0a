import asyncio
import threading

import pytest

from sparing.errors import InputError
from sparing.serving.batching import Batcher, OverloadedError


def double(items):
    return [2 * item for item in items]


def test_each_request_gets_its_own_result_and_batches_stay_within_the_limit():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return double(items)

    async def main():
        async with Batcher(run, max_batch=4, max_wait=0.02) as batcher:
            return await asyncio.gather(*(batcher.submit(i) for i in range(10)))

    assert asyncio.run(main()) == double(range(10))
    assert sizes == [4, 4, 2]


def test_a_lone_item_is_not_kept_waiting_for_company():
    async def main():
        async with Batcher(double, max_batch=100, max_wait=0.0) as batcher:
            return await asyncio.wait_for(batcher.submit(21), timeout=5)

    assert asyncio.run(main()) == 42


def test_a_failing_batch_fails_only_its_own_requests():
    def run(items):
        if "bad" in items:
            raise ValueError("no")
        return items

    async def main():
        async with Batcher(run, max_batch=2, max_wait=0.02) as batcher:
            return await asyncio.gather(
                *(batcher.submit(item) for item in ["a", "b", "bad", "c", "d", "e"]), return_exceptions=True
            )

    results = asyncio.run(main())
    assert results[:2] == ["a", "b"]
    assert [type(result) for result in results[2:4]] == [ValueError, ValueError]
    assert results[4:] == ["d", "e"]


def test_a_function_that_loses_results_fails_its_requests_instead_of_hanging_them():
    async def main():
        async with Batcher(lambda items: items[1:], max_batch=2, max_wait=0.01) as batcher:
            return await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)

    assert [type(result) for result in asyncio.run(main())] == [RuntimeError, RuntimeError]


def test_a_full_queue_refuses_at_once_and_what_was_accepted_is_answered():
    release = threading.Event()

    def run(items):
        assert release.wait(10)
        return items

    async def main():
        async with Batcher(run, max_batch=1, max_wait=0, max_queue=2) as batcher:
            running = asyncio.create_task(batcher.submit(0))
            await asyncio.sleep(0.05)
            waiting = [asyncio.create_task(batcher.submit(i)) for i in (1, 2)]
            await asyncio.sleep(0.05)
            assert batcher.waiting == 2
            with pytest.raises(OverloadedError, match="2 requests"):
                await batcher.submit(3)
            release.set()
            return await asyncio.gather(running, *waiting)

    assert asyncio.run(main()) == [0, 1, 2]


def test_closing_answers_what_waits_and_refuses_what_comes_later():
    async def main():
        batcher = Batcher(double, max_batch=3, max_wait=5)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(5)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(batcher.close(), timeout=4)
        with pytest.raises(OverloadedError, match="shutting down"):
            await batcher.submit(1)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("raised", [StopIteration, SystemExit, KeyboardInterrupt])
def test_whatever_the_function_raises_fails_its_requests_and_the_next_are_answered(raised):
    def run(items):
        if "bad" in items:
            raise raised
        return items

    async def main():
        async with Batcher(run, max_batch=1, max_wait=0) as batcher:
            with pytest.raises(RuntimeError, match=raised.__name__):
                await asyncio.wait_for(batcher.submit("bad"), 5)
            return await asyncio.wait_for(batcher.submit("good"), 5)

    assert asyncio.run(main()) == "good"


def test_what_waits_fails_if_the_worker_ends():
    release = threading.Event()

    def run(items):
        assert release.wait(10)
        return items

    async def main():
        batcher = Batcher(run, max_batch=1, max_wait=0)
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
        await asyncio.sleep(0.05)
        release.set()
        batcher._worker.cancel()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        with pytest.raises(OverloadedError):
            await batcher.submit(3)
        return answers

    assert {type(answer) for answer in asyncio.run(main())} == {OverloadedError}


@pytest.mark.parametrize(
    "limits", [{"max_batch": 0}, {"max_queue": 0}, {"max_wait": -1}, {"max_wait": float("nan")}]
)
def test_impossible_limits_are_refused(limits):
    with pytest.raises(InputError, match="max_batch >= 1"):
        Batcher(double, **limits)


def test_a_batch_that_takes_too_long_fails_its_requests_and_the_batcher_recovers():
    release = threading.Event()

    def run(items):
        if "slow" in items:
            release.wait(20)
        return items

    async def main():
        async with Batcher(run, max_batch=1, max_wait=0, max_seconds=0.2) as batcher:
            slow = asyncio.create_task(batcher.submit("slow"))
            waiting = asyncio.create_task(batcher.submit("waiting"))
            for task in (slow, waiting):
                with pytest.raises(OverloadedError, match=r"took more than 0\.2 s"):
                    await task
            assert batcher.stuck
            with pytest.raises(OverloadedError, match="does not answer"):
                await batcher.submit("new")
            release.set()
            while batcher.stuck:
                await asyncio.sleep(0.01)
            return await batcher.submit("new")

    assert asyncio.run(main()) == "new"


def test_closing_does_not_wait_for_a_batch_that_takes_too_long():
    release = threading.Event()

    async def main():
        batcher = Batcher(lambda items: release.wait(20) and items, max_seconds=0.2)
        slow = asyncio.create_task(batcher.submit("slow"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(batcher.close(), 5)
        with pytest.raises(OverloadedError):
            await slow

    asyncio.run(main())
    release.set()
