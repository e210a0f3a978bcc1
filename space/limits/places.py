"""Gradio's queue, in which each address has a share of the places and of what runs at once.

Each line of the queue (see `settings.line_limits`) has its own places. Requests of the page and of
programs wait in different lines, so neither can take the other's.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradio.context import LocalContext
from gradio.queueing import Event, EventQueue, Queue
from gradio.route_utils import get_fn
from gradio.utils import LRUCache

from limits.addresses import address_of
from work.jobs import Job

_READING = ("plan", "api-plan")
"""Lines whose requests mostly wait for another server."""
_SLOW_SECONDS = 4.0
"""After which such a request lets another one begin beside it."""
_LOOK_SECONDS = 0.02
"""How often the queue looks for requests; Gradio does every millisecond, which takes 6 % of a core
though nobody is there."""
_SESSIONS = 500
"""Sessions whose messages are kept for them to fetch."""
_FULL = "Too many requests are waiting. Try again in a minute."
_SHARE_TAKEN = "Too many requests from your address are waiting. Try again in a minute."
Pushed = tuple[bool, Any, Any]
"""Whether a request has a place, its id or why not, and Gradio's word for that."""


class FairQueue(Queue):
    """Gradio's queue, where an address waits for itself before others wait for it.

    Of the places in a line, one address has at most half, and one session a quarter. Of the
    requests that run at once in a line, one address has all but one. Addresses take turns. A
    request that reads a slow source lets another one begin, up to a quarter of the places.

    Args:
        places: requests that may wait in each line.
        queue: the queue of the blocks, whose settings are taken over.
    """

    def __init__(self, places: int, queue: Queue) -> None:
        super().__init__(
            live_updates=queue.live_updates,
            concurrency_count=queue.max_thread_count,
            update_intervals=queue.update_intervals,
            max_size=None,
            blocks=queue.blocks,
            default_concurrency_limit=queue.default_concurrency_limit,
        )
        self._places = places
        self.sleep_when_free = self.progress_update_sleep_when_free = _LOOK_SECONDS
        self.pending_messages_per_session = LRUCache(_SESSIONS)

    async def push(self, body: Any, request: Any, username: str | None) -> Pushed:
        """Give a request a place, in the order of turns, or say why it gets none."""
        fn = get_fn(self.blocks, None, body)
        if not fn.queue:
            return False, "This event is answered at once, not in the queue.", "error"
        line, address = str(fn.concurrency_id), address_of(request.scope)
        if refusal := self._refusal(line, address, body.session_hash):
            return False, refusal, "queue_full"
        self._keep_messages()
        pushed: Pushed = await super().push(body, request, username)
        if waiting := self.event_queue_per_concurrency_id.get(line):
            self._order(waiting)
            self.broadcast_estimations(line)
        return pushed

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """Return the next request to run: the first of an address whose share is not taken."""
        lines = list(self.event_queue_per_concurrency_id.items())
        random.shuffle(lines)
        for name, line in lines:
            limit = line.concurrency_limit or self.max_thread_count
            running = line.current_concurrency - self._slow(line)
            if not line.queue or running >= limit:
                continue
            taken, share = self._running(name), max(1, limit - 1)
            for event in line.queue:
                if taken[_address(event)] < share:
                    line.queue.remove(event)
                    return [event], False, name
        return None

    def _refusal(self, name: str, address: str, session: str | None) -> str:
        line = self.event_queue_per_concurrency_id.get(name)
        waiting = line.queue if line else []
        if len(waiting) >= self._places:
            return _FULL
        of_address = sum(_address(event) == address for event in waiting)
        of_session = sum(event.session_hash == session for event in waiting)
        if of_address >= max(1, self._places // 2) or of_session >= max(1, self._places // 4):
            return _SHARE_TAKEN
        return ""

    def _order(self, line: EventQueue) -> None:
        """Let addresses take turns, beginning with those that have the least running."""
        turns = self._running(line.concurrency_id)
        turn: dict[str, int] = {}
        for event in line.queue:
            turn[event._id] = turns[_address(event)]
            turns[_address(event)] += 1
        line.queue.sort(key=lambda event: turn[event._id])

    def _running(self, line: str) -> Counter[str]:
        """Count the requests that run in a line, by address."""
        running = [event for job in self.active_jobs if job for event in job]
        return Counter(_address(event) for event in running if event.concurrency_id == line)

    def _slow(self, line: EventQueue) -> int:
        """Count the requests that let others begin beside them."""
        if line.concurrency_id not in _READING:
            return 0
        begun = time.time() - _SLOW_SECONDS
        starts = (start for starts in line.start_times_per_fn.values() for start in starts)
        return min(sum(start < begun for start in starts), self._places // 4)

    def _keep_messages(self) -> None:
        """Have Gradio forget the messages of sessions without a request first."""
        messages, ids = self.pending_messages_per_session, self.pending_event_ids_session
        for event in self._events():
            if event.session_hash in messages:
                messages.move_to_end(event.session_hash)
        if len(ids) > 2 * _SESSIONS:
            for session in [session for session in ids if session not in messages]:
                del ids[session]

    def _events(self) -> Iterator[Event]:
        """Yield the requests that wait or run."""
        for line in self.event_queue_per_concurrency_id.values():
            yield from line.queue
        for job in self.active_jobs:
            yield from job or ()


def note_caller(job: Job) -> None:
    """Tell a job who waits in the queue for what this thread answers, and whether they still do."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:  # outside the queue, where a caller always waits
        return
    event = blocks._queue.event_ids_to_events.get(event_id)
    if event is not None:
        job.address, job.wanted = _address(event), lambda: event.alive


def _address(event: Event) -> str:
    return address_of(event.request.scope)
