"""Training and checking for a visit in the background, while its page does something else.

They run in a thread, and the page asks for news now and then, so they continue while the visitor
leaves the page to sign in. They end if no page has asked for some time.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limits.callers import Call
from limits.lines import FullError, Line, Place
from work.generating import Adapter
from work.jobs import Canceled, Job, SpaceError, give_back_memory, known_error

Show = Callable[[Adapter, str], None]
"""Takes the best adapter so far, and a sentence about it."""

LEFT_SECONDS = 120.0
"""Seconds until a page that does not ask is taken for closed; browsers slow down hidden pages."""
CLOSED_SECONDS = 30.0
"""The same if the page was closed and others wait; some who close it come back from signing in."""
_EACH_MINUTES = 3
"""Minutes that a visitor's work rarely exceeds."""
_LOOK_SECONDS = 0.5


@dataclass
class _AskedFor(Call):
    """A call whose answer is wanted as long as a page asks for it."""

    seen: float = 0.0
    others_wait: Callable[[], bool] = bool

    @property
    def wanted(self) -> bool:
        unseen = time.monotonic() - self.seen
        closed = self.stream.left and self.others_wait()
        return unseen < (CLOSED_SECONDS if closed else LEFT_SECONDS)


class Background:
    """Improves a visit's adapter in a thread of its own, which waits in a line.

    Args:
        visit: gets the results, as long as this is its `background`, which is set here.
        job: reports the progress.
        line: where it waits for its turn.
        call: of the visitor.
        work: what to do; it is called with the job and `show`, and returns whether more time might
            help.

    Attributes:
        job: the same.
    """

    def __init__(
        self, visit: Any, job: Job, line: Line, call: Call, work: Callable[[Job, Show], bool]
    ) -> None:
        self._visit, self.job, self._line, self._work = visit, job, line, work
        self._call = job.call = _AskedFor(call.address, call.stream, others_wait=line.is_waited_for)
        self.ask()
        visit.background = self
        threading.Thread(target=self._run, name="lorameta-background", daemon=True).start()

    def ask(self, call: Call | None = None) -> None:
        """Note that a page still wants the results, and through which call it says so."""
        self._call.seen = time.monotonic()
        self._call.stream = call.stream if call else self._call.stream

    def show(self, adapter: Adapter, said: str) -> None:
        """Take the best adapter so far."""
        visit = self._visit
        with visit.lock:
            if visit.background is self:
                visit.adapter, visit.said = adapter, said
                visit.version += 1

    def _run(self) -> None:
        visit, more, said = self._visit, False, ""
        try:
            place = self._line.ask(self._call.address, self)
            try:
                self._wait(place)
                self.job.restart()
                more = self._work(self.job, self.show)
            finally:
                self._line.leave(place)
        except Canceled:
            more = True
        except FullError as full:
            more, said = True, str(full)
        except Exception as error:  # noqa: BLE001 - shown as a sentence
            known = known_error(error)
            hint = known.hint if isinstance(known, SpaceError) else ""
            more, said = True, f"{known}. {hint}".strip()
        with visit.lock:
            if visit.background is self:
                visit.background, visit.more, visit.said = None, more, said or visit.said
                visit.version += 1
        give_back_memory()

    def _wait(self, place: Place) -> None:
        while not self.job.stopped:
            if self._line.begin(place):
                return
            minutes = _EACH_MINUTES * self._line.number(place)
            self.job.restart()
            self.job.report(f"Waiting for the training of others: up to {minutes} minutes")
            time.sleep(_LOOK_SECONDS)
        raise Canceled
