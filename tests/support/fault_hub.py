"""A loopback Hub that logs requests and injects faults, which tests control."""

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.local_hub import LocalHub, LocalHubError
from tests.support.local_hub.errors import HTTPError

FaultKind = Literal[
    "status", "cut", "truncate", "corrupt", "delay", "late", "hold", "callback", "answer"
]

_SECRET_PARAMS = {"token", "access_token", "signature"}
_MESSAGES = {
    429: "Too Many Requests: you have reached your 'api' rate limit.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    503: "Service Unavailable",
}


@dataclass
class Fault:
    """A fault to inject into matching requests.

    Kinds: ``status``: respond with `status` and do nothing. ``cut``: send `after_bytes` of the
    body and close the connection (for HEAD: without a response). ``truncate``: send only
    `after_bytes`, with a matching Content-Length. ``corrupt``: flip `bits` in the byte at
    `after_bytes`. ``delay``: wait `seconds`, then continue. ``late``: do what is asked, and answer
    after `seconds`. ``answer``: do what is asked, and send `content` as the body. ``hold``: wait
    until the fault is removed, then continue. ``callback``: call `callback`, which may use this
    hub, then continue; it must return, as the server waits for it before it stops.
    """

    kind: FaultKind
    path: str = ""  # regular expression, searched in the decoded path with its query
    method: str = ".*"  # regular expression for the complete method
    times: int | None = None  # number of requests to affect; None for all
    status: int = 503
    retry_after: int | None = None  # seconds, for Retry-After of `status`
    after_bytes: int = 0
    bits: int = 0xFF
    in_request: bool = False  # cut or corrupt in the request instead of the response
    seconds: float = 0.0
    content: bytes = b""
    callback: Callable[[], object] | None = None
    skip: int = 0  # number of matching requests to leave alone first

    def __post_init__(self) -> None:
        kinds = get_args(FaultKind)
        if self.kind not in kinds:
            raise LocalHubError(f"a fault's kind is one of {kinds}, got {self.kind!r}")

    def matches(self, record: "RequestRecord") -> bool:
        """Return whether the fault applies to a request."""
        return bool(re.fullmatch(self.method, record.method) and re.search(self.path, record.path))

    def corrupt(self, body: bytes, offset: int) -> bytes:
        """Return a chunk that starts at `offset` of a body, with the fault's byte changed."""
        index = self.after_bytes - offset
        if not 0 <= index < len(body):
            return body
        return body[:index] + bytes([body[index] ^ self.bits]) + body[index + 1 :]


@dataclass
class RequestRecord:
    """A logged request. It never contains a token."""

    method: str
    path: str  # decoded path with query, without tokens and signatures
    status: int = 0  # 0 if no response was sent
    range: str | None = None  # the Range header
    bytes_sent: int = 0  # of the response body
    bytes_received: int = 0  # of the request body
    authenticated: bool = False  # whether the request had an Authorization header
    fault: str | None = None  # kind of the injected fault


@dataclass
class FaultMiddleware:
    """Log every request, and inject the first fault that matches it.

    Access to `faults` and `records` requires `lock`.
    """

    app: ASGIApp
    faults: list[Fault] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        record = _record(scope)
        with self.lock:
            self.records.append(record)
            fault = self._next_fault(record)
        channel = _Channel(record, receive, send, fault)
        if fault is not None:
            record.fault = fault.kind
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            if fault.callback is not None:
                await asyncio.to_thread(fault.callback)
            while fault.kind == "hold" and fault in self.faults:
                await asyncio.sleep(0.01)
        if fault is not None and fault.kind == "status":
            await Request(scope, channel.receive).body()  # unread, it would break the connection
            await _error_response(fault)(scope, channel.receive, channel.send)
            return
        try:
            await self.app(scope, channel.receive, channel.send)
        except _CutError:
            await _close_connection(send)

    def _next_fault(self, record: RequestRecord) -> Fault | None:
        for fault in self.faults:
            if fault.times == 0 or not fault.matches(record):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None


