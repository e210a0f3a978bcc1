"""ASGI middleware that bounds what a request may send, and how many an address may make."""

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from email.message import Message as Fields
from hashlib import sha256
from html import escape
from secrets import token_urlsafe
from typing import Any, TypeVar
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visitors.callers import (
    Call,
    Stream,
    find_address,
    from_another_site,
    note_call,
    opens_page,
    shares_of,
)
from visitors.calls import RefusedError, check_call, check_event
from visitors.routes import Kind, route_kind
from visitors.uploads import Uploads, is_upload

BODY_BYTES = 300_000
"""Most bytes of a request, except uploads; the longest columns, instruction and template take a
tenth."""
BURST, PER_SECOND = 200, 10
"""Requests that an address may make at once, and then in each second; files are free.
A visitor makes about ten to open the page and three a second while typing."""
AT_ONCE: dict[Kind, int] = {"request": 8, "tool": 8, "stream": 64, "upload": 2}
"""Requests of each kind that an address may have open at once."""
FILES_AT_ONCE = 8
"""Files of the page sent to an address at once; others wait, since a page asks for a hundred."""
CROWDED = 24
"""While so many requests of all addresses are answered, each address has one answered at a time, so
that threads are left; its others wait. A body that still comes in takes no thread."""
_BYTES_OF_REQUEST = 10_000  # a longer body counts as several requests: reading it takes as long
_NEW_SESSION = 5  # requests that a session counts as when it is first named
_SESSIONS, _SESSION_CHARACTERS = 10_000, 100  # that Gradio keeps, and of the name of one
_FILES = 10  # uploaded files that a request may name
_VALUES = 5000  # in the JSON of a request; a page sends 300, and Gradio goes through them often
_BODY_SECONDS, _BYTES_PER_SECOND = 20.0, 10_000  # that a body may take; more the longer it is
_TURN_SECONDS = 60.0
_DROPPED_BYTES = 10_000_000
_BUSY = "Too many requests from your address at once. Try again in a minute."
_CROWDED = "Too many people are using this page. Try again in a minute."
_TOOL = "x-lorameta-tool"  # names the stream of the call of a tool to the call that it makes
T = TypeVar("T")
logger = logging.getLogger(__name__)


