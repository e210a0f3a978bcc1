"""The one retry policy for requests to the Hub, and its time budget.

An operation is attempted at most `ATTEMPTS` times. Before attempt n + 1 it waits 2^(n-1) seconds,
or as long as the server requests. All operations of a command share `BUDGET_SECONDS`: once nothing
has succeeded for that long, each later operation gets a single attempt. So a command whose server
is down ends soon, however many operations it has; one that never reached the server ends after
`UNREACHABLE_SECONDS`. What runs inside must not retry by itself, or the waits multiply.
"""

import logging
import math
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import httpx2
from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # lazy

from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.errors import TRANSIENT_STATUSES, translated

ATTEMPTS = 6
BUDGET_SECONDS = 180.0
UNREACHABLE_SECONDS = 6.0
CONNECT_SECONDS = 3.0
"""Time to wait for a connection; with the above, an unreachable server is reported within 10 s."""
_MARGIN_SECONDS = 0.5
_LOST = 0
"""Stands for the status of a request without an answer."""
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)
_CONNECTION_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Retries:
    """Retries of a command's requests, which share one time budget."""

    def __init__(self) -> None:
        self._outage: tuple[float, float] | None = None  # when it began, and the next attempt
        self._reached = False

    def __call__(self, what: str, run: Callable[[], T], *, revision: str | None = None) -> T:
        """Call a function; retry after lost connections, rate limits and server errors.

        Exceptions of `run` are translated as in `hf_lorameta.hub.errors.translated`, which
        describes `what` and `revision`. `ConnectionLostError` is raised if the last attempt fails,
        too, or the server requests a wait that exceeds what is left of the budget.
        """
        with translated(what, revision):
            return self._attempts(what, run, (_LOST, *TRANSIENT_STATUSES))

    def when_allowed(self, what: str, run: Callable[[], T]) -> T:
        """Call a function; repeat it after the wait that a busy server requests (HTTP 429).

        This is for functions that must not run twice, or that retry after other failures
        themselves: a request that was refused with HTTP 429 had no effect. Other exceptions of
        `run` are raised as they are.
        """
        return self._attempts(what, run, (429,))

    def _attempts(self, what: str, run: Callable[[], T], statuses: Collection[int]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            try:
                result = run()
            except (hf.HfHubHTTPError, *_CONNECTION_ERRORS) as error:
                status = _LOST
                if isinstance(error, hf.HfHubHTTPError):
                    status, self._reached = error.response.status_code, True
                if status not in statuses:
                    raise
                wait = self._wait(what, error, attempt, began)
                reason = type(error).__name__ if status == _LOST else f"HTTP {status}"
                counted = f"{attempt + 1} of {ATTEMPTS}"
                logger.warning("%s: %s, attempt %s in %.0f s", what, reason, counted, wait)
                time.sleep(wait)
            else:
                self._outage, self._reached = None, True
                return result
        raise AssertionError("unreachable")

    def _wait(self, what: str, error: Exception, attempt: int, began: float) -> float:
        """Return how long to wait before the next attempt; raise the error if there is none."""
        requested = _requested_wait(error)
        wait = 2.0 ** (attempt - 1) if requested is None else requested
        start, expected = self._outage or (began, began)
        if began - expected > BUDGET_SECONDS:  # an earlier outage: nothing was requested since
            start = began
        attempted = time.monotonic() + wait
        self._outage = start, attempted
        begun = self._reached or not isinstance(error, _UNREACHABLE)
        too_late = attempted > start + (BUDGET_SECONDS if begun else UNREACHABLE_SECONDS)
        if requested is not None and too_late:
            raise ConnectionLostError(
                f"{what}: {constants.ENDPOINT} requests a pause of {wait:.0f} s "
                "(rate limit or overload)",
                hint=f"run the same command again in {math.ceil(wait / 60)} min; "
                "finished work is kept",
            ) from None
        if attempt == ATTEMPTS or too_late:
            raise error
        return wait


def _requested_wait(error: Exception) -> float | None:
    """Return the seconds in ``Retry-After`` or ``RateLimit`` of a response, if it has one."""
    headers = error.response.headers if isinstance(error, hf.HfHubHTTPError) else {}
    retry_after = headers.get("Retry-After", "").strip()
    if retry_after.isdecimal():
        return float(retry_after) + _MARGIN_SECONDS
    limit = parse_ratelimit_headers(headers)
    return limit.reset_in_seconds + _MARGIN_SECONDS if limit and not limit.remaining else None
