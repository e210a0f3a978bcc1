"""Attack the Space without an account: ``python -m tests.benchmarks.space_attacks``.

Each attack loads the server for some seconds with a bounded number of requests, all to this
machine. Meanwhile and right after, another visitor opens the page, uploads a file, plans a small
dataset, and where the base model is attacked, tries an adapter. Prints the longest wait for each,
what the server answered, and what it kept in memory.
Single requests that no page sends are in ``tests/space/test_attacks.py``.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
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
from tests.support.local_hub import LocalHub
from tests.support.running_space import SPACE, RunningSpace, running_space

HEAD = ("attack", "page", "plan", "upload", "try", "answers", "memory")
MB = 1_000_000
VISITOR = "203.0.113.1"
SMALL, TINY = "ann/small", "ann/tiny"
"""Datasets; the second has too few rows to count and train on."""
API = "/gradio_api"
JSON, FORM = "application/json", "multipart/form-data; boundary=b"
UPLOAD_MB = 10
MOST = 3000
"""Requests of one attack."""
MODEL_SECONDS = 25.0
"""Seconds at least of an attack that uses the base model: it first makes adapters."""
IDLE_PLAN = 1.5
"""Seconds that a plan takes at most while nothing else runs."""
_NUMBERS = count(256)


def new_address() -> str:
    """Return an address that has used nothing yet."""
    number = next(_NUMBERS)
    return f"100.{64 + number // 256}.{number % 256}.1"


class Attacker:
    """Sends requests and leaves them open until the attack ends.

    Args:
        url: of the Space.
        address: as the proxy before it would state it.

    Attributes:
        config: what ``/config`` tells about the page's events.
        answers: number of answers by status.
    """

    def __init__(self, url: str, address: str) -> None:
        parts, self._address = urlsplit(url), address
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._open: list[asyncio.StreamWriter] = []
        self._names = count()
        self.config: dict[str, Any] = {}
        self.answers: Counter[str] = Counter()

    def name(self) -> str:
        """Return a name that nobody has used before."""
        return f"{self._address}-{next(self._names)}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self._open.append(writer)
        return reader, writer

    async def begin(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        length: int | None = None,
        kind: str = JSON,
        address: str = "",
        **headers: str,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request, announcing `length` bytes, and leave it open."""
        reader, writer = await self.connect()
        fields = {"Host": f"{self._host}:{self._port}", "X-Forwarded-For": address or self._address}
        fields |= {"Content-Type": kind, "Connection": "close"} | headers
        if body or length:
            fields["Content-Length"] = str(length or len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        return reader, writer

    async def send(self, method: str, path: str, body: bytes = b"", **how: Any) -> bytes:
        """Send a request and return the body of the answer."""
        reader, writer = await self.begin(method, path, body, **how)
        try:
            await writer.drain()
            first = await reader.readline()
            self.answers[first.split()[1].decode() if first else "closed"] += 1
            answer = await reader.read()
        except ConnectionError:
            self.answers["closed"] += 1
            return b""
        finally:
            self.drop(writer)
        return answer.partition(b"\r\n\r\n")[2]

    def drop(self, writer: asyncio.StreamWriter) -> None:
        """Close a connection without a word."""
        self._open.remove(writer)
        writer.transport.abort()

    def close(self) -> None:
        """Close what is open."""
        for writer in tuple(self._open):
            self.drop(writer)

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

    async def join(self, session: str) -> None:
        """Ask for a place in the page's line."""
        body = {"fn_index": self.event("run"), "session_hash": session, "data": [None]}
        await self.post("/queue/join", body)

    def event(self, name: str) -> int:
        """Return the number of an event of the page by its name, such as ``choose``."""
        return next(int(d["id"]) for d in self.config["dependencies"] if d["api_name"] == name)

    async def ask(
        self, session: str, name: str, data: list[Any], values: Any = None, **how: Any
    ) -> bytes:
        """Have the page's action answer at once, and wait for what it has put in line."""
        body = {"fn_index": self.event(name), "session_hash": session, "data": data}
        await self.post(f"/run/{name}", body | {"event_data": values}, **how)
        dependencies = self.config["dependencies"]
        after = next(d["id"] for d in dependencies if d.get("trigger_after") == body["fn_index"])
        join = {"fn_index": after, "session_hash": session, "data": [None]}
        if "event_id" not in await self.post("/queue/join", join, **how):
            return b""
        return await self.send("GET", f"{API}/queue/data?session_hash={session}", **how)

    async def make(self, dataset: str, **how: Any) -> str:
        """Make an adapter on a new page; return its session."""
        session = self.name()
        await self.ask(session, "choose", [None, 1], {"dataset": dataset}, **how)
        await self.ask(session, "make", [None, 2], **how)
        return session

    async def plan(self, address: str = "", **inputs: Any) -> None:
        """Plan through the endpoint and wait for the end."""
        event = (await self.post("/call/v2/plan", inputs, address=address)).get("event_id")
        if event:
            await self.send("GET", f"{API}/call/plan/{event}", address=address)

    async def upload(self, content: bytes, name: str = "rows.csv", address: str = "") -> str:
        """Upload a file; return its path on the server, empty if it was refused."""
        body, how = form(content, name), {"kind": FORM, "address": address}
        answer = await self.send("POST", f"{API}/upload", body, **how)
        try:
            return str(json.loads(answer)[0])
        except (ValueError, KeyError):
            return ""


def form(content: bytes, name: str = "rows.csv", end: bytes = b"--b--\r\n") -> bytes:
    """Return a file as a form, or as a part of one."""
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n" + end


Attack = Callable[[Attacker], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}
MODEL_ATTACKS: dict[str, Attack] = {}
"""Those on a Space that can run the base model."""


def attack(title: str, *arguments: Any, of: dict[str, Attack] = ATTACKS) -> Callable[[Any], Any]:
    """Add a function, called with an attacker and these arguments, to a table."""

    def add(function: Any) -> Any:
        of[title] = lambda attacker: function(attacker, *arguments)
        return function

    return add


@attack("none")
@attack("none", of=MODEL_ATTACKS)
async def nothing(a: Attacker) -> None:
    """Wait."""


# --- connections and bodies ---------------------------------------------------------------------


@attack("1,000 connections that send nothing, or half of a request")
async def idle_connections(a: Attacker) -> None:
    for i in range(1000):
        _, writer = await a.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost:" if i % 2 else b"")


@attack("300 bodies of a byte a second", 300, f"{API}/queue/join")
@attack("300 slow bodies to a closed route", 300, "/login")
@attack("24 slow bodies, each from another address", 24, f"{API}/queue/join", 1)
@attack("40 slow uploads, two from each address", 40, f"{API}/upload", 2, FORM)
async def slow_bodies(a: Attacker, number: int, path: str, of: int = 0, kind: str = JSON) -> None:
    """Send a byte a second on each connection, `of` of an address, or all of the attacker's."""
    start = b"{" if kind == JSON else form(b"", end=b"")[:-2]
    addresses = [f"198.51.100.{i // of}" if of else "" for i in range(number)]
    how: dict[str, Any] = {"length": UPLOAD_MB * MB, "kind": kind}
    opened = [await a.begin("POST", path, start, address=at, **how) for at in addresses]
    while True:
        await asyncio.sleep(1)
        for _, writer in opened:
            writer.write(b" ")


@attack("bodies of 10 MB to a closed route", "/login", bytes(10 * MB), 20)
@attack("300 kB of empty lists", f"{API}/queue/join",
        b'{"fn_index":1,"session_hash":"s","data":[' + b"[]," * 99_900 + b"0]}", 8)  # fmt: skip
async def bodies(a: Attacker, path: str, body: bytes, at_once: int) -> None:
    await a.repeat(lambda: a.send("POST", path, body), at_once)


# --- sessions and streams -----------------------------------------------------------------------


@attack("as many sessions as requests")
@attack("names of sessions of 250 kB", 250_000)
async def many_sessions(a: Attacker, length: int = 0) -> None:
    await a.repeat(lambda: a.join(a.name() + "a" * length), 8)


@attack("64 streams of results that nobody reads")
async def unread_streams(a: Attacker) -> None:
    for name in [a.name() for _ in range(64)]:
        await a.join(name)
        await a.begin("GET", f"{API}/queue/data?session_hash={name}")


@attack("heartbeats, opened and closed")
async def heartbeats(a: Attacker) -> None:
    async def beat() -> None:
        reader, writer = await a.begin("GET", f"{API}/heartbeat/{a.name()}")
        await reader.readline()
        a.drop(writer)

    await a.repeat(beat, 64)


# --- files --------------------------------------------------------------------------------------


@attack("uploads cut off halfway")
async def cut_uploads(a: Attacker) -> None:
    async def cut() -> None:
        body = form(bytes(2 * MB))
        _, writer = await a.begin("POST", f"{API}/upload", body, length=3 * MB, kind=FORM)
        await writer.drain()
        await asyncio.sleep(0.1)
        a.drop(writer)

    await a.repeat(cut, 2)


@attack("uploads of 1,000 files each")
async def many_files(a: Attacker) -> None:
    async def upload() -> None:
        files = b"".join(form(a.name().encode(), f"{i}.csv", b"") for i in range(1000))
        await a.send("POST", f"{API}/upload", files + b"--b--\r\n", kind=FORM)

    await a.repeat(upload, 2)


@attack("500 downloads that nobody reads")
async def unread_downloads(a: Attacker) -> None:
    path = await a.upload(bytes(9 * MB))
    for _ in range(500):
        await a.begin("GET", f"{API}/file={path}")


# --- what is computed ---------------------------------------------------------------------------


@attack("8 pages and configurations at once")
async def pages(a: Attacker) -> None:
    paths = cycle(("/", "/config", f"{API}/info", f"{API}/info?page=", "/config?page=", "/?x=1"))
    compressed: dict[str, Any] = {"Accept-Encoding": "br"}
    await a.repeat(lambda: a.send("GET", next(paths), **compressed), 8)


@attack("20 plans at once")
async def plans(a: Attacker) -> None:
    await a.repeat(lambda: a.plan(dataset=SMALL), 20)


def of_ipv4(number: int) -> str:
    """Return one of many addresses."""
    return f"198.51.{100 + number // 250}.{number % 250}"


def of_one_site(number: int) -> str:
    """Return one of the 65,536 networks that a single site has by IPv6."""
    return f"2a01:4f8:c0c:{number:x}::1"


@attack("200 plans from 20 addresses", of_ipv4, 20, 10)
@attack("200 plans from 200 networks of one site", of_one_site, 200, 1)
async def plans_from(
    a: Attacker, address: Callable[[int], str], addresses: int, of_each: int
) -> None:
    """Plan as often from each address; whoever is refused asks again."""
    first = next(_NUMBERS) * addresses  # the server remembers those of an earlier run
    names = [address(first + number) for number in range(addresses)]

    async def ask(name: str) -> None:
        while True:
            await a.plan(name, dataset=SMALL)
            await asyncio.sleep(0.2)

    await asyncio.gather(*(ask(name) for name in names for _ in range(of_each)))


def equal_rows(number: int) -> bytes:
    """Return a Parquet file of equal rows, stored once."""
    zeros = pa.Array.from_buffers(pa.int32(), number, [None, pa.py_buffer(bytes(4 * number))])
    cells = pa.DictionaryArray.from_arrays(zeros, pa.array(["a b " * 100]))
    file = io.BytesIO()
    table = pa.table({"input": cells, "output": cells})
    pq.write_table(table, file, row_group_size=number, compression="zstd")
    return file.getvalue()


@attack("20 million rows in a small Parquet file, from 14 addresses", 14)
async def bombs(a: Attacker, addresses: int) -> None:
    content = equal_rows(20 * MB)

    async def ask(name: str) -> None:
        while True:
            path = await a.upload(content, "a.parquet", name)
            meta = {"_type": "gradio.FileData"}
            await a.plan(name, dataset="", file={"path": path, "meta": meta})

    await asyncio.gather(*(ask(of_ipv4(number)) for number in range(addresses)))


@attack("64 calls of the MCP tool at once")
async def mcp_calls(a: Attacker) -> None:
    parameters = {"name": "plan", "arguments": {"dataset": SMALL}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}
    accepted = {"Accept": "application/json, text/event-stream"}
    await a.repeat(lambda: a.post("/mcp/", body, **accepted), 64)


@attack("prompts changed 8 at once")
async def prompts(a: Attacker) -> None:
    session, numbers = a.name(), count(2)
    await a.ask(session, "choose", [None, 1], {"dataset": SMALL})
    body = {"fn_index": a.event("choose_prompt"), "session_hash": session}

    async def change() -> None:
        number = next(numbers)
        data = [None, number, f"Sort the messages, {number}.", ""]
        await a.post("/run/choose_prompt", body | {"data": data})

    await a.repeat(change, 8)


@attack("adapters of many pages")
async def adapters(a: Attacker) -> None:
    await a.repeat(lambda: a.make(SMALL), 4)


@attack("prompts of 20,000 characters, 4 at once", 4, of=MODEL_ATTACKS)
@attack("prompts of 20,000 characters, from 4 addresses", 1, of=MODEL_ATTACKS)
async def long_prompts(a: Attacker, of: int) -> None:
    """Try long prompts on four pages, `of` of an address."""

    async def tries(number: int) -> None:
        how, numbers = {"address": f"198.51.100.{number // of}"}, count(3)
        session = await a.make(TINY, **how)

        async def one_try() -> None:
            await a.ask(session, "try_out", [None, next(numbers), "a b " * 4900], **how)

        await a.repeat(one_try, 1)

    await asyncio.gather(*map(tries, range(4)))


@attack("4 adapters trained, each for another address", of=MODEL_ATTACKS)
async def trainings(a: Attacker) -> None:
    await asyncio.gather(*(a.make(SMALL, address=f"198.51.100.{i}") for i in range(4)))


@attack("calls of generate whose answers nobody reads", False, of=MODEL_ATTACKS)
@attack("calls of generate", True, of=MODEL_ATTACKS)
async def generations(a: Attacker, ask: bool) -> None:
    """Call without waiting for the end; ask for the answers, or do not."""

    async def call() -> None:
        event = (await a.post("/call/v2/generate", {"dataset": SMALL})).get("event_id")
        if event and ask:
            await a.begin("GET", f"{API}/call/generate/{event}")

    await a.repeat(call, 4)


def lines(row: dict[str, str], number: int) -> bytes:
    """Return equal rows as JSON lines."""
    return (json.dumps(row, ensure_ascii=False).encode() + b"\n") * number


@attack("marks of chats that never end",
        "a.jsonl", lines({"text": "<s>" + "[INST] " * 140_000, "label": "a"}, 4))  # fmt: skip
@attack("quotes that never end in a CSV file of 9 MB",
        "a.csv", b"input,output\n" + b'"a,b\n' * (9 * MB // 5))  # fmt: skip
@attack("rows of one letter for as long as the limits allow",
        "a.jsonl", lines({"input": "a b " * 100, "output": "c"}, 20_000))  # fmt: skip
@attack("125 long rows with an emoji each",
        "a.jsonl", lines({"input": "😀" + "a " * 1999, "output": "b"}, 125))  # fmt: skip
@attack("a million columns", "a.csv", b",".join(b"%d" % i for i in range(1_000_000)) + b"\n")
@attack("texts of one letter", "a.jsonl", lines({"input": "a" * 900_000, "output": "b"}, 10))
@attack("texts of combining marks",
        "a.jsonl", lines({"input": "\u0301" * 450_000, "output": "b"}, 10))  # fmt: skip
@attack("texts of digits", "a.jsonl", lines({"input": "q", "output": "1" * 900_000}, 10))
async def read(a: Attacker, name: str, content: bytes) -> None:
    """Have as many pages and programs read a file as an address may at once."""

    async def plan() -> None:
        path = await a.upload(content, name)
        await a.plan(dataset="", file={"path": path, "meta": {"_type": "gradio.FileData"}})

    async def choose() -> None:
        path = await a.upload(content, name)
        await a.ask(a.name(), "choose", [None, 1], {"file": path})

    await asyncio.gather(a.repeat(plan, 1), a.repeat(choose, 3))


# --- measuring ----------------------------------------------------------------------------------


async def somebody(url: str, address: str) -> Attacker:
    """Return an attacker, or a visitor, who knows the page's events."""
    attacker = Attacker(url, address)
    attacker.config = json.loads(await attacker.send("GET", "/config", address=VISITOR))
    attacker.answers.clear()
    return attacker


def run_attack(title: str, url: str, seconds: float, address: str, model: bool) -> dict[str, int]:
    """Run an attack in this process; return the number of answers by status."""

    async def run() -> dict[str, int]:
        attacker = await somebody(url, address)
        try:
            async with asyncio.timeout(seconds):
                await (MODEL_ATTACKS if model else ATTACKS)[title](attacker)
                await asyncio.sleep(seconds)
        except TimeoutError:
            pass
        finally:
            attacker.close()
        return dict(attacker.answers)

    return asyncio.run(run())


class Waits:
    """The longest waits of another visitor of the Space.

    Args:
        space: the server.
        model: whether the visitor tries an adapter, too.

    Attributes:
        longest: seconds by what was waited for.
        failed: what could not be had.
    """

    def __init__(self, space: RunningSpace, model: bool) -> None:
        visitor = Caller(space, VISITOR)
        self._actions: dict[str, Callable[[], object]] = {
            "page": lambda: visitor.send("/").read(),
            "plan": lambda: _complete(visitor.plan(dataset=SMALL)),
            # from an address that has uploaded nothing, since each may so many
            "upload": lambda: (
                Caller(space, new_address()).send(f"{API}/upload", form(b"a,b"), FORM).read()
            ),
        }
        if model:
            page, numbers = asyncio.run(somebody(space.url, new_address())), count(3)
            session = asyncio.run(page.make(TINY))
            self._actions["try"] = lambda: _answered(
                asyncio.run(page.ask(session, "try_out", [None, next(numbers), "Where is it?"]))
            )
        self.longest: defaultdict[str, float] = defaultdict(float)
        self.failed: dict[str, str] = {}

    def once(self, name: str) -> None:
        """Wait for one thing."""
        started = time.monotonic()
        try:
            self._actions[name]()
        except (URLError, OSError, RuntimeError) as error:
            self.failed[name] = f" ({str(error)[:60]})"
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

    def cells(self) -> Iterable[str]:
        """Return the cells of the table."""
        for name in HEAD[1:-2]:
            waited = f"{self.longest[name]:.1f} s{self.failed.get(name, '')}"
            yield waited if name in self._actions else ""


def _complete(end: str) -> None:
    if not end.startswith("complete"):
        raise RuntimeError(end[:60])


def _answered(stream: bytes) -> None:
    if b"Before: the base model" not in stream:
        raise RuntimeError("no answers")


def measure(
    space: RunningSpace, title: str, pool: ProcessPoolExecutor, seconds: float, model: bool
) -> list[str]:
    """Run an attack while another visitor waits; return its row of the table."""
    for _ in range(20):  # of the attack before, requests may still run
        before = Waits(space, False)
        before.once("plan")
        if before.longest["plan"] < IDLE_PLAN:
            break
    waits, memory = Waits(space, model), space.memory()
    running = pool.submit(run_attack, title, space.url, seconds, new_address(), model)
    time.sleep(0.3)
    waits.during(running)
    answers = ", ".join(f"{n:,} × {status}" for status, n in sorted(running.result().items()))
    ended = space.process.poll() is not None
    grown = "ended" if ended else f"{(space.memory() - memory) / MB:+,.0f} MB"
    return [title, *waits.cells(), answers, grown]


def main() -> None:
    """Run the attacks and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("titles", nargs="*", help="parts of the titles of attacks; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each attack")
    parser.add_argument("--space", type=Path, default=SPACE, help="folder of the Space's files")
    given = parser.parse_args()
    limits: dict[str, Any] = {"HF_LORAMETA_MAX_UPLOAD_MB": str(UPLOAD_MB)}
    rows = []
    with LocalHub() as hub, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        hub.add_user("ann")
        text = (DATA_FOLDER / "train.jsonl").read_bytes()
        for name, content in ((SMALL, text), (TINY, b"".join(text.splitlines(True)[:3]))):
            hub.create_repo(name, repo_type="dataset")
            hub.commit(name, {"train.jsonl": content}, repo_type="dataset")
        for table in (ATTACKS, MODEL_ATTACKS):
            model = table is MODEL_ATTACKS
            wanted = [t for t in table if not given.titles or any(g in t for g in given.titles)]
            if not wanted:
                continue
            of_table = ("NO_BASE", "") if model else ("TIME_LIMIT", "20")
            variables = limits | {f"HF_LORAMETA_{of_table[0]}": of_table[1]}
            seconds = max(given.seconds, MODEL_SECONDS) if model else given.seconds
            with (
                tempfile.TemporaryDirectory() as home,
                running_space(hub, Path(home), folder=given.space, **variables) as space,
            ):
                Waits(space, model).once("try" if model else "plan")
                for title in dict.fromkeys(("none", *wanted)):
                    rows.append(measure(space, title, pool, seconds, model))
                    print(*rows[-1], sep=" | ", flush=True)
    print(markdown_table(HEAD, rows, right=(1, 2, 3, 4)))


if __name__ == "__main__":
    main()
