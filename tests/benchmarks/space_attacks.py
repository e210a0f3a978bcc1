"""Attack the Space without an account: ``python -m tests.benchmarks.space_attacks``.

Each attack lasts some seconds and sends a bounded number of requests, all to this machine. During
it and right after it, another visitor opens the page and its configuration, uploads a file, plans a
small dataset, and with ``--model`` tries an adapter. Prints the longest wait for each, and what the
server answered, kept in memory and left on the disk.
"""

import argparse
import asyncio
import base64
import importlib.util
import io
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from hf_lorameta.demo.run import DATA_FOLDER
from tests.benchmarks.tables import markdown_table
from tests.support.caller import Caller
from tests.support.full_hub import FullHub
from tests.support.running_space import SPACE, RunningSpace, running_space

HEAD = ("attack", "page", "config", "plan", "upload", "try", "answers", "memory", "files")
MB = 1_000_000
VISITOR = "203.0.113.1"
SMALL, CHOICES = "ann/small", "ann/choices"
TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
API = "/gradio_api"
JSON, FORM = "application/json", "multipart/form-data; boundary=b"
UPLOAD_MB = 10
MOST = 3000
"""Requests of one attack."""
IDLE_PLAN = 1.5
"""Seconds that a plan takes at most while nothing else runs."""


_NUMBERS = count(256)


def new_address() -> str:
    """Return an address that has used nothing yet."""
    number = next(_NUMBERS)
    return f"100.{64 + number // 256}.{number % 256}.1"


