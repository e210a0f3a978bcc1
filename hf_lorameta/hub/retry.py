"""The one retry policy for requests to the Hub, in the one client that sends them.

`huggingface_hub` and `datasets` send with the client that `use_client` sets, so no request is
without retries. It is attempted at most `ATTEMPTS` times. Before attempt n + 1 the client waits
2^(n-1) seconds, or as long as the server requests. All requests share `BUDGET_SECONDS`: once
nothing has succeeded for that long, or a request was given up, each later one gets a single
attempt. So a command whose server is down ends soon, however many requests it has; one whose server
never answered ends after `UNREACHABLE_SECONDS`, or after one attempt if it accepts connections.

Requests that must not happen twice, such as a commit, are repeated only if they had no effect
(HTTP 429); `until_made` looks whether they had.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import httpx2
import huggingface_hub as hfh
from huggingface_hub import errors as hf
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazy re-export
    _http,  # its public names lack the default client's hooks, and whether a factory was set
    parse_ratelimit_headers,
)

from hf_lorameta.errors import AuthError
from hf_lorameta.network import distrusted, naming_variables, without_tls

ATTEMPTS = 6
BUDGET_SECONDS = 180.0
UNREACHABLE_SECONDS = 6.0
CONNECT_SECONDS = 3.0
"""Time to wait for a connection; with the above, an unreachable server is reported within 10 s."""
ANSWER_SECONDS = 60.0
"""Time to wait for an answer, or its next part, unless a request states another; of a commit, too.

A commit that takes longer is looked for, see `until_made`.
"""
TRANSIENT_STATUSES = (429, 500, 502, 503, 504)
"""HTTP statuses after which a request is retried."""
_MARGIN_SECONDS = 0.5
_MOST_DECODED = 1 << 27
"""Bytes of a compressed answer, decoded."""
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)
_LOST = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
_QUESTION = re.compile("/(validate-yaml|preupload/[^/]+|paths-info/[^/]+|info/lfs/.+)$")
"""Paths of the Hub's POST requests that only ask, or have the same effect if they are repeated."""
_SENT = re.compile("Bearer [!-~]+|(?!Bearer).*")
_SPAN = re.compile(r"bytes (\d+)-(\d+)/")

logger = logging.getLogger(__name__)
T = TypeVar("T")


# --- the policy ---------------------------------------------------------------------------------


@dataclass
class Host:
    """What is known of a server.

    Attributes:
        reached: whether it ever answered.
        since: when the first request of the current outage began; None if there is no outage.
        expected: when the next attempt of this outage was to be made.
        given_up: whether a request was given up in this outage.
    """

    reached: bool = False
    since: float | None = None
    expected: float = 0.0
    given_up: bool = False


_hosts: dict[str, Host] = {}
_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Give up each request in the context after this time, and at once without a connection.

    This is for what has an alternative.
    """
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


def _again(
    failure: httpx2.Response | Exception, request: httpx2.Request, begin: float, attempt: int
) -> bool:
    """Wait, and return whether to repeat a request, whose first attempt began at `begin`."""
    host, wait = _host(request), 2.0 ** (attempt - 1)
    if isinstance(failure, httpx2.Response):
        reason = f"HTTP {failure.status_code}"
        wait = requested_wait(failure) or wait
        host.reached = True
    else:
        reason = type(failure).__name__
    if host.since is None or begin - host.expected > BUDGET_SECONDS:  # or an outage long ago
        host.since, host.given_up = begin, False
    host.expected = time.monotonic() + wait
    unreachable, limit = isinstance(failure, _UNREACHABLE), _patience.get()
    silent = unreachable or isinstance(failure, httpx2.TimeoutException)
    budget = UNREACHABLE_SECONDS if silent and not host.reached else BUDGET_SECONDS
    host.given_up |= attempt >= ATTEMPTS or host.expected > host.since + budget
    impatient = limit is not None and (unreachable or host.expected > begin + limit)
    if host.given_up or impatient:
        return False
    logger.warning("%s: %s, attempt %d in %.0f s", described(request), reason, attempt + 1, wait)
    time.sleep(wait)
    return True


def _host(request: httpx2.Request) -> Host:
    return _hosts.setdefault(request.url.netloc.decode(), Host())


def described(request: httpx2.Request) -> str:
    """Return a request's method and path, without its query, which may hold a signature."""
    return f"{request.method} {request.url.path}"


def requested_wait(response: httpx2.Response) -> float | None:
    """Return the seconds in ``Retry-After`` or ``RateLimit`` of a response, if it has one."""
    retry_after = response.headers.get("Retry-After", "").strip()
    if retry_after.isdecimal():
        return float(retry_after) + _MARGIN_SECONDS
    limit = parse_ratelimit_headers(response.headers)
    return limit.reset_in_seconds + _MARGIN_SECONDS if limit and not limit.remaining else None


# --- the client ---------------------------------------------------------------------------------


