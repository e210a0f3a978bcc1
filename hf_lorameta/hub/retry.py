"""The one retry policy for requests to the Hub.

An operation is attempted at most `ATTEMPTS` times within `BUDGET_SECONDS`. Before attempt n + 1 it
waits 2^(n-1) seconds, or as long as the server requests. What runs inside `with_retries` must not
retry by itself, or the waits multiply.
"""

import logging
import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx2
from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # lazy

from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.errors import TRANSIENT_STATUSES, translated

ATTEMPTS = 6
BUDGET_SECONDS = 180.0
_MARGIN_SECONDS = 0.5
_LOST = 0
"""Stands for the status of a request without an answer."""
_CONNECTION_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

logger = logging.getLogger(__name__)
T = TypeVar("T")


def with_retries(what: str, run: Callable[[], T], *, revision: str | None = None) -> T:
    """Call a function; retry after lost connections, rate limits and server errors.

    Exceptions of `run` are translated as in `hf_lorameta.hub.errors.translate`, which describes
    `what` and `revision`. `ConnectionLostError` is raised if the last attempt fails, too, or the
    server requests a wait that exceeds what is left of `BUDGET_SECONDS`.
    """
    with translated(what, revision):
        return _retried(what, run, (_LOST, *TRANSIENT_STATUSES))


def when_allowed(what: str, run: Callable[[], T]) -> T:
    """Call a function again after the wait that a busy server asks for (HTTP 429).

    This is for what must not run twice, or retries by itself otherwise: a request that was refused
    so had no effect. Other exceptions of `run` are raised as they are.
    """
    return _retried(what, run, (429,))


def _retried(what: str, run: Callable[[], T], statuses: Collection[int]) -> T:
    deadline = time.monotonic() + BUDGET_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return run()
        except (hf.HfHubHTTPError, *_CONNECTION_ERRORS) as error:
            status = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else _LOST
            if status not in statuses:
                raise
            requested = _requested_wait(error)
            wait = 2.0 ** (attempt - 1) if requested is None else requested
            too_late = time.monotonic() + wait > deadline
            if requested is not None and too_late:
                raise ConnectionLostError(
                    f"{what}: {constants.ENDPOINT} requests a pause of {wait:.0f} s "
                    "(rate limit or overload)",
                    hint=f"run the same command again in {math.ceil(wait / 60)} min; "
                    "finished work is kept",
                ) from None
            if attempt == ATTEMPTS or too_late:
                raise
            reason = type(error).__name__ if status == _LOST else f"HTTP {status}"
            counted = f"{attempt + 1} of {ATTEMPTS}"
            logger.warning("%s: %s, attempt %s in %.0f s", what, reason, counted, wait)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _requested_wait(error: Exception) -> float | None:
    """Return the seconds in ``Retry-After`` or ``RateLimit`` of a response, if it has one."""
    headers = error.response.headers if isinstance(error, hf.HfHubHTTPError) else {}
    retry_after = headers.get("Retry-After", "").strip()
    if retry_after.isdecimal():
        return float(retry_after) + _MARGIN_SECONDS
    if retry_after:
        with suppress(ValueError):  # neither seconds nor a date
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
            return max(seconds, 0.0) + _MARGIN_SECONDS
    limit = parse_ratelimit_headers(headers)
    return limit.reset_in_seconds + _MARGIN_SECONDS if limit and not limit.remaining else None
