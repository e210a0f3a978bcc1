"""Long work in steps that can be watched, cancelled and timed out.

A Gradio generator can be closed only where it yields, and a thread not at all. So the work runs in
a thread that asks its `Job` at every row and every module whether to go on, and the generator does
nothing but report.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from hf_lorameta import LoraMetaError

T = TypeVar("T")
_REPORT_SECONDS = 0.2


class TimeLimitError(LoraMetaError):
    """A request took longer than the Space allows."""


class Cancelled(Exception):  # noqa: N818 - not an error: the user wanted it
    """Ends the work of a job that nobody waits for any more."""


@dataclass(frozen=True)
class Step:
    """What is being done.

    Attributes:
        text: a sentence.
        done: parts finished.
        total: of so many; 0 if nobody knows.
    """

    text: str
    done: int = 0
    total: int = 0


class Job:
    """One request at work.

    Args:
        seconds: after which `check` ends it.
    """

    def __init__(self, seconds: float) -> None:
        self.step = Step("Starting")
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let the work end at its next check."""
        self._stopped.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Cancelled: `stop` was called.
            TimeLimitError: the time is up.
        """
        if self._stopped.is_set():
            raise Cancelled
        if time.monotonic() > self._deadline:
            raise TimeLimitError(f"This took longer than {self._seconds:.0f} s, the limit here")

    def say(self, text: str, done: int = 0, total: int = 0) -> None:
        """Check, then report what is done next."""
        self.check()
        self.step = Step(text, done, total)

    def watch(self, rows: Iterable[T], text: str) -> Iterator[T]:
        """The same rows, checked and counted."""
        for number, row in enumerate(rows, 1):
            if number % 64 == 1:
                self.say(f"{text}: {number:,} rows so far" if number > 1 else text)
            yield row


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The last item of `run`: what the work returned."""

    value: T


def run(work: Callable[[Job], T], seconds: float) -> Iterator[Step | Finished[T]]:
    """Do the work in a thread and report its steps; closing this generator ends the work.

    Raises:
        LoraMetaError: what the work raised, or its time was up.
    """
    job, outcome = Job(seconds), Future[T]()

    def body() -> None:
        try:
            outcome.set_result(work(job))
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            outcome.set_exception(error)

    thread = threading.Thread(target=body, name="lorameta-job", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_REPORT_SECONDS)
            if thread.is_alive():
                yield job.step
        yield Finished(outcome.result())
    finally:
        job.stop()  # not joined: Gradio closes generators in its event loop, which must not wait


def finish(work: Callable[[Job], T], seconds: float) -> T:
    """Do the work to its end and return what it made.

    Raises:
        LoraMetaError: as `run`.
    """
    for item in run(work, seconds):
        if isinstance(item, Finished):
            return item.value
    raise AssertionError("unreachable")
