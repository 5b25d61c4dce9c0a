"""The contract of an engine, and the one that needs nothing but this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Protocol, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


class Engine(Protocol):
    """Where tasks run: in this process, in others, or on other machines.

    Attributes:
        name: what options and reports call the engine.
    """

    name: ClassVar[str]

    def map(self, task: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Apply a task to every chunk, and yield the results as they finish, in any order.

        Chunks are taken from the iterable no earlier than there is a place to run them: what ends the
        iterable (a deadline) ends the job. An engine that leaves the process needs a task that pickles.

        Raises:
            Exception: whatever the task raised; results that were yielded before remain valid.
        """


class Local:
    """This process, one chunk after the other."""

    name: ClassVar[str] = "local"

    def map(self, task: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Apply a task to every chunk, in order; the next chunk is taken once its result was used."""
        return map(task, chunks)