class Attacker:
    """Sends requests, valid or not, and leaves them open until the attack ends.

    Args:
        url: of the Space.
        address: as the proxy before it would state it.

    Attributes:
        address: of the attacker.
        config: what ``/config`` tells about the page's events.
        answers: number of answers by status.
    """

    def __init__(self, url: str, address: str) -> None:
        parts, self.address = urlsplit(url), address
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._open: list[asyncio.StreamWriter] = []
        self._names = count()
        self.config: dict[str, Any] = {}
        self.answers: Counter[str] = Counter()

    def name(self) -> str:
        """Return a name that was not used before."""
        return f"n{next(self._names)}"

    async def begin(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        length: int | None = None,
        kind: str = JSON,
        address: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request, announcing `length` bytes, and leave it open."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self._open.append(writer)
        fields = {"Host": f"{self._host}:{self._port}", "X-Forwarded-For": address or self.address}
        fields |= {"Content-Type": kind, "Connection": "close"}
        if body or length:
            fields["Content-Length"] = str(length or len(body))
        fields |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        return reader, writer

    async def send(self, method: str, path: str, body: bytes = b"", **how: Any) -> bytes:
        """Send a request and return the body of the answer."""
        reader, writer = await self.begin(method, path, body, **how)
        return await self.end(reader, writer)

    async def end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Wait for the answer to a request that was sent, and return its body."""
        try:
            await writer.drain()
            first = await reader.readline()
            self.answers[first.split()[1].decode() if first else "closed"] += 1
            answer = await reader.read()
        except ConnectionError:
            self.answers["closed"] += 1
            return b""
        finally:
            writer.close()
            self._open.remove(writer)
        return answer.partition(b"\r\n\r\n")[2]

    async def post(self, path: str, value: Any, **how: Any) -> Any:
        """Post JSON; return the answer, {} if it is none."""
        answer = await self.send("POST", API + path, json.dumps(value).encode(), **how)
        try:
            return json.loads(answer)
        except ValueError:
            return {}

    async def repeat(self, action: Callable[[], Awaitable[Any]], at_once: int) -> None:
        """Repeat an action until the attack ends, or `MOST` times."""
        numbers = iter(range(MOST))

        async def one() -> None:
            for _ in numbers:
                await action()

        await asyncio.gather(*(one() for _ in range(at_once)))

    async def each(
        self, values: Iterable[Any], action: Callable[[Any], Awaitable[Any]], at_once: int
    ) -> None:
        """Repeat an action with values, over and over."""
        endless = cycle(values)
        await self.repeat(lambda: action(next(endless)), at_once)

    async def join(self, session: str) -> None:
        """Ask for a place in the page's line."""
        body = {"fn_index": self.event("run"), "session_hash": session, "data": [None]}
        await self.post("/queue/join", body)

    async def upload(self, content: bytes, name: str = "rows.csv", **how: Any) -> str:
        """Upload a file; return its path on the server, empty if it was refused."""
        body = form(name, content) + b"--b--\r\n"
        try:
            return str(
                json.loads(await self.send("POST", f"{API}/upload", body, kind=FORM, **how))[0]
            )
        except (ValueError, KeyError):
            return ""

    def event(self, name: str) -> int:
        """Return the number of an event of the page by its name, such as ``choose``."""
        return next(int(d["id"]) for d in self.config["dependencies"] if d["api_name"] == name)

    async def ask(self, session: str, name: str, data: list[Any], values: Any = None) -> str:
        """Have the page's action answer at once; return what it has put in line, once that ends."""
        body = {"fn_index": self.event(name), "session_hash": session, "data": data}
        await self.post(f"/run/{name}", body | {"event_data": values})
        dependencies = self.config["dependencies"]
        after = next(d["id"] for d in dependencies if d.get("trigger_after") == body["fn_index"])
        join = {"fn_index": after, "session_hash": session, "data": [None]}
        if "event_id" in await self.post("/queue/join", join):
            return (await self.send("GET", f"{API}/queue/data?session_hash={session}")).decode()
        return ""

    async def plan(self, **inputs: Any) -> None:
        """Plan through the endpoint and wait for the end."""
        event = (await self.post("/call/v2/plan", inputs)).get("event_id")
        if event:
            await self.send("GET", f"{API}/call/plan/{event}")

    async def mcp(self, arguments: Any, method: str = "tools/call", **how: Any) -> None:
        """Call the MCP tool."""
        parameters = {"name": "plan", "arguments": arguments}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        accepted = {"Accept": "application/json, text/event-stream"} | how.pop("headers", {})
        await self.post("/mcp/", body, headers=accepted, **how)

    async def make(self, session: str) -> None:
        """Have the page make an adapter, which it begins to train if there is a base model."""
        await self.ask(session, "choose", [None, 1], {"dataset": SMALL})
        await self.ask(session, "make", [None, 2])

    def close(self) -> None:
        """Close what is open, without a word."""
        for writer in self._open:
            writer.transport.abort()


def form(name: str, content: bytes, header: bytes = b"") -> bytes:
    """Return a file as part of a form."""
    disposition = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    return disposition.encode() + header + b"\r\n" + content + b"\r\n"


Attack = Callable[[Attacker], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(title: str) -> Callable[[Attack], Attack]:
    """Add an attack to the table."""

    def add(function: Attack) -> Attack:
        ATTACKS[title] = function
        return function

    return add


@attack("none")
async def nothing(a: Attacker) -> None:
    """Wait."""


# --- connections and bodies ---------------------------------------------------------------------


async def drip(opened: Iterable[tuple[Any, asyncio.StreamWriter]], byte: bytes = b" ") -> None:
    """Send a byte a second on each connection."""
    while True:
        await asyncio.sleep(1)
        for _, writer in opened:
            writer.write(byte)


async def drip_bodies(a: Attacker, path: str, number: int, address: str = "") -> None:
    """Send bodies of a byte a second; with `address`, each from another one."""
    await drip([
        await a.begin("POST", path, b"{", length=MB, kind=JSON, address=address.format(i))
        for i in range(number)
    ])  # fmt: skip


@attack("1,000 connections that send nothing, or half of a request")
async def idle_connections(a: Attacker) -> None:
    for i in range(1000):
        _, writer = await asyncio.open_connection(a._host, a._port)
        writer.write(b"GET / HTTP/1.1\r\nHost:" if i % 2 else b"")
        a._open.append(writer)


@attack("300 bodies of a byte a second")
async def slow_bodies(a: Attacker) -> None:
    await drip_bodies(a, f"{API}/queue/join", 300)


@attack("24 bodies of a byte a second, each from another address")
async def slow_bodies_of_many(a: Attacker) -> None:
    await drip_bodies(a, f"{API}/queue/join", 24, "198.51.100.{}")


@attack("300 slow bodies to a closed route")
async def slow_bodies_to_nowhere(a: Attacker) -> None:
    await drip_bodies(a, "/login", 300)


@attack("bodies of 10 MB to a closed route")
async def bodies_to_nowhere(a: Attacker) -> None:
    body = bytes(10 * MB)
    await a.repeat(lambda: a.send("POST", "/login", body), 20)


@attack("300 kB of empty lists")
async def empty_lists(a: Attacker) -> None:
    body = b'{"fn_index":1,"session_hash":"s","data":[' + b"[]," * 99_900 + b"0]}"
    await a.repeat(lambda: a.send("POST", f"{API}/queue/join", body), 8)


@attack("lists 900 deep, and numbers of 290,000 digits")
async def deep_and_long(a: Attacker) -> None:
    deep = b'{"fn_index":1,"session_hash":"s","data":[' + b"[" * 900 + b"]" * 900 + b"]}"
    digits = b'{"fn_index":1,"session_hash":"s","data":[' + b"9" * 290_000 + b"]}"
    floats = digits.replace(b"[9", b"[9.")
    await a.each([deep, digits, floats], partial(a.send, "POST", f"{API}/queue/join"), 8)


@attack("wrong numbers of events and triggers")
async def wrong_numbers(a: Attacker) -> None:
    wrong = [-1, 1e9, 10**18, "1", None, {"a": 1}, [], True, 1.5]
    bodies = [
        {"fn_index": fn, "trigger_id": trigger, "session_hash": "s", "data": [None]}
        for fn in wrong for trigger in wrong
    ]  # fmt: skip
    await a.each(bodies, partial(a.post, "/queue/join"), 8)


@attack("addresses in X-Forwarded-For, 8 kB of them, and odd hosts")
async def odd_headers(a: Attacker) -> None:
    odd = [
        {"X-Forwarded-For": ",".join(["10.0.0.1"] * 800 + [a.address])},
        {"X-Forwarded-Host": "example.invalid", "X-Forwarded-Proto": "https"},
        {"Host": "a" * 8000}, {"X-Gradio-Server": "http://[::"}, {"Origin": "null"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "a" * 24,
         "Sec-WebSocket-Version": "13"},
    ]  # fmt: skip
    await a.each(odd, lambda headers: a.send("GET", "/config", headers=headers), 8)


# --- sessions and streams -----------------------------------------------------------------------


@attack("as many sessions as requests")
async def many_sessions(a: Attacker) -> None:
    await a.repeat(lambda: a.join(a.name()), 8)


@attack("names of sessions of 250 kB")
async def long_sessions(a: Attacker) -> None:
    await a.repeat(lambda: a.join(a.name() + "a" * 250_000), 8)


@attack("64 streams of results that nobody reads")
async def unread_streams(a: Attacker) -> None:
    for _ in range(64):
        name = a.name()
        await a.join(name)
        await a.begin("GET", f"{API}/queue/data?session_hash={name}")


@attack("heartbeats, opened and closed")
async def heartbeats(a: Attacker) -> None:
    async def beat() -> None:
        reader, writer = await a.begin("GET", f"{API}/heartbeat/{a.name()}")
        await reader.readline()
        a._open.remove(writer)
        writer.close()

    await a.repeat(beat, 64)


@attack("progress of uploads with names of 8 kB")
async def upload_progress(a: Attacker) -> None:
    await a.repeat(
        lambda: a.send("GET", f"{API}/upload_progress?upload_id={a.name()}{'a' * 8000}"), 64
    )


@attack("cancel, reset and read what others do, by guesses")
async def guesses(a: Attacker) -> None:
    async def guess() -> None:
        name = a.name()
        await a.post("/cancel", {"session_hash": name, "fn_index": 1, "event_id": name})
        await a.post("/reset", {"event_id": name})
        await a.send("GET", f"{API}/queue/data?session_hash={name}")
        await a.send("GET", f"{API}/call/plan/{name}")

    await a.repeat(guess, 8)


# --- files --------------------------------------------------------------------------------------


@attack("uploads cut off halfway")
async def cut_uploads(a: Attacker) -> None:
    async def cut() -> None:
        body = form("rows.csv", bytes(2 * MB))
        _, writer = await a.begin("POST", f"{API}/upload", body, length=3 * MB, kind=FORM)
        await writer.drain()
        await asyncio.sleep(0.1)
        a._open.remove(writer)
        writer.transport.abort()

    await a.repeat(cut, 2)


@attack("uploads of a byte a second, two of each of 20 addresses")
async def slow_uploads(a: Attacker) -> None:
    opened = [
        await a.begin(
            "POST", f"{API}/upload", form("rows.csv", b"")[:-2], length=UPLOAD_MB * MB, kind=FORM,
            address=f"198.51.100.{i // 2}",
        )
        for i in range(40)
    ]  # fmt: skip
    await drip(opened, b"a")


@attack("uploads longer than they announce")
async def chunked_uploads(a: Attacker) -> None:
    files = b"".join(form(f"{i}.csv", b"%d" % i + bytes(9 * MB)) for i in range(10)) + b"--b--\r\n"
    pieces = [files[at : at + MB] for at in range(0, len(files), MB)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    for _ in range(3):
        headers = {"Transfer-Encoding": "chunked", "Content-Length": "100"}
        await a.send("POST", f"{API}/upload", body, kind=FORM, headers=headers)


@attack("uploads of 1,000 files each")
async def many_files(a: Attacker) -> None:
    numbers = count()

    async def upload() -> None:
        files = b"".join(form(f"{i}.csv", b"%d" % next(numbers)) for i in range(1000))
        await a.send("POST", f"{API}/upload", files + b"--b--\r\n", kind=FORM)

    await a.repeat(upload, 2)


@attack("an upload full of near boundaries")
async def near_boundaries(a: Attacker) -> None:
    body = form("rows.csv", b"\r\n--\r\n-" * (MB // 8 * 9)) + b"--b--\r\n"
    await a.repeat(lambda: a.send("POST", f"{API}/upload", body, kind=FORM), 2)


@attack("an upload with a header of 9 MB, or 2,000 headers")
async def long_headers(a: Attacker) -> None:
    headers = (b"X: " + b"a" * 9 * MB + b"\r\n", b"X: a\r\n" * 2000)
    bodies = [form("rows.csv", b"a", header) + b"--b--\r\n" for header in headers]
    await a.each(bodies, partial(a.send, "POST", f"{API}/upload", kind=FORM), 2)


@attack("odd names of files")
async def odd_names(a: Attacker) -> None:
    names = ["..", "a" * 5000, "../../../../etc/x", "\\x00.csv", "%00", ".", "/", "ü" * 300]
    await a.each(names, partial(a.upload, b"a,b\n"), 2)


@attack("2,000 references to one upload")
async def many_references(a: Attacker) -> None:
    path = await a.upload(b"input,output\na,b\n")
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}}] * 2000
    body = json.dumps({"fn_index": 1, "session_hash": "s", "data": files}).encode()[:299_000]
    body = body[: body.rindex(b"}, {")] + b"}]}"
    await a.repeat(lambda: a.send("POST", f"{API}/queue/join", body), 8)


@attack("files outside the folder of uploads")
async def paths(a: Attacker) -> None:
    path = await a.upload(b"input,output\na,b\n")
    names = [
        "/etc/passwd", "../../etc/passwd", "/proc/self/environ", "app.py", "defaults.json",
        f"{path}/../../../space.log", f"{path}%00", "a" * 7000, "/dev/zero", "/proc/self/fd/0",
    ]  # fmt: skip
    await a.each(names, lambda name: a.send("GET", f"{API}/file={name}"), 16)


@attack("200 downloads of the largest script at once")
async def scripts(a: Attacker) -> None:
    gradio = importlib.util.find_spec("gradio")  # importing it takes as long as the attack
    assert gradio is not None
    folder = Path(str(gradio.origin)).parent / "templates" / "frontend" / "assets"
    largest = max(folder.glob("*.js"), key=lambda path: path.stat().st_size)
    compressed = {"Accept-Encoding": "br"}
    await a.repeat(lambda: a.send("GET", f"/assets/{largest.name}", headers=compressed), 200)


@attack("200 downloads of parts of an upload at once")
async def ranges(a: Attacker) -> None:
    path = await a.upload(bytes(9 * MB))
    part = {"Range": f"bytes=0-{9 * MB}"}
    await a.repeat(lambda: a.send("GET", f"{API}/file={path}", headers=part), 200)


@attack("500 downloads that nobody reads")
async def unread_downloads(a: Attacker) -> None:
    path = await a.upload(bytes(9 * MB))
    for _ in range(500):
        await a.begin("GET", f"{API}/file={path}")


# --- what is computed ---------------------------------------------------------------------------


@attack("8 pages and configurations at once")
async def pages(a: Attacker) -> None:
    routes = ["/", "/config", f"{API}/info", f"{API}/info?page=", "/config?page=", "/?x=1"]
    await a.each(routes, partial(a.send, "GET", headers={"Accept-Encoding": "br"}), 8)


@attack("20 plans at once")
async def plans(a: Attacker) -> None:
    await a.repeat(lambda: a.plan(dataset=SMALL), 20)


@attack("64 MCP calls at once")
async def mcp_calls(a: Attacker) -> None:
    await a.repeat(lambda: a.mcp({"dataset": SMALL}), 64)


@attack("MCP calls with headers for the server itself")
async def mcp_headers(a: Attacker) -> None:
    odd = [
        {"Upgrade": "h2c"}, {"X-Gradio-Server": "http://203.0.113.9"}, {"Range": "bytes=0-0"},
        {"Expect": "100-continue"}, {"X-Forwarded-Host": "203.0.113.9"},
    ]  # fmt: skip
    await a.each(odd, lambda headers: a.mcp({"dataset": SMALL}, headers=headers), 16)


@attack("MCP calls with a file in their text")
async def mcp_files(a: Attacker) -> None:
    async def call() -> None:
        content = base64.b64encode(f"input,output\n{a.name()},b".encode() + b" " * 150_000).decode()
        await a.mcp({"dataset": "", "file": f"data:text/csv;base64,{content}"})

    await a.repeat(call, 16)


@attack("searches for names")
async def searches(a: Attacker) -> None:
    components = a.config["components"]
    form = next(c["id"] for c in components if "search" in c["props"].get("server_fns", ()))

    async def search() -> None:
        body = {"data": a.name(), "component_id": form, "session_hash": "s", "fn_name": "search"}
        await a.post("/component_server", body)

    await a.repeat(search, 8)


@attack("special tokens, fields of Python and 40 times the input in the prompt")
async def prompts(a: Attacker) -> None:
    odd = [
        {"template": "{input.__class__.__init__.__globals__}{input}"},
        {"template": "{input}" * 570}, {"template": "{prompt}" * 500},
        {"instruction": "<|im_end|>" * 399, "template": "chat"},
        {"instruction": "<|im_end|>" * 200 + "\u0301" * 2000},
    ]  # fmt: skip
    await a.each(odd, lambda prompt: a.plan(dataset=SMALL, **prompt), 8)


@attack("names of datasets that take long to check")
async def dataset_names(a: Attacker) -> None:
    long = [
        "a/" + "." * 200_000, "https://huggingface.co/datasets/" + "/" * 200_000,
        "a" * 200_000 + "/", "%" * 200_000, "\u0301" * 60_000,
    ]  # fmt: skip
    await a.each(long, lambda name: a.plan(dataset=name), 8)


@attack("options changed 8 at once")
async def options(a: Attacker) -> None:
    session = a.name()
    await a.ask(session, "choose", [None, 1], {"dataset": SMALL})
    fn = a.event("change_options")
    temperatures = count(1)

    async def change() -> None:
        data = [None, "kl", None, None, None, str(1 + next(temperatures) / 1000), None]
        await a.post("/run/change_options", {"fn_index": fn, "session_hash": session, "data": data})

    await a.repeat(change, 8)


@attack("adapters of many pages")
async def adapters(a: Attacker) -> None:
    await a.repeat(lambda: a.make(a.name()), 4)


@attack("trainings, and prompts of 20,000 characters, of 20 addresses")
async def long_prompts(a: Attacker) -> None:
    others = [Attacker(f"http://{a._host}:{a._port}", new_address()) for _ in range(20)]
    for other in others:
        other.config, other.answers = a.config, a.answers

    async def work(other: Attacker) -> None:
        session = f"{other.address}-{other.name()}"
        await other.make(session)
        for number in count(3):
            await other.ask(session, "try_out", [None, number, "word " * 4000])

    try:
        await asyncio.gather(*map(work, others))
    finally:
        for other in others:
            other.close()


@attack("a dataset with 20,000 configurations")
async def configurations(a: Attacker) -> None:
    async def choose() -> None:
        await a.ask(a.name(), "choose", [None, 1], {"dataset": CHOICES})

    await a.repeat(choose, 4)


# --- files to read ------------------------------------------------------------------------------


async def read(a: Attacker, content: bytes, name: str) -> None:
    """Have as many pages and programs read a file as an address may at once."""

    async def plan() -> None:
        path = await a.upload(content, name)
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        await a.plan(dataset="", file=file)

    async def choose() -> None:
        path = await a.upload(content, name)
        await a.ask(a.name(), "choose", [None, 1], {"file": path})

    await asyncio.gather(a.repeat(plan, 1), a.repeat(choose, 3))


@attack("marks of chats that never end")
async def unclosed_marks(a: Attacker) -> None:
    rows = [{"text": "<s>" + "[INST] " * 140_000, "label": i % 2} for i in range(4)]
    await read(a, "".join(json.dumps(row) + "\n" for row in rows).encode(), "a.jsonl")


@attack("spaces, commas and quotes in cells of 1 MB")
async def spaces(a: Attacker) -> None:
    cell = "1" + " " * 400_000 + "," * 400_000 + "Human:" * 30_000
    rows = [{"a": cell, "b": cell[::-1]} for _ in range(4)]
    await read(a, "".join(json.dumps(row) + "\n" for row in rows).encode(), "a.jsonl")


@attack("a file of no encoding")
async def no_encoding(a: Attacker) -> None:
    rows = b"".join(bytes(range(128 + i % 128, 256)) + b",b\n" for i in range(100_000))
    await read(a, b"input,output\n" + rows, "a.csv")


@attack("JSON 100,000 deep, in a list of 9 MB")
async def deep_json(a: Attacker) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    await read(a, b"[" + b",".join([deep] * 40) + b"]", "a.json")


@attack("Parquet with 30,000 columns")
async def many_columns(a: Attacker) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({f"c{i}": ["a"] for i in range(30_000)}), file)
    await read(a, file.getvalue(), "a.parquet")


@attack("quotes that never end in a CSV file of 9 MB")
async def unclosed_quotes(a: Attacker) -> None:
    await read(a, b"input,output\n" + b'"a,b\n' * (9 * MB // 5), "a.csv")


@attack("rows of one letter for as long as the limits allow")
async def most_rows(a: Attacker) -> None:
    row = json.dumps({"input": "a b " * 100, "output": "c"}).encode() + b"\n"
    await read(a, row * (9 * MB // len(row)), "a.jsonl")


@attack("plans of 125 long rows with an emoji each, of new pages")
async def emoji_rows(a: Attacker) -> None:
    row = json.dumps({"input": "😀" + "a " * 1999, "output": "b"}, ensure_ascii=False)
    await read(a, (row + "\n").encode() * 125, "a.jsonl")


# --- measuring ----------------------------------------------------------------------------------


def run_attack(title: str, url: str, address: str, seconds: float) -> dict[str, int]:
    """Run an attack in this process; return the number of answers by status."""

    async def run() -> dict[str, int]:
        attacker = Attacker(url, address)
        attacker.config = json.loads(await attacker.send("GET", "/config", address=VISITOR))
        attacker.answers.clear()
        try:
            async with asyncio.timeout(seconds):
                await ATTACKS[title](attacker)
                await asyncio.sleep(seconds)
        except TimeoutError:
            pass
        finally:
            attacker.close()
        return dict(attacker.answers)

    return asyncio.run(run())


class Waits:
    """The longest waits of another visitor.

    Args:
        space: the server.
        tries: tries an adapter; None if there is no base model.

    Attributes:
        longest: seconds by what was waited for.
        failed: what could not be had.
    """

    def __init__(self, space: RunningSpace, tries: Callable[[], object] | None = None) -> None:
        visitor = Caller(space, VISITOR)
        self._actions: dict[str, Callable[[], object]] = {
            "page": lambda: visitor.send("/").read(),
            "config": lambda: visitor.send("/config").read(),
            "plan": lambda: _complete(visitor.plan(dataset=SMALL)),
            "upload": self._upload,
        }
        if tries:
            self._actions["try"] = tries
        self._space = space
        self.longest: defaultdict[str, float] = defaultdict(float)
        self.failed: dict[str, str] = {}

    def _upload(self) -> None:
        """Upload a file from an address that has uploaded nothing, since each may so many."""
        body = form("rows.csv", b"input,output\n") + b"--b--\r\n"
        Caller(self._space, new_address()).send(f"{API}/upload", body, FORM).read()

    def once(self, name: str) -> None:
        """Wait for one thing."""
        started = time.monotonic()
        try:
            self._actions[name]()
        except (URLError, OSError, RuntimeError) as error:
            self.failed[name] = str(error)[:60]
        self.longest[name] = max(self.longest[name], time.monotonic() - started)

    def during(self, attack: "Future[Any]") -> None:
        """Wait for everything, again and again, until an attack has ended; and then once more."""

        def wait(name: str) -> None:
            while not attack.done():
                self.once(name)
                time.sleep(0.3)
            self.once(name)

        threads = [threading.Thread(target=wait, args=(name,)) for name in self._actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        failed = {name: f" ({why})" for name, why in self.failed.items()}
        cells = {n: f"{self.longest[n]:.1f} s{failed.get(n, '')}" for n in self._actions}
        return [cells.get(name, "–") for name in HEAD[1:6]]


def begin_tries(space: RunningSpace) -> Callable[[], object]:
    """Make an adapter, without training it, and return a function that tries it."""
    visitor, session, numbers = Attacker(space.url, VISITOR), "visitor", count(3)

    async def begin() -> None:
        visitor.config = json.loads(await visitor.send("GET", "/config"))
        await visitor.make(session)
        body = {"fn_index": visitor.event("stop"), "session_hash": session, "data": [None]}
        await visitor.post("/run/stop", body)

    def once() -> None:
        visitor.address = new_address()  # since each may try for some minutes
        data = [None, next(numbers), "Where is my parcel?"]
        if "with your adapter" not in asyncio.run(visitor.ask(session, "try_out", data)):
            raise RuntimeError("no answer")

    asyncio.run(begin())
    for _ in range(5):  # the weights are prepared once, which may take longer than a request may
        with suppress(RuntimeError):
            once()
    return once


def _complete(end: str) -> None:
    if not end.startswith("complete"):
        raise RuntimeError(end[:60])


def _files(space: RunningSpace) -> tuple[int, int]:
    """Return number and bytes of the Space's temporary files."""
    folders = (space.scratch, space.log.parent / "gradio")
    sizes = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue  # deleted meanwhile
    return len(sizes), sum(sizes)


def measure(
    space: RunningSpace,
    title: str,
    pool: ProcessPoolExecutor,
    seconds: float,
    tries: Callable[[], object] | None,
) -> list[str]:
    """Run an attack while another visitor waits; return its row of the table."""
    for _ in range(20):  # of the attack before, requests may still run
        before = Waits(space)
        before.once("plan")
        if before.longest["plan"] < IDLE_PLAN:
            break
    waits, memory, (number, size) = Waits(space, tries), space.memory(), _files(space)
    running = pool.submit(run_attack, title, space.url, new_address(), seconds)
    time.sleep(0.3)
    waits.during(running)
    answers = ", ".join(f"{n:,} × {status}" for status, n in sorted(running.result().items()))
    ended = space.process.poll() is not None
    grown = "ended" if ended else f"{(space.memory() - memory) / MB:+,.0f} MB"
    files, stored = _files(space)
    left = f"{files - number:+,}, {(stored - size) / MB:+,.1f} MB"
    return [title, *waits.cells(), answers, grown, left]


def main() -> None:
    """Run the attacks and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("titles", nargs="*", help="parts of the titles of attacks; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each attack")
    parser.add_argument("--model", action="store_true", help="run the base model, too")
    parser.add_argument("--space", type=Path, default=SPACE, help="folder of the Space's files")
    given = parser.parse_args()
    wanted = [t for t in ATTACKS if not given.titles or any(part in t for part in given.titles)]
    names = "".join(f"- config_name: c{i}\n  data_files: train.jsonl\n" for i in range(20_000))
    card = f"---\nconfigs:\n{names}---\n".encode()
    rows = []
    with FullHub() as hub, tempfile.TemporaryDirectory() as home:
        hub.add_user("ann")
        hub.create_repo(SMALL, repo_type="dataset")
        hub.commit(SMALL, {"train.jsonl": TRAIN}, repo_type="dataset")
        limits = {"HF_LORAMETA_MAX_UPLOAD_MB": str(UPLOAD_MB), "HF_LORAMETA_TIME_LIMIT": "20"}
        limits |= {"HF_LORAMETA_NO_BASE": ""} if given.model else {}
        spawn = multiprocessing.get_context("spawn")
        with (
            running_space(hub, Path(home), folder=given.space, **limits) as space,
            ProcessPoolExecutor(1, spawn) as pool,
        ):
            Waits(space).once("plan")
            tries = begin_tries(space) if given.model else None
            for title in ["none", *(title for title in wanted if title != "none")]:
                if ATTACKS[title] is configurations:  # not before: the Hub reads it in searches
                    hub.create_repo(CHOICES, repo_type="dataset")
                    files = {"train.jsonl": TRAIN, "README.md": card}
                    hub.commit(CHOICES, files, repo_type="dataset")
                rows.append(measure(space, title, pool, given.seconds, tries))
                print(*rows[-1], sep=" | ", flush=True)
    print(markdown_table(HEAD, rows, right=(1, 2, 3, 4, 5)))


if __name__ == "__main__":
    main()