class VisitorLimits:
    """Middleware: closes unused routes, bounds bodies, and limits the requests of each address.

    Args:
        app: Gradio's.
        on_hub: whether the Hub's proxy forwards the requests.
        max_upload: bytes of the largest file that may be uploaded.
        own_machine: whether only pages that this machine has opened here are answered.
    """

    def __init__(
        self, app: ASGIApp, *, on_hub: bool, max_upload: int, own_machine: bool = False
    ) -> None:
        self._app, self._on_hub, self._own_machine = app, on_hub, own_machine
        self._uploads = Uploads(max_upload)
        self._used: dict[str, tuple[float, float]] = {}  # requests of an address, and until when
        self._open: Counter[tuple[str, Kind]] = Counter()
        self._answered, self._ended = Counter[tuple[str, Kind]](), asyncio.Event()
        self._sessions: dict[str, None] = {}  # the oldest first
        self._signed_out: dict[str, None] = {}  # the same
        self._streams: WeakValueDictionary[str, Stream] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request within the limits; answer others with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        foreign = from_another_site(scope, own_machine=self._own_machine)
        if foreign or self._is_signed_out(scope):  # the Hub frames pages, so the cookie comes along
            scope = {**scope, "session": {}}
        if "text/html" in Headers(scope=scope).get("accept", "") and opens_page(scope):
            send = _with_pages(send)
        incoming = _Incoming(receive)
        try:
            if foreign and self._own_machine:
                raise RefusedError(403, "Open this page at 127.0.0.1: it answers no other.")
            address = find_address(scope, on_hub=self._on_hub)
            kind = route_kind(scope)
            self._count(address, kind or "request")
            if kind is None:
                raise RefusedError(404, "Not found.")
            shares = shares_of(address)
            for network, number in shares.items():
                if self._open[network, kind] >= number * AT_ONCE.get(kind, 1000):
                    raise RefusedError(429, _BUSY)
            with _counted(self._open, *((network, kind) for network in shares)):
                if kind == "upload":
                    self._count_upload(scope, address)
                    await self._forward(scope, _one_file(scope, incoming.receive), send)
                elif scope["method"] == "POST":
                    session = self._count_body(address, kind, await incoming.read(), scope)
                    async with self._turn(address, kind):
                        if kind == "tool":
                            await self._call_tool(scope, incoming.receive, send)
                        else:
                            await self._answer(scope, address, session, incoming.receive, send)
                elif kind == "stream":
                    await self._watch(scope, receive, send)
                else:
                    async with self._turn(address, kind):
                        await self._forward(scope, receive, send)
        except RefusedError as refused:
            # most clients read no answer while they still send
            await incoming.drop(max(self._uploads.largest, _DROPPED_BYTES))
            status, reason = refused.args
            await JSONResponse({"detail": reason}, status)(scope, receive, send)

    def _is_signed_out(self, scope: Scope) -> bool:
        """Whether a sign-in was ended; the token in a cookie that was kept is valid longer."""
        info = scope.get("session", {}).get("oauth_info")
        token = info.get("access_token") if isinstance(info, dict) else None
        if token is None:
            return False
        name = sha256(str(token).encode()).hexdigest()
        if scope["path"].rstrip("/").endswith("/logout"):
            _remember(self._signed_out, name)
            return False  # this request clears the cookie
        return name in self._signed_out

    def _count(self, address: str, kind: Kind, cost: int = 1) -> None:
        """Count a request, or a larger one as several; what was counted fades with time."""
        if kind == "file" or not address:
            return
        now = time.monotonic()
        if len(self._used) > 10_000:  # forget those whose use has faded
            faded = now - BURST / PER_SECOND
            self._used = {a: used for a, used in self._used.items() if used[1] > faded}
        for network, shares in shares_of(address).items():
            used, at = self._used.get(network, (0.0, now))
            used = max(0.0, used - (now - at) * PER_SECOND * shares) + cost
            if used > BURST * shares:
                raise RefusedError(429, _BUSY)
            self._used[network] = used, now

    async def _answer(
        self, scope: Scope, address: str, session: str | None, receive: Receive, send: Send
    ) -> None:
        """Forward a call, noting who calls and in which stream the answer is wanted."""
        tool = self._streams.get(Headers(scope=scope).get(_TOOL, ""))
        stream = tool or self._streams.get(session or "") or Stream()
        if session and not tool:  # tools are called in one session
            self._streams[session] = stream
        note_call(scope, Call(address, stream))

        async def note_event(message: Message) -> None:
            if not session and message["type"] == "http.response.body":
                with suppress(ValueError, KeyError, TypeError):
                    self._streams[str(json.loads(message["body"])["event_id"])] = stream
            await send(message)

        await self._forward(scope, receive, note_event)

    async def _call_tool(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a call of a tool, which calls the API with its headers; note if it is left."""
        name, stream = token_urlsafe(), Stream(opened=True)
        self._streams[name] = stream

        async def note_leaving() -> Message:
            message = await receive()
            stream.left |= message["type"] == "http.disconnect"
            return message

        own = [field for field in scope["headers"] if field[0] != _TOOL.encode()]
        headers = [*own, (_TOOL.encode(), name.encode())]
        await self._forward({**scope, "headers": headers}, note_leaving, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request; what Gradio fails on is malformed, and answered by 400.

        Raises:
            RefusedError: Gradio fails before it answers.
        """
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            if message.get("status") == 500:
                message["status"] = 400
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - its message may hold what a visitor sent
            logger.warning("malformed call: %s", type(error).__name__)
            if not started:
                why = "The request is malformed: GET /gradio_api/info lists what is expected."
                raise RefusedError(400, why) from None

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request for a stream; note if its caller leaves before the end."""
        named = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash")
        name, ended = named[0] if named else scope["path"].rstrip("/").rpartition("/")[2], False
        check_event(scope, name, read_now=name in self._streams and self._streams[name].opened)
        open_now = self._streams.setdefault(name, Stream())
        open_now.opened = True

        async def note_end(message: Message) -> None:
            nonlocal ended
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async def note_leaving() -> Message:
            message = await receive()
            left = message["type"] == "http.disconnect" and not ended
            if left and (stream := self._streams.pop(name, None)):
                stream.left = True
            return message

        await self._forward(scope, note_leaving, note_end)

    def _count_body(self, address: str, kind: Kind, body: bytes, scope: Scope) -> str | None:
        """Count a long body as further requests; check it, and return its session."""
        self._count(address, kind, len(body) // _BYTES_OF_REQUEST)
        named = _checked(body)
        check_call(scope, named)
        session = _session_of(named)
        if session in self._sessions or (session is None and kind == "tool"):
            return session
        self._count(address, kind, _NEW_SESSION)  # without a name, a call has one of its own
        if session is None:
            return None
        _remember(self._sessions, session)
        return session

    def _count_upload(self, scope: Scope, address: str) -> None:
        """Count an upload by its announced length, if that header is the one that applies."""
        headers = Headers(scope=scope)
        text = headers.get("content-length", "")
        if "transfer-encoding" in headers or not text.isdecimal() or len(text) > 18:
            raise RefusedError(411, "The length of the upload is missing.")
        if refusal := self._uploads.count(address, int(text)):
            raise RefusedError(429 if int(text) <= self._uploads.largest else 413, refusal)

    @asynccontextmanager
    async def _turn(self, address: str, kind: Kind) -> AsyncIterator[None]:
        """Wait until a request may be answered, and count it until it is."""
        try:
            async with asyncio.timeout(None if kind == "file" else _TURN_SECONDS):
                while self._has_to_wait(address, kind):
                    await self._ended.wait()
        except TimeoutError:
            raise RefusedError(503, _CROWDED) from None
        try:
            with _counted(self._answered, (address, kind)):
                yield
        finally:
            self._ended.set()  # wakes all that wait now
            self._ended.clear()

    def _has_to_wait(self, address: str, kind: Kind) -> bool:
        own = self._answered[address, kind]
        if kind == "file":
            return own >= FILES_AT_ONCE
        answered = sum(number for (_, of), number in self._answered.items() if of == "request")
        return kind == "request" and own > 0 and answered >= CROWDED


@contextmanager
def _counted(counter: Counter[T], *keys: T) -> Iterator[None]:
    """Count one more of each key meanwhile."""
    counter.update(keys)
    try:
        yield
    finally:
        counter.subtract(keys)
        for key in keys:
            if not counter[key]:
                del counter[key]


def _remember(names: dict[str, None], name: str) -> None:
    """Add a name, and forget the oldest one if there are too many."""
    names[name] = None
    if len(names) > _SESSIONS:
        del names[next(iter(names))]


class _Incoming:
    """The body of a request as it comes in."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._ended = receive, False
        self._unread: bytes | None = None
        self._started, self._bytes = time.monotonic(), 0

    async def receive(self) -> Message:
        """Receive a part, or all that was read.

        Raises:
            RefusedError: the body has taken too long for its length.
        """
        if self._unread is not None:
            body, self._unread = self._unread, None
            return {"type": "http.request", "body": body}
        if self._ended:  # what comes is the end of the connection
            return await self._receive()
        end = self._started + _BODY_SECONDS + self._bytes / _BYTES_PER_SECOND
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, "The request came in too slowly. Try again.") from None
        self._bytes += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    async def read(self) -> bytes:
        """Return the body, which can be received again.

        Raises:
            RefusedError: it is longer than `BODY_BYTES`, or too slow.
        """
        body = b""
        while not self._ended:
            body += (await self.receive()).get("body", b"")
            if len(body) > BODY_BYTES:
                raise RefusedError(413, f"The request is longer than {BODY_BYTES:,} bytes.")
        self._unread = body
        return body

    async def drop(self, most: int) -> None:
        """Receive and drop the rest, up to `most` bytes."""
        dropped = 0
        with suppress(RefusedError):  # too slow
            while not self._ended and dropped < most:
                dropped += len((await self.receive()).get("body", b""))


