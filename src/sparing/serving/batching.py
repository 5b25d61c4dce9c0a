"""Single requests collected into batches, run in one worker thread, each handed its own result."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparing.errors import InputError, SparingError

if TYPE_CHECKING:
    from prometheus_client import Histogram

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(SparingError):
    """The queue is full, or the service is going down; the request may be sent again later."""


class Batcher(Generic[Item, Result]):
    """Collects single items, runs them in batches in one worker thread, and hands each its own result.

    A batch starts when `max_batch` items wait, or `max_wait` seconds after its first item came. While one
    batch runs, requests queue for the next. If the function raises, the requests of that batch fail with what
    it raised and no others do. Use it as an asynchronous context manager, or call `close`.

    Args:
        run: from a list of 1 to `max_batch` items to as many results; never called concurrently.
        max_batch: items per batch.
        max_wait: seconds that the first item of a batch waits for company.
        max_queue: items that may wait; one more is refused at once with `OverloadedError`.
        max_seconds: how long a batch may take. Its requests then fail with `OverloadedError`, and so do new
            ones until the function returns: a thread cannot be stopped.
        sizes: where to record the sizes of batches; None for nowhere.

    Raises:
        InputError: a limit is out of range.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 256,
        max_seconds: float | None = None,
        sizes: "Histogram | None" = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1 or not 0 <= max_wait < float("inf"):
            raise InputError(
                f"a batcher needs max_batch >= 1, max_queue >= 1 and max_wait >= 0 seconds, "
                f"got {max_batch}, {max_queue} and {max_wait}"
            )
        self._run = run
        self._max_batch, self._max_wait, self._sizes = max_batch, max_wait, sizes
        self._max_seconds = max_seconds
        self._stuck = False
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]] | None] = asyncio.Queue()
        self._unanswered: set[asyncio.Future[Result]] = set()
        self._max_queue = max_queue
        self._closing = False
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Batcher[Item, Result]":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def stuck(self) -> bool:
        """Whether a batch has been running for longer than it may."""
        return self._stuck

    @property
    def waiting(self) -> int:
        """How many items wait for their batch to start."""
        return self._queue.qsize()

    async def submit(self, item: Item) -> Result:
        """Queue one item and wait for its result.

        Args:
            item: what `run` gets, among others.

        Returns:
            Its result.

        Raises:
            OverloadedError: the queue is full, or the batcher is closed.
            Exception: whatever `run` raised for this item's batch.
        """
        if self._closing:
            raise OverloadedError("the service is shutting down; try another one, or again later")
        if self._stuck:
            raise OverloadedError("the model does not answer; try another service, or again later")
        if self._queue.qsize() >= self._max_queue:
            raise OverloadedError(f"{self._max_queue} requests are waiting already; try again later")
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        self._queue.put_nowait((item, future))
        return await future

    async def close(self) -> None:
        """Refuse new items, answer those that wait, and stop the thread."""
        self._closing = True
        if self._worker is not None:
            self._queue.put_nowait(None)
            if self._stuck:
                self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None

    async def _work(self) -> None:
        try:
            await self._answer_batches()
        finally:
            # However the worker ended, nobody waits for it for ever.
            self._closing = True
            for future in self._unanswered:
                if not future.done():
                    future.set_exception(OverloadedError("the service stopped before it could answer"))

    async def _answer_batches(self) -> None:
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        try:
            more = True
            while more:
                batch, more = await self._collect()
                if not batch:
                    continue
                if self._sizes is not None:
                    self._sizes.observe(len(batch))
                items = [item for item, _ in batch]
                running = loop.run_in_executor(thread, self._results, items)
                try:
                    async with asyncio.timeout(self._max_seconds):
                        results, error = await asyncio.shield(running)
                except TimeoutError:
                    await self._outwait(running, [future for _, future in batch])
                    if self._closing:
                        return
                    continue
                for at, (_, future) in enumerate(batch):
                    if future.done():
                        continue
                    if error is not None:
                        future.set_exception(error)
                    else:
                        future.set_result(results[at])
        finally:
            thread.shutdown(wait=not self._stuck)

    async def _outwait(self, running: asyncio.Future[Any], futures: list[asyncio.Future[Result]]) -> None:
        """Fail the requests of a batch that takes too long, and those that wait; then wait for its end."""
        self._stuck = True
        while not self._queue.empty():
            entry = self._queue.get_nowait()
            if entry is None:
                self._queue.put_nowait(None)
                break
            futures.append(entry[1])
        for future in futures:
            if not future.done():
                future.set_exception(
                    OverloadedError(f"the model took more than {self._max_seconds:g} s; try again later")
                )
        if not self._closing:
            await running
            self._stuck = False

    def _results(self, items: list[Item]) -> tuple[Sequence[Result], Exception | None]:
        """Run one batch in the thread; what it raises is handed back, to belong to its requests alone."""
        try:
            results = self._run(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results came back for {len(items)} items")
        except StopIteration as error:  # no future takes it
            return [], RuntimeError(f"the function raised {error!r}")
        except Exception as error:  # noqa: BLE001
            return [], error
        except BaseException as error:  # noqa: BLE001 - an exit() in a model must not end the service
            return [], RuntimeError(f"the function raised {error!r}")
        return results, None

    async def _collect(self) -> tuple[list[tuple[Item, asyncio.Future[Result]]], bool]:
        """Return the next batch, and whether more may come after it."""
        first = await self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        try:
            async with asyncio.timeout(self._max_wait):
                while len(batch) < self._max_batch:
                    entry = await self._queue.get()
                    if entry is None:
                        return batch, False
                    batch.append(entry)
        except TimeoutError:
            pass  # items that queued earlier are in the batch already: getting those does not wait
        return batch, True
