"""Jobs of visitors: they report progress, show results, and can be canceled or time out.

Gradio's queue says when a job runs, but it can neither stop a function that is running nor replace
a request with a later one. So the work runs in a thread that calls `Job.check` at every row and
every module, and a generator passes what the job reports to Gradio.
"""

import ctypes
import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

from hf_lorameta.errors import LoraMetaError
from space_error import SpaceError
from visitors.callers import Call

Updates = dict[Any, Any]
"""New values or properties by component of the page."""
Show = Callable[[], Updates]
"""Stores a result in the state of a visit, and returns the updates that show it."""
LineName = Literal["plan", "adapter", "model", "training"]
"""Where work waits for its turn: reading datasets and planning; combining and saving adapters;
trying them; training and checking."""
_TIP: dict[LineName, str] = {
    "plan": "Use a smaller dataset or file",
    "model": "Try a shorter text",
}
"""How the work of a line gets shorter."""
_LOOK_SECONDS, _REPORT_SECONDS = 0.2, 1.0
"""How often work is looked at, and seconds until numbers of the same step are shown again."""
TRY_AGAIN = "Try again. If the error persists, please tell the owner of this Space."
"""Advice for an unexpected error."""
logger = logging.getLogger("space")


class Canceled(Exception):  # noqa: N818 - a request of the user, not an error
    """Ends the work of a canceled job."""


@dataclass(frozen=True)
class Step:
    """Progress of a job.

    Attributes:
        text: description of the current step.
        done: number of finished parts.
        total: number of parts; 0 if unknown.
        steps: training steps that were taken.
        seconds_left: how long it may still take; 0 if unknown.
    """

    text: str
    done: int = 0
    total: int = 0
    steps: int = 0
    seconds_left: int = 0


class Job:
    """State shared by a job's thread and the request that waits for it.

    Args:
        time_limit: seconds that the work may take, twice as many for a training; waiting for others
            does not count.
        line: where it waits for its turn.

    Attributes:
        call: who asked for it; the job ends if they leave.
        committed: whether the work has begun what cannot be undone.
        stopped: whether the work should end with the best that it has so far.
        step: the one that was reported last.
        waited: seconds that it has stood back for others while it had its turn.
    """

    def __init__(self, time_limit: float, line: LineName = "plan") -> None:
        self.time_limit, self.line = time_limit * (2 if line == "training" else 1), line
        self.call = Call()
        self.committed = self.stopped = self._canceled = False
        self.waited = 0.0
        self.step = Step("Starting")
        self._lock = threading.RLock()  # `commit` checks, which may cancel
        self._news: queue.SimpleQueue[Step | Show | Exception | None] = queue.SimpleQueue()
        self._reported = ("", 0.0)
        self._deadline = time.monotonic() + self.time_limit

    def cancel(self) -> None:
        """End the work at its next check, unless it was committed."""
        with self._lock:
            if not self.committed:
                self._canceled = True

    def commit(self) -> None:
        """Check, and ignore `cancel` from now on: what follows cannot be undone."""
        with self._lock:
            self.check()
            self.committed = True

    @property
    def canceled(self) -> bool:
        """Whether `cancel` was called, or the caller has left, in time."""
        return self._canceled or not (self.committed or self.call.wanted)

    @property
    def seconds_left(self) -> float:
        """Seconds until the time limit."""
        return self._deadline + self.waited - time.monotonic()

    def check(self) -> None:
        """Raise if the job should end.

        Raises:
            Canceled: `cancel` was called, or the visitor has left.
            SpaceError: the time limit has passed.
        """
        if self.canceled:
            raise Canceled
        if self.seconds_left < 0:
            raise SpaceError(
                f"The request took longer than {self.time_limit:.0f} s, the limit of this Space",
                code="page.time-limit",
                hint=f"{_TIP.get(self.line, 'Try again')}, or run hf-lorameta on your own machine.",
            )

    def wait(self, seconds: float) -> None:
        """Let others go first for some seconds, which do not count; then check."""
        start = time.monotonic()
        time.sleep(seconds)
        self.waited += time.monotonic() - start
        self.check()

    def report(self, text: str, done: int = 0, total: int = 0, **numbers: int) -> None:
        """Check, then show the current `Step`; its numbers only now and then."""
        self.check()
        self.step = Step(text, done, total, **numbers)
        before, at = self._reported
        if text != before or time.monotonic() - at > _REPORT_SECONDS:
            self._reported = (text, time.monotonic())
            self._news.put(self.step)

    def show(self, result: Show) -> None:
        """Check, then show a result."""
        self.check()
        self._news.put(result)

    def run(self, work: Callable[["Job"], None]) -> Generator[Step | Show, None, None]:
        """Run work in a thread; yield its steps and results.

        Closing the generator cancels the job. A canceled job ends the generator at once, although
        its thread may still wait for a slow server.

        Raises:
            Canceled: the job was canceled.
            LoraMetaError: raised by the work, or the time limit has passed.
        """
        self._deadline = time.monotonic() + self.time_limit

        def body() -> None:
            try:
                work(self)
            except Exception as error:  # noqa: BLE001 - raised below
                self._news.put(error)
            else:
                self._news.put(None)
            finally:
                give_back_memory()

        threading.Thread(target=body, name="lorameta-job", daemon=True).start()
        try:
            while not self.canceled:
                try:
                    news = self._news.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if news is None:
                    return
                if isinstance(news, Exception):
                    raise news
                yield news
            raise Canceled
        finally:
            self.cancel()  # no join: Gradio closes generators in its event loop


def give_back_memory() -> None:
    """Give free memory back to the system, of which the C library keeps gigabytes otherwise.

    It keeps what lies between pieces that are still used, for each of the server's many threads.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)


def known_error(error: Exception) -> LoraMetaError:
    """Return an error to show; of an unexpected exception, only type and place are logged.

    Its message is neither logged nor shown, since it may quote a row.
    """
    if isinstance(error, LoraMetaError):
        return error
    places = traceback.extract_tb(error.__traceback__, limit=-1)
    where = " ".join(f"at {place.filename}:{place.lineno}" for place in places)
    logger.error("unexpected %s %s", type(error).__name__, where)
    return SpaceError("Something unexpected went wrong", code="error.unexpected", hint=TRY_AGAIN)
