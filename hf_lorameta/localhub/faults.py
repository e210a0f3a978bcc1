"""Faults on demand, and the log of requests: a layer around the hub that tests drive."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from hf_lorameta.localhub.http_errors import LocalHubError, Refusal
from hf_lorameta.localhub.intake import Intake, Message

FaultKind = Literal["status", "cut", "truncate", "corrupt", "delay", "meanwhile"]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

_KINDS = ("status", "cut", "truncate", "corrupt", "delay", "meanwhile")
_SECRET_PARAMS = {"token", "access_token", "signature"}
_WORDS = {
    429: "Too Many Requests: you have reached your 'api' rate limit.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    503: "Service Unavailable",
}


@dataclass
class Fault:
    """Something that goes wrong with the requests it matches.

    Attributes:
        kind: what goes wrong: ``status``, answer `status` and do nothing; ``cut``, send
            `after_bytes` of the body and close the connection (of HEAD: without an answer);
            ``truncate``, send only `after_bytes` and pretend that is all; ``corrupt``, change the
            byte at `after_bytes`; ``delay``, wait `seconds` and go on as usual; ``meanwhile``,
            call `act` and go on as usual.
        path: regular expression searched in the decoded path with its query.
        method: regular expression for the whole method.
        times: how many requests it strikes; None for all.
        status: for ``status``.
        retry_after: seconds, for the ``Retry-After`` header of ``status``.
        after_bytes: for ``cut``, ``truncate`` and ``corrupt``.
        bits: that ``corrupt`` flips in its byte.
        upward: ``cut`` and ``corrupt`` strike what the client sends, not what it gets.
        seconds: for ``delay``.
        act: for ``meanwhile``; may ask this hub for something.
        skip: how many matching requests pass unharmed first.
    """

    kind: FaultKind
    path: str = ""
    method: str = ".*"
    times: int | None = None
    status: int = 503
    retry_after: int | None = None
    after_bytes: int = 0
    bits: int = 0xFF
    upward: bool = False
    seconds: float = 0.0
    act: Callable[[], object] | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise LocalHubError(f"a fault's kind is one of {_KINDS}, got {self.kind!r}")

    def matches(self, method: str, path: str) -> bool:
        """Says whether a request is one this fault is for."""
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path))


@dataclass
class RequestRecord:
    """A request the hub answered. Never holds a token.

    Attributes:
        method: ``GET``, ``HEAD``, ...
        path: decoded path with query; values of tokens and signatures are left out.
        status: what was answered; 0 if the answer never began.
        range: the Range header, or None.
        bytes_sent: bytes of the answer's body.
        bytes_received: bytes of the request's body, as far as they were read.
        authenticated: whether an Authorization header came with it.
        user_agent: the User-Agent header.
        fault: the kind of the fault that struck, or None.
    """

    method: str
    path: str
    status: int = 0
    range: str | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    authenticated: bool = False
    user_agent: str = ""
    fault: str | None = None


@dataclass
class FaultMiddleware:
    """The layer itself: an ASGI application around another.

    Attributes:
        app: the hub.
        faults: those still to strike.
        records: requests so far, in the order they arrived.
    """

    app: App
    faults: list[Fault] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Logs one request, lets a fault strike it, and passes it on."""
        record = _record(scope)
        with self.lock:
            self.records.append(record)
            fault = self._striking(record)
        if fault is not None:
            record.fault = fault.kind
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            if fault.act is not None:
                await asyncio.to_thread(fault.act)
        inlet = _Inlet(record, receive, fault if fault and fault.upward else None)
        outlet = _Outlet(
            record, send, None if fault and fault.upward else fault, scope["method"] == "HEAD"
        )
        if fault is not None and fault.kind == "status":
            await Intake(inlet.receive).drain()
            await _refusal(fault).response()(scope, inlet.receive, outlet.send)
            return
        try:
            await self.app(scope, inlet.receive, outlet.send)
        except _CutError:
            await _hang_up(send)

    def _striking(self, record: RequestRecord) -> Fault | None:
        for fault in self.faults:
            if fault.times == 0 or not fault.matches(record.method, record.path):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None


class _CutError(BaseException):
    """Ends a request or an answer in the middle; nothing on the way may take it for an error."""


async def _hang_up(send: Send) -> None:
    """Close the connection; uvicorn would answer 500 to a request without an answer."""
    cycle = getattr(send, "__self__", None)
    transport = getattr(cycle, "transport", None)
    if transport is None:  # another server: it closes what is not complete
        return
    transport.close()  # what was written still goes out
    while not getattr(cycle, "disconnected", True):
        await asyncio.sleep(0.001)


@dataclass
class _Inlet:
    """Passes a request's body on, harmed as the fault says, and counts it."""

    record: RequestRecord
    forward: Callable[[], Awaitable[Message]]
    fault: Fault | None

    async def receive(self) -> Message:
        message = await self.forward()
        if message["type"] != "http.request":
            return message
        body, before = message.get("body", b""), self.record.bytes_received
        self.record.bytes_received += len(body)
        if self.fault is None:
            return message
        at = self.fault.after_bytes - before
        if self.fault.kind == "corrupt":
            return {**message, "body": _flipped(body, at, self.fault.bits)}
        if self.fault.kind == "cut" and len(body) > at:
            raise _CutError
        return message


def _flipped(body: bytes, at: int, bits: int) -> bytes:
    if not 0 <= at < len(body):
        return body
    return body[:at] + bytes([body[at] ^ bits]) + body[at + 1 :]


@dataclass
class _Outlet:
    """Passes an answer on, harmed as the fault says, and counts it."""

    record: RequestRecord
    forward: Send
    fault: Fault | None
    is_head: bool

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.is_head and self.fault and self.fault.kind == "cut":
                raise _CutError
            self.record.status = message["status"]
            if self.fault and self.fault.kind == "truncate":
                _shorten(message, self.fault.after_bytes)
        elif message["type"] == "http.response.body" and not self.is_head:
            message = await self._harmed(message)
            self.record.bytes_sent += len(message.get("body", b""))
        await self.forward(message)

    async def _harmed(self, message: Message) -> Message:
        body, kind = message.get("body", b""), self.fault.kind if self.fault else ""
        if kind not in ("cut", "truncate", "corrupt") or self.fault is None:
            return message
        at = self.fault.after_bytes - self.record.bytes_sent
        if kind == "corrupt":
            return {**message, "body": _flipped(body, at, self.fault.bits)}
        short = body[: max(at, 0)]
        if kind == "cut" and (len(body) > at or not message.get("more_body")):
            self.record.bytes_sent += len(short)
            await self.forward({**message, "body": short, "more_body": True})
            raise _CutError
        return {**message, "body": short}


def _shorten(message: Message, limit: int) -> None:
    headers = []
    for name, value in message["headers"]:
        if name.lower() == b"content-length":
            value = b"%d" % min(int(value), limit)
        headers.append((name, value))
    message["headers"] = headers


def _refusal(fault: Fault) -> Refusal:
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    return Refusal(fault.status, _WORDS.get(fault.status, "Error on demand"), headers=headers)


def _record(scope: Any) -> RequestRecord:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    shown = urlencode([(k, v) for k, v in pairs if k.lower() not in _SECRET_PARAMS])
    path = scope["path"] + (f"?{shown}" if shown else "")
    return RequestRecord(
        method=scope["method"],
        path=path,
        range=headers.get("range"),
        authenticated="authorization" in headers,
        user_agent=headers.get("user-agent", ""),
    )
