"""Waiting lines: a limited number of jobs run at a time, first come, first served."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hf_lorameta import LoraMetaError
from jobs import Job
from settings import Settings

_WAIT_SECONDS = 0.1
_FIRST_ESTIMATE = 10.0


class BusyError(LoraMetaError):
    """Too many requests are waiting."""


class WaitingLine:
    """A line of jobs, those at its head run.

    Args:
        running: number of jobs that run at the same time.
        waiting: number of jobs that may wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._seconds = _FIRST_ESTIMATE

    @contextmanager
    def turn(self, job: Job) -> Iterator[None]:
        """Wait until it is the job's turn, reporting its place and the estimated time.

        Raises:
            BusyError: too many jobs are waiting.
            Canceled: the job was canceled while it waited.
            TimeLimitError: the job waited longer than its time limit.
        """
        with self._lock:
            if len(self._jobs) >= self._running + self._waiting:
                raise BusyError("Too many people use this page at the moment")
            self._jobs.append(job)
        try:
            while (place := self._jobs.index(job) - self._running + 1) > 0:
                seconds = math.ceil(place / self._running) * self._seconds
                job.report(f"Waiting: place {place} in the line, about {seconds:.0f} s")
                time.sleep(_WAIT_SECONDS)
            job.start_clock()
            started = time.monotonic()
            yield
            self._seconds += (time.monotonic() - started - self._seconds) / 4
        finally:
            with self._lock:
                self._jobs.remove(job)


@dataclass(frozen=True)
class Lines:
    """The lines of a Space.

    Attributes:
        plans: reading datasets and planning.
        adapters: combining and publishing adapters.
        model: running the base model.
    """

    plans: WaitingLine
    adapters: WaitingLine
    model: WaitingLine

    @classmethod
    def of(cls, settings: Settings) -> "Lines":
        """Return empty lines."""
        return cls(
            WaitingLine(4, settings.queue),
            WaitingLine(settings.concurrency, settings.queue),
            WaitingLine(1, settings.queue),
        )