class _CutError(BaseException):
    """Abort a request or response. Not an Exception, so that no handler catches it."""


async def _close_connection(send: Send) -> None:
    """Close the connection. Otherwise uvicorn would respond with 500."""
    cycle: Any = getattr(send, "__self__", None)  # uvicorn's RequestResponseCycle
    cycle.transport.close()  # after sending what was written
    while not cycle.disconnected:
        await asyncio.sleep(0.001)


@dataclass
class _Channel:
    """Forward the messages of a request and its response, count bytes, apply the fault."""

    record: RequestRecord
    forward_receive: Receive
    forward_send: Send
    fault: Fault | None

    def _active(self, *kinds: FaultKind, in_request: bool = False) -> Fault | None:
        fault = self.fault
        return fault if fault and fault.in_request == in_request and fault.kind in kinds else None

    async def receive(self) -> Message:
        message = await self.forward_receive()
        if message["type"] != "http.request":
            return message
        body, offset = message.get("body", b""), self.record.bytes_received
        self.record.bytes_received += len(body)
        if fault := self._active("corrupt", in_request=True):
            message["body"] = fault.corrupt(body, offset)
        fault = self._active("cut", in_request=True)
        if fault and offset + len(body) > fault.after_bytes:
            raise _CutError
        return message

    async def send(self, message: Message) -> None:
        is_head = self.record.method == "HEAD"
        if message["type"] == "http.response.start":
            if is_head and self._active("cut"):
                raise _CutError
            if fault := self._active("late"):
                await asyncio.sleep(fault.seconds)
            self.record.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            if (fault := self._active("truncate")) and "content-length" in headers:
                length = min(int(headers["content-length"]), fault.after_bytes)
                headers["content-length"] = str(length)
            if fault := self._active("answer"):
                headers["content-length"] = str(len(fault.content))
        elif message["type"] == "http.response.body" and not is_head:
            await self._send_body(message)
            return
        await self.forward_send(message)

    async def _send_body(self, message: Message) -> None:
        body, offset = message.get("body", b""), self.record.bytes_sent
        cut = False
        if fault := self._active("answer"):
            body = b"" if message.get("more_body") else fault.content
        elif fault := self._active("corrupt"):
            body = fault.corrupt(body, offset)
        elif fault := self._active("cut", "truncate"):
            limit = max(fault.after_bytes - offset, 0)
            ends = len(body) > limit or not message.get("more_body")
            cut = fault.kind == "cut" and ends
            body = body[:limit]
        self.record.bytes_sent += len(body)
        more_body = cut or message.get("more_body", False)
        await self.forward_send({**message, "body": body, "more_body": more_body})
        if cut:
            raise _CutError


def _error_response(fault: Fault) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = _MESSAGES.get(fault.status, "Injected error")
    return HTTPError(fault.status, message, headers=headers).response


def _record(scope: Scope) -> RequestRecord:
    headers = Headers(scope=scope)
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = urlencode([(k, v) for k, v in pairs if k.lower() not in _SECRET_PARAMS])
    return RequestRecord(
        method=scope["method"],
        path=scope["path"] + (f"?{query}" if query else ""),
        range=headers.get("range"),
        authenticated="authorization" in headers,
    )


class FaultHub(LocalHub):
    """A `LocalHub` with faults and a log of requests."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._app = self._middleware = FaultMiddleware(self._app)

    def add_fault(self, fault: Fault) -> None:
        """Add a fault. If several match a request, the first one added is injected."""
        with self._middleware.lock:
            self._middleware.faults.append(fault)

    def clear_faults(self) -> None:
        """Remove all faults."""
        with self._middleware.lock:
            self._middleware.faults.clear()

    @property
    def requests(self) -> list[RequestRecord]:
        """The logged requests, oldest first."""
        with self._middleware.lock:
            return list(self._middleware.records)

    def clear_requests(self) -> None:
        """Clear the request log."""
        with self._middleware.lock:
            self._middleware.records.clear()
