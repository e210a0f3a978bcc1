"""Background jobs that report progress and can be canceled or time out.

A Gradio generator can only be closed at a ``yield``, and a thread cannot be closed at all. So the
work runs in a thread that calls `Job.check` at every row and every module, and the generator only
reports progress.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from hf_lorameta import LoraMetaError

T = TypeVar("T")
U = TypeVar("U")
_REPORT_SECONDS = 0.2
logger = logging.getLogger("space")


class TimeLimitError(LoraMetaError):
    """A request took longer than the Space allows."""


class Canceled(Exception):  # noqa: N818 - a request of the user, not an error
    """Ends the work of a canceled job."""


@dataclass(frozen=True)
class Step:
    """Progress of a job.

    Attributes:
        text: description of the current step.
        done: number of finished parts.
        total: number of parts; 0 if unknown.
    """

    text: str
    done: int = 0
    total: int = 0


class Job:
    """State shared by a job's thread and the request that waits for it.

    Args:
        time_limit: seconds after which `check` raises.

    Attributes:
        step: what is shown now.
        time_limit: as given.
    """

    def __init__(self, time_limit: float) -> None:
        self.step = Step("Starting")
        self.time_limit = time_limit
        self._canceled = threading.Event()
        self._committed = False
        self._lock = threading.Lock()
        self.start_clock()

    def start_clock(self) -> None:
        """Start the time limit again, after waiting for other jobs."""
        self._deadline = time.monotonic() + self.time_limit

    def cancel(self) -> None:
        """End the work at its next check, unless it was committed."""
        with self._lock:
            if not self._committed:
                self._canceled.set()

    def commit(self) -> None:
        """Check, and ignore `cancel` from now on: what follows cannot be undone."""
        with self._lock:
            self.check()
            self._committed = True

    @property
    def committed(self) -> bool:
        """Whether `commit` was called."""
        return self._committed

    @property
    def canceled(self) -> bool:
        """Whether `cancel` was called."""
        return self._canceled.is_set()

    def check(self) -> None:
        """Raise if the job should end.

        Raises:
            Canceled: `cancel` was called.
            TimeLimitError: the time limit has passed.
        """
        if self.canceled:
            raise Canceled
        if time.monotonic() > self._deadline:
            raise TimeLimitError(
                f"The request took longer than {self.time_limit:.0f} s, the limit of this Space"
            )

    def report(self, text: str, done: int = 0, total: int = 0) -> None:
        """Check, then set the current step."""
        self.check()
        self.step = Step(text, done, total)


def stream_job(
    job: Job, work: Callable[[Job], T], show: Callable[[Step], U]
) -> Generator[U, None, T]:
    """Run work in a thread, yield its steps as shown by `show`, and return its result.

    Closing the generator cancels the job. A canceled job ends the generator at once, although its
    thread may still wait for a slow server.

    Raises:
        Canceled: the job was canceled.
        LoraMetaError: raised by the work.
        TimeLimitError: the time limit has passed.
    """
    outcome = Future[T]()

    def body() -> None:
        try:
            outcome.set_result(work(job))
        except BaseException as error:  # noqa: BLE001 - re-raised by `outcome.result`
            outcome.set_exception(error)

    thread = threading.Thread(target=body, name="lorameta-job", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not job.canceled:
            thread.join(_REPORT_SECONDS)
            if thread.is_alive() and not job.canceled:
                yield show(job.step)
        if job.canceled:
            raise Canceled
        return outcome.result()
    except BaseException:
        job.cancel()  # no join: Gradio closes generators in its event loop, which must not block
        raise


def known_error(error: Exception) -> LoraMetaError:
    """Return an error to show; of an unexpected exception, only the type is logged.

    Its message is neither logged nor shown, since it may quote a row.
    """
    if isinstance(error, LoraMetaError):
        return error
    logger.error("unexpected %s", type(error).__name__)
    return LoraMetaError("Something went wrong that should not")
