"""The one retry policy for requests to the Hub.

An operation is attempted at most `ATTEMPTS` times within `BUDGET_SECONDS`. Before attempt n + 1 it
waits 2^(n-1) seconds, or as long as the server requests. What runs inside `with_retries` must not
retry by itself, or the waits multiply.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazy re-export
    parse_ratelimit_headers,
)

from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.errors import CONNECTION_ERRORS, is_transient, translated

ATTEMPTS = 6
BUDGET_SECONDS = 180.0
_MARGIN_SECONDS = 0.5

logger = logging.getLogger(__name__)
T = TypeVar("T")


def with_retries(what: str, run: Callable[[], T], *, revision: str | None = None) -> T:
    """Call a function; retry after lost connections, rate limits and server errors.

    Args:
        what: repo id or action, for messages.
        run: makes the request; raises the exceptions of `huggingface_hub` and `httpx2`.
        revision: requested revision, for messages.

    Raises:
        ConnectionLostError: the last attempt failed, too; or the server requests a wait that
            exceeds what is left of `BUDGET_SECONDS`.
        LoraMetaError: any other failure, see `hf_lorameta.hub.errors.translate`.
    """
    deadline = time.monotonic() + BUDGET_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        with translated(what, revision):
            try:
                return run()
            except (hf.HfHubHTTPError, *CONNECTION_ERRORS) as error:
                if not is_transient(error):
                    raise
                requested = _requested_wait(error)
                wait = 2.0 ** (attempt - 1) if requested is None else requested
                too_late = time.monotonic() + wait > deadline
                if requested is not None and too_late:
                    raise _try_later(what, wait) from None
                if attempt == ATTEMPTS or too_late:
                    raise
                logger.warning("%s: %s, retrying in %.0f s", what, _reason(error), wait)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    if isinstance(error, hf.HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__


def _requested_wait(error: Exception) -> float | None:
    """Seconds from ``Retry-After`` or the ``RateLimit`` header of a response, if it has one."""
    if not isinstance(error, hf.HfHubHTTPError):
        return None
    headers = error.response.headers
    retry_after = headers.get("Retry-After", "").strip()
    if retry_after.isdecimal():
        return float(retry_after) + _MARGIN_SECONDS
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds) + _MARGIN_SECONDS
    return None


def _try_later(what: str, wait: float) -> ConnectionLostError:
    return ConnectionLostError(
        f"{what}: {constants.ENDPOINT} requests a pause of {wait:.0f} s (rate limit or overload)",
        hint=f"run the same command again in {math.ceil(wait / 60)} min; finished work is kept",
    )