class Client(httpx2.Client):
    """The client of all requests.

    Where a request is given up, an answer is raised as `HfHubHTTPError`, and a lost connection as
    `TransportError`: `huggingface_hub` would repeat it otherwise. Only what it answers from its
    cache instead is raised as it is. A compressed answer of more than 128 MB is a `DecodingError`.
    """

    def __init__(self) -> None:
        with naming_variables():
            super().__init__(
                event_hooks=_http.default_client_factory().event_hooks,
                follow_redirects=True,
                timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            )

    def build_request(self, *args: Any, **options: Any) -> httpx2.Request:
        """Build a request with a usable token, and note the start of a file that it sends."""
        sent = dict(options.get("headers") or {}).get("authorization")
        if sent and not _SENT.fullmatch(sent):
            raise AuthError(
                "the Hub token has characters that no token has, such as spaces or line breaks",
                code="token.invalid-characters",
                hint="copy it again, to HF_TOKEN or into: hf auth login",
            )
        request = super().build_request(*args, **options)
        if (limit := _patience.get()) is not None:
            times = request.extensions["timeout"]
            times["read"] = min(limit, times["read"] or limit)
        body: Any = options.get("content") or options.get("data")
        if hasattr(body, "seek"):
            request.extensions["start"] = body, body.tell()
        return request

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request, and repeat it after a fault that may pass."""
        begin = time.monotonic()
        for attempt in count(1):
            failure: httpx2.Response | Exception
            try:
                # `huggingface_hub` closes the client where a connection fails
                client = hfh.get_session() if self.is_closed else self
                response = httpx2.Client.send(client, request, stream=True, **options)
                failure = response = response if stream else _read(response)
            except _LOST as error:
                failure = error
            else:
                if response.status_code not in TRANSIENT_STATUSES:
                    host = _host(request)
                    host.reached, host.since, host.given_up = True, None, False
                    return response
            if not _repeatable(request, failure):
                break
            if not _again(failure, request, begin, attempt):
                _give_up(failure, request)
            if isinstance(failure, httpx2.Response):
                failure.close()
            if "start" in request.extensions:
                body, start = request.extensions["start"]
                body.seek(start)
        if isinstance(failure, Exception):
            raise failure
        return failure


def use_client() -> None:
    """Make `huggingface_hub` and `datasets` send with `Client`, unless the user set another one."""
    default = _http.default_client_factory
    if getattr(_http, "_GLOBAL_CLIENT_FACTORY", default) is default:
        hfh.set_client_factory(Client)


def _repeatable(request: httpx2.Request, failure: httpx2.Response | Exception) -> bool:
    if isinstance(failure, Exception) and (distrusted(failure) or without_tls(failure)):
        return False
    if isinstance(failure, httpx2.Response) and failure.status_code == 429:
        return True  # refused: it had no effect
    return request.method in ("GET", "HEAD", "PUT") or bool(_QUESTION.search(request.url.path))


def _give_up(failure: httpx2.Response | Exception, request: httpx2.Request) -> None:
    if isinstance(failure, httpx2.Response):
        try:
            hfh.hf_raise_for_status(failure)
        finally:
            failure.close()
    elif isinstance(failure, (httpx2.ConnectError, httpx2.TimeoutException)):
        raise failure
    raise httpx2.TransportError(type(failure).__name__, request=request)


def _read(response: httpx2.Response) -> httpx2.Response:
    """Read an answer; return it, or if it is compressed an equal one that is not.

    Raises:
        DecodingError: it is longer than `_MOST_DECODED`, or it cannot be decoded.
        RemoteProtocolError: of a range, there are fewer bytes than its header states.
    """
    try:
        if "Content-Encoding" not in response.headers:
            response.read()
            _require_whole(response)
            return response
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > _MOST_DECODED:
                long = f"a compressed answer of more than {_MOST_DECODED >> 20} MB"
                raise httpx2.DecodingError(long, request=response.request)
    finally:
        response.close()
    about_bytes = ("content-encoding", "content-length", "transfer-encoding")
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in about_bytes]
    return httpx2.Response(
        response.status_code,
        headers=headers,
        content=bytes(content),
        request=response.request,
        extensions=response.extensions,
        history=response.history,
    )


def _require_whole(response: httpx2.Response) -> None:
    """Raise an error for fewer bytes than a range's own header states."""
    span = _SPAN.match(response.headers.get("Content-Range", ""))
    if span and response.status_code == 206:
        expected = int(span[2]) + 1 - int(span[1])
        if len(response.content) != expected:
            raise httpx2.RemoteProtocolError(f"{len(response.content)} bytes, expected {expected}")


# --- what must not happen twice -----------------------------------------------------------------


def until_made(run: Callable[[], T], made: Callable[[], T | None]) -> T:
    """Call a function whose request must not be made twice; repeat it if it had no effect.

    Args:
        run: makes the request.
        made: called after a lost answer; returns what was made, None if nothing was.
    """
    begin = time.monotonic()
    for attempt in count(1):
        try:
            return run()
        except (hf.HfHubHTTPError, *_LOST) as error:
            known: Any = getattr(error, "response", None)
            status = known.status_code if known is not None else None
            refused = status in (409, 412)  # an earlier attempt came through
            if not (status in (None, *TRANSIENT_STATUSES) or (refused and attempt > 1)):
                raise
            try:
                found = made()
            except (hf.HfHubHTTPError, httpx2.HTTPError):
                raise error from None
            if found is not None:
                return found
            request = error.request if known is None else known.request
            if refused or not _again(known or error, request, begin, attempt):
                raise
    raise AssertionError("unreachable")
