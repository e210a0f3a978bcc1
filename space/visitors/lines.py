"""Lines in which requests wait for their turn, so that no address keeps others waiting.

They stand in front of the work, not in Gradio's queue, which starts every request at once. Programs
wait in the lines of the page, so each address has the same shares in both.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from starlette.concurrency import iterate_in_threadpool

from settings import SpaceSettings
from space_error import SpaceError
from visitors.callers import Call, shares_of
from visitors.hourly import MODEL_TIME, READING_TIME, TRAINING_TIME

LOOK_SECONDS = 0.1
"""How often a waiting request checks whether its turn has come."""
SHOW_SECONDS = 2.0
"""Seconds until its number is shown again, since showing it takes some computing."""
SLOW_SECONDS = 4.0
"""Seconds until a reading request, which mostly waits for another server, lets one more begin."""
AFTER_SECONDS = 10.0
"""Seconds until a request begins although others that go first are not over."""
T = TypeVar("T")
_FULL = "Too many requests are waiting"
_SHARE_TAKEN = "Too many requests from your address are waiting"
_AGAIN = "Try again in a minute."


class FullError(SpaceError):
    """A request gets no place in a line."""

    code = "page.line-full"


@dataclass(eq=False)
class Place:
    """A request in a line.

    Attributes:
        address: of the visitor.
        session: of the page or the call.
        began: when it began to run; None while it waits.
        lost: whether another one has taken it.
    """

    address: str
    session: object
    began: float | None = None
    lost: bool = False


class Line:
    """A line of requests; all methods are thread-safe.

    One address may take at most half of the places to wait, and one session a quarter. If several
    requests run at once, one address may have all but one of them. Addresses take turns, the one
    that has used least first.

    Args:
        at_once: requests that run at once.
        places: requests that may wait.
        reads: whether slow requests let others begin, up to a quarter of the places.
        used: returns how much an address has used lately, in large units: among those that have
            used as much, the one that has waited longest goes first.
        after: whose requests go first: while there are some, one begins every `AFTER_SECONDS`.
        now: the clock.
    """

    def __init__(
        self,
        at_once: int,
        places: int,
        *,
        reads: bool = False,
        used: Callable[[str], int] | None = None,
        after: "Line | None" = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once, self._places, self._reads = at_once, places, reads
        self._used, self._now = used or (lambda address: 0), now
        self._after, self._began = after, now() - AFTER_SECONDS
        self._waiting: list[Place] = []
        self._running: list[Place] = []
        self._lock = threading.RLock()

    def ask(self, address: str, session: object) -> Place:
        """Return a place behind those whose turn is earlier.

        If all places are taken, the last one is lost.

        Raises:
            FullError: it is the last one, or those that the address or session may have are taken.
        """
        with self._lock:
            waiting = _by_network(self._waiting)
            of_address = max(waiting[network] for network in shares_of(address))
            of_session = sum(place.session == session for place in self._waiting)
            if of_address >= max(1, self._places // 2) or of_session >= max(1, self._places // 4):
                raise FullError(_SHARE_TAKEN, code="page.share-taken", hint=_AGAIN)
            self._waiting.append(place := Place(address, session))
            turns, turn = _by_network(self._running), dict[Place, tuple[int, int]]()
            for other in self._waiting:
                shares = shares_of(other.address)
                turn[other] = max(turns[n] // shares[n] for n in shares), self._used(other.address)
                turns.update(shares.keys())
            self._waiting.sort(key=turn.__getitem__)
            if len(self._waiting) > self._places:
                self._waiting.pop().lost = True
            if place.lost:
                raise FullError(_FULL, code="page.line-full", hint=_AGAIN)
            return place

    def begin(self, place: Place) -> bool:
        """Begin a request if it is its turn; return whether it has begun.

        Raises:
            FullError: its place is lost.
        """
        with self._lock:
            if place.lost:
                raise FullError(_FULL, code="page.line-full", hint=_AGAIN)
            taken, now = _by_network(self._running), self._now()
            if self._after and self._after.is_busy() and now - self._began < AFTER_SECONDS:
                return False
            begun = (other.began for other in self._running)
            slow = sum(began is not None and now - began > SLOW_SECONDS for began in begun)
            beside = min(slow, self._places // 4) if self._reads else 0
            share = max(1, self._at_once - 1)
            ready = (
                p for p in self._waiting if all(taken[n] < share for n in shares_of(p.address))
            )
            if len(self._running) - beside >= self._at_once or next(ready, None) is not place:
                return False
            self._waiting.remove(place)
            self._running.append(place)
            place.began = self._began = now
            return True

    def is_busy(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self._waiting or self._running)

    def is_waited_for(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def number(self, place: Place) -> int:
        """Return the number of requests up to this one that wait."""
        with self._lock:
            return self._waiting.index(place) + 1

    def leave(self, place: Place) -> None:
        """Give up a place, whether the request waits or runs."""
        with self._lock:
            if not place.lost:
                (self._waiting if place.began is None else self._running).remove(place)

    async def run(
        self, call: Call, work: Callable[[], Generator[T, None, None]], wanted: Callable[[], bool]
    ) -> AsyncGenerator[int | T, None]:
        """Wait for a turn, then run work in a thread.

        Args:
            call: who waits.
            work: is called when the turn has come; closed if this generator is.
            wanted: whether to wait on.

        Yields:
            The number of the place now and then, and what the work yields.

        Raises:
            FullError: there is no place.
        """
        place = self.ask(call.address, call.stream)
        shown, next_at = 0, 0.0
        try:
            while not self.begin(place):
                if not wanted():
                    return
                number, now = self.number(place), self._now()
                if shown != number and now >= next_at:
                    shown, next_at = number, now + SHOW_SECONDS
                    yield number
                await asyncio.sleep(LOOK_SECONDS)
            with closing(work()) as running:
                async for news in iterate_in_threadpool(running):
                    yield news
        finally:
            self.leave(place)


def _by_network(places: Iterable[Place]) -> Counter[str]:
    """Return the number of places of each network."""
    return Counter(network for place in places for network in shares_of(place.address))


def make_lines(settings: SpaceSettings) -> dict[str, Line]:
    """Return the lines of the page and of programs."""
    # of tries that have begun, one at a time goes on, see `work.trying.Model`
    tries = Line(8, settings.queue, used=MODEL_TIME.used)
    return {
        "plan": Line(4, settings.queue, reads=True, used=READING_TIME.used),
        "adapter": Line(settings.concurrency, settings.queue, after=tries),
        "model": tries,
        "training": Line(1, settings.queue, used=TRAINING_TIME.used),
    }