def _with_pages(send: Send) -> Send:
    """Return a `send` that answers errors with a page, for those who open an address in a window.

    Such as that of a file or a sign-in which is no longer there; Gradio shows JSON.
    """
    failed, answer = False, b""

    async def send_page(message: Message) -> None:
        nonlocal failed, answer
        if message["type"] == "http.response.start":
            if failed := message["status"] >= 400:
                message["headers"] = [(b"content-type", b"text/html; charset=utf-8")]
        elif failed:
            answer += message.get("body", b"")
            if message.get("more_body"):
                return
            message["body"] = _page(answer)
        await send(message)

    return send_page


def _page(answer: bytes) -> bytes:
    """Return an error that JSON states as a page.

    Example:
        >>> _page(b'{"detail": "<File> not found"}')
        b'<p>&lt;File&gt; not found. <a href="/">Open the page</a> and begin there.</p>'
    """
    try:
        why = str(json.loads(answer)["detail"]).removesuffix(".")
    except (ValueError, KeyError, TypeError):
        why = "This address is no longer in use"
    link = '<a href="/">Open the page</a> and begin there.'
    return f"<p>{escape(why)}. {link}</p>".encode()


def _one_file(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` for an upload; it refuses a second file, which was not counted."""
    fields = Fields()
    fields["content-type"] = Headers(scope=scope).get("content-type", "")
    limit = b"\r\n--" + (fields.get_boundary() or "").encode("latin-1", "replace")
    end, limits = b"\r\n", 0  # the first one begins the form

    async def receive_part() -> Message:
        nonlocal end, limits
        message = await receive()
        text = end + message.get("body", b"")
        malformed = not limits and not text.startswith(limit[: len(text)])
        limits += text.count(limit)
        if malformed or limits > 2:
            raise RefusedError(400, "Upload one file at a time, as a form.")
        end = text[1 - len(limit) :]
        return message

    return receive_part


def _checked(body: bytes) -> dict[str, Any]:
    """Return the values that JSON names, empty if it is no object.

    Gradio would fetch a file of any size from a URL, and fail silently on a missing one; so files
    that are named, however deep, have to be uploads.

    Raises:
        RefusedError: it is not JSON, holds too many values, or names a file that is not an upload
            or too many files.
    """
    try:
        request = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None
    fetched = "A file has to be uploaded: this Space fetches none from another address."
    left, files, values = deque([request]), 0, 0
    while left:
        value = left.popleft()
        values += 1
        if values + len(left) > _VALUES:
            raise RefusedError(400, f"A request may hold at most {_VALUES:,} values.")
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str):
                files += 1
                if files > _FILES:
                    raise RefusedError(400, f"A request may name at most {_FILES} uploads.")
                if not is_upload(path):
                    gone = "The uploaded file is no longer there: upload it again."
                    raise RefusedError(400, fetched if "://" in path else gone)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    named = request if isinstance(request, dict) else {}
    if not isinstance(named.get("file") or {}, dict):
        raise RefusedError(400, fetched)
    return named


def _session_of(named: dict[str, Any]) -> str | None:
    """Return the session that a request names, which Gradio stores, so it has to be short."""
    session = named.get("session_hash")
    if not isinstance(session, str):
        return None
    if len(session) > _SESSION_CHARACTERS:
        why = f"The name of a session has at most {_SESSION_CHARACTERS} characters."
        raise RefusedError(400, why)
    return session


def _refuse_constant(name: str) -> None:
    """Refuse NaN and infinity, which are not JSON and on which Gradio fails."""
    raise ValueError(name)
