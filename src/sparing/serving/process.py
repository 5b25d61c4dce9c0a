"""A model in a process of its own, so that one that hangs or dies is replaced and the service goes on.

The process is ours, on this machine, started from this one, and what it answers comes through a pipe that no
one else holds.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from sparing.errors import InputError, ModelError, SparingError
from sparing.serving.batching import OverloadedError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

ENDING_SECONDS = 10.0
"""How long ending a process may take, at most."""

START_SECONDS = 300.0
"""How long loading a model may take."""


class ModelProcess(Generic[Asked, Answer]):
    """Runs batches in a process that is killed and started again when a batch takes too long, or it dies.

    While it is being started again, batches are refused with `OverloadedError`. `start` before the first.

    Args:
        make: loads the model, in the process, and returns what runs a batch; it must pickle.
        batch_seconds: how long a batch may take.
        start_seconds: how long loading may take.

    Raises:
        InputError: a limit is not above 0.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Asked], Answer]],
        *,
        batch_seconds: float,
        start_seconds: float = START_SECONDS,
    ) -> None:
        if not (batch_seconds > 0 and start_seconds > 0):
            raise InputError(f"a batch needs more than 0 seconds, got {batch_seconds} and {start_seconds}")
        self._make = make
        self._batch_seconds, self._start_seconds = batch_seconds, start_seconds
        self._process: Any = None
        self._pipe: Connection | None = None
        self._starting: threading.Thread | None = None
        self._stopped = False
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether the process waits for, or runs, a batch."""
        return self._pipe is not None and self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            SparingError: the model cannot be loaded; the message is its own.
            ModelError: loading took too long, or the process ended.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._make), daemon=True, name="model")
        process.start()
        theirs.close()
        self._process = process
        try:
            came = wait([ours, process.sentinel], self._start_seconds)
            if not ours.poll(0):
                raise ModelError(
                    "the model's process ended while it was loading"
                    if came
                    else f"loading the model took more than {self._start_seconds:g} s"
                )
            _unwrap(ours.recv())
        except EOFError:
            self._kill()
            raise ModelError("the model's process ended while it was loading") from None
        except BaseException:
            self._kill()
            raise
        self._pipe = ours
        if self._stopped:
            self._kill()

    def __call__(self, batch: Asked) -> Answer:
        """Run one batch; not to be called concurrently.

        Raises:
            OverloadedError: the batch took too long or its process died, which is then started again; or it
                is being started.
            Exception: whatever the model raised; ours are of the same class, others a `RuntimeError`.
        """
        pipe = self._pipe
        if pipe is None or not self.ready:
            if pipe is not None:
                self._again()
            raise OverloadedError("the model is being started again; try again later")
        try:
            pipe.send(batch)
            died = bool(wait([pipe, self._process.sentinel], self._batch_seconds))
            if pipe.poll(0):
                found: Answer = _unwrap(pipe.recv())
                return found
        except (EOFError, OSError):
            died = True
        self._again()
        why = "ended" if died else f"took more than {self._batch_seconds:g} s and was stopped"
        raise OverloadedError(f"the model's process {why}; it is being started again")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._stopped = True
        self._kill()

    def _again(self) -> None:
        self._kill()
        if self._stopped or (self._starting is not None and self._starting.is_alive()):
            return
        self.restarts += 1
        self._starting = threading.Thread(target=self._restart, name="model starter", daemon=True)
        self._starting.start()

    def _restart(self) -> None:
        # What kept it from starting is seen in `/healthz`; the next batch tries again.
        with suppress(SparingError, OSError):
            self.start()

    def _kill(self) -> None:
        pipe, self._pipe = self._pipe, None
        if self._process is not None:
            self._process.kill()
            self._process.join(ENDING_SECONDS / 2)
        if pipe is not None:
            pipe.close()


def _serve(pipe: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Load the model and run batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the service drains, then ends this one
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with_parent()
    try:
        run = make()
    except BaseException as error:  # noqa: BLE001 - reported by the service
        pipe.send(_wrap(error))
        return
    pipe.send((None, "", None))
    while True:
        try:
            batch = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str | None, str, Any] = (None, "", run(batch))
        except BaseException as error:  # noqa: BLE001 - an exit() in a model must not end the service
            answer = _wrap(error)
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


_OURS: dict[str, Callable[[str], Exception]] = {
    "InputError": InputError,
    "ModelError": ModelError,
    "SparingError": SparingError,
}


def _wrap(error: BaseException) -> tuple[str, str, None]:
    kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in _OURS), "")
    return kind or "other", str(error) if kind else f"the function raised {error!r}", None


def _unwrap(answer: tuple[str | None, str, Any]) -> Any:
    kind, text, value = answer
    if kind is None:
        return value
    raise _OURS.get(kind, RuntimeError)(text)


def kill_children() -> None:
    """Kill the processes that this one has started, such as those of models that hang."""
    for child in multiprocessing.active_children():
        child.kill()
