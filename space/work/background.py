"""Training and checking for a visit in the background, while its page does something else.

They run in a thread, and the page asks for news now and then, so they continue while the visitor
leaves the page to sign in. They end if no page has asked for some time.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_lorameta.errors import LoraMetaError
from visitors.callers import Call
from visitors.lines import Line
from work.jobs import Canceled, Job, Step, known_error
from work.trying import Improved

LEFT_SECONDS = 120.0
"""Seconds until a page that does not ask is taken for closed; browsers slow down hidden pages."""
CLOSED_SECONDS = 30.0
"""The same if the page was closed and others wait; some who close it come back from signing in."""
_EACH_MINUTES = 3
"""Minutes that a visitor's work rarely exceeds."""


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
    """Improves a visit's adapter once its turn in a line comes.

    Args:
        visit: gets the result, as long as this is its `background`, which is set here.
        job: reports the progress.
        line: where it waits for its turn.
        call: of the visitor.
        improve: what to do.

    Attributes:
        job: the same.
    """

    def __init__(
        self, visit: Any, job: Job, line: Line, call: Call, improve: Callable[[Job], Improved]
    ) -> None:
        self._visit, self.job, self._line, self._improve = visit, job, line, improve
        self._call = job.call = _AskedFor(call.address, call.stream, others_wait=line.is_waited_for)
        self.ask()
        visit.background = self
        run = partial(asyncio.run, self._run())
        threading.Thread(target=run, name="lorameta-background", daemon=True).start()

    def ask(self, call: Call | None = None) -> None:
        """Note that a page still wants the results, and through which call it says so."""
        self._call.seen = time.monotonic()
        self._call.stream = call.stream if call else self._call.stream

    async def _run(self) -> None:
        visit, job, improved = self._visit, self.job, list[Improved]()
        failed: LoraMetaError | None = None

        def wanted() -> bool:
            return not (job.stopped or job.canceled)

        def work(job: Job) -> None:
            improved.append(self._improve(job))

        try:
            in_turn = self._line.run(self._call, lambda: job.run(work), wanted)
            async with aclosing(in_turn) as running:
                async for news in running:
                    if isinstance(news, int):
                        up_to = f"up to {_EACH_MINUTES * news} minutes"
                        job.step = Step(f"Waiting for the training of others: {up_to}")
        except Canceled:
            pass
        except Exception as error:  # noqa: BLE001 - shown as a sentence
            failed = known_error(error)
        with visit.lock:
            if visit.background is self:
                if improved:
                    visit.adapter, visit.said, visit.more = improved[0]
                else:
                    visit.said, visit.more = failed or visit.said, True
                visit.background = None
                visit.version += 1
