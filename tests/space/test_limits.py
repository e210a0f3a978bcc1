"""What one visitor may send, store and use."""

import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.running_space import SPACE, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

from gradio.queueing import Queue

sys.path.insert(0, str(SPACE))
try:
    from forms import html_forms, inputs
    from limits import hourly, requests, uploads
    from limits.addresses import note_address
    from limits.places import FairQueue
    from limits.requests import BODY_BYTES, BURST, CROWDED, PER_SECOND, Bucket, VisitorLimits
    from work import generating, jobs, planning, trying
    from work.planning import DatasetRequest, RequestError, Source
finally:
    sys.path.remove(str(SPACE))

from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.preview import Preview
from hf_lorameta.errors import LoraMetaError, RecipeError, UsageError

MB = 1_000_000


# --- whose request it is ------------------------------------------------------------------------


def scope(peer: str, forwarded: str = "") -> dict[str, Any]:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return {"type": "http", "client": (peer, 1), "headers": headers}


def test_on_the_hub_the_address_is_the_last_that_a_proxy_saw() -> None:
    made_up = scope("10.0.0.3", "1.1.1.1, 8.8.8.8, 10.16.0.4")
    assert note_address(made_up, on_hub=True) == "8.8.8.8"
    assert note_address(made_up, on_hub=False) == "10.0.0.3"
    assert note_address(scope("10.0.0.3", "nonsense"), on_hub=True) == "10.0.0.3"
    assert note_address(scope("2001:db8:1:2:3::9"), on_hub=False) == "2001:db8:1:2::/64"
    assert note_address(scope("::ffff:8.8.8.8"), on_hub=False) == "8.8.8.8"


def test_requests_are_refilled_as_time_passes() -> None:
    bucket = Bucket(BURST, 0.0)
    assert all(bucket.take(0.0) for _ in range(BURST))
    assert not bucket.take(0.0)
    assert [bucket.take(1.0) for _ in range(PER_SECOND + 1)] == [True] * PER_SECOND + [False]


class Server:
    """`VisitorLimits` around an app that answers 200 to every request, once `go_on` is set.

    Attributes:
        running: number of requests that the app is answering.
    """

    def __init__(self) -> None:
        self.go_on, self.running = asyncio.Event(), 0
        self.go_on.set()
        self._limits = VisitorLimits(self._app, on_hub=False, max_upload=100 * MB)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        while (await receive()).get("more_body"):
            pass
        await self.go_on.wait()
        self.running -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(
        self,
        path: str,
        *parts: bytes,
        address: str = "a",
        pause: float = 0,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Send a request with a body in parts, seconds apart; return the status."""
        statuses: list[int] = []
        left = list(parts)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(pause)
            body = left.pop(0) if left else b""
            return {"type": "http.request", "body": body, "more_body": bool(left)}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        fields = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        method = "POST" if parts else "GET"
        asked = {**scope(address), "headers": fields, "method": method, "path": path}
        await self._limits(asked, receive, send)
        return statuses[0]


JOIN = "/gradio_api/queue/join"


def statuses_of(bodies: list[bytes]) -> list[int]:
    """Return the statuses of requests to join the queue, one after the other."""

    async def visit() -> list[int]:
        server = Server()
        return [await server.ask(JOIN, body) for body in bodies]

    return asyncio.run(visit())


@pytest.mark.parametrize("path", [JOIN, "/gradio_api/upload", "/closed"])
def test_a_body_has_to_come_in_at_some_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(requests, "_BODY_SECONDS", 0.05)
    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path))

    async def visit() -> int:
        drops = [b" "] * 500
        return await Server().ask(path, *drops, pause=0.01, headers={"content-length": "500"})

    start = time.monotonic()
    assert asyncio.run(visit()) == (404 if path == "/closed" else 408)
    assert time.monotonic() - start < 3


def test_long_requests_and_new_sessions_count_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PER_SECOND", 0)  # else it depends on how fast this runs
    long = json.dumps({"data": ["a" * (BODY_BYTES // 2)]}).encode()
    assert len(long) // 10_000 == 15
    assert statuses_of([long] * 20) == [200] * (BURST // 16) + [429] * (20 - BURST // 16)
    sessions = [json.dumps({"session_hash": f"s{i}"}).encode() for i in range(60)]
    assert statuses_of(sessions).count(200) == BURST // 6
    assert statuses_of(sessions[:1] * 150) == [200] * 150


def test_names_of_sessions_are_bounded_and_what_is_no_json_is_refused() -> None:
    long = json.dumps({"session_hash": "a" * 101}).encode()
    assert statuses_of([long, b"--b\r\n", b"[" * 100_000, b"{}"]) == [400, 400, 400, 200]


def test_a_request_holds_as_many_values_as_a_page_sends_and_some_more() -> None:
    columns = {f"role-{number}": "input" for number in range(2000)}
    page = {"fn_index": 1, "session_hash": "s", "data": [None] * 40, "event_data": columns}
    bodies = [b'{"data":[' + b"[]," * 99_900 + b"0]}", b"[" + b"[[],0]," * 9000 + b"0]"]
    assert statuses_of([json.dumps(page).encode(), *bodies]) == [200, 400, 400]


def test_an_address_has_few_calls_of_the_tool_at_once() -> None:
    async def visit() -> list[int]:
        server = Server()
        server.go_on.clear()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(server.ask("/gradio_api/mcp/", b"{}")) for _ in range(64)]
            await asyncio.sleep(0.1)
            server.go_on.set()
        return [call.result() for call in calls]

    statuses = asyncio.run(visit())
    assert statuses.count(200) == requests.AT_ONCE["tool"]
    assert statuses.count(429) == 64 - requests.AT_ONCE["tool"]


def test_a_request_names_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path))
    path = tmp_path / "rows.csv"
    path.touch()
    few, many = ([{"path": str(path)}] * number for number in (10, 11))
    assert statuses_of([json.dumps(few).encode(), json.dumps(many).encode()]) == [200, 400]


def test_when_many_requests_are_open_each_address_may_have_one() -> None:
    async def visit() -> tuple[int, list[int]]:
        server = Server()
        server.go_on.clear()
        async with asyncio.TaskGroup() as group:

            def ask(address: str) -> asyncio.Task[int]:
                return group.create_task(server.ask("/", address=address))

            others = [ask(f"a{number // 2}") for number in range(CROWDED)]
            await asyncio.sleep(0.1)
            refused = await server.ask("/", address="a0")
            others.append(ask("b"))
            await asyncio.sleep(0.1)
            server.go_on.set()
        return refused, [task.result() for task in others]

    assert asyncio.run(visit()) == (429, [200] * (CROWDED + 1))


def test_an_upload_without_a_length_that_counts_is_refused() -> None:
    async def visit() -> int:
        headers = {"content-length": "10", "transfer-encoding": "chunked"}  # which wins
        return await Server().ask("/gradio_api/upload", b"a", headers=headers)

    assert asyncio.run(visit()) == 411


def test_files_of_the_page_are_sent_a_few_at_a_time() -> None:
    async def visit() -> tuple[int, list[int]]:
        server = Server()
        server.go_on.clear()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.ask("/assets/a.js")) for _ in range(50)]
            await asyncio.sleep(0.1)
            at_once = server.running
            server.go_on.set()
        return at_once, [task.result() for task in tasks]

    assert asyncio.run(visit()) == (requests.FILES_AT_ONCE, [200] * 50)


# --- places -------------------------------------------------------------------------------------


def event(address: str, line: str = "plan", session: str = "") -> Any:
    request = SimpleNamespace(scope=scope(address))
    note_address(request.scope, on_hub=False)
    name = f"{address}-{id(request)}"
    return SimpleNamespace(
        _id=name, request=request, concurrency_id=line, session_hash=session or name
    )


@pytest.fixture
def queue() -> FairQueue:
    """A queue of 8 places in each line, with two lines of two and one at once."""

    async def make() -> FairQueue:  # it needs an event loop
        blocks: Any = SimpleNamespace()
        return FairQueue(8, Queue(True, 40, 1, None, blocks, default_concurrency_limit=8))

    made = asyncio.run(make())
    made.active_jobs = [None] * 40
    for line, limit in (("plan", 2), ("model", 1)):
        function: Any = SimpleNamespace(concurrency_id=line, concurrency_limit=limit)
        made.create_event_queue_for_fn(function)
    return made


def wait(queue: FairQueue, *events: Any) -> None:
    for one in events:
        line = queue.event_queue_per_concurrency_id[one.concurrency_id]
        line.queue.append(one)
        queue._order(line)


def run_next(queue: FairQueue) -> Any:
    """Start the next request, as Gradio does; None if none may run."""
    found = queue.get_events()
    if found is None:
        return None
    queue.active_jobs[queue.active_jobs.index(None)] = found[0]
    queue.event_queue_per_concurrency_id[found[2]].current_concurrency += 1
    return found[0][0]


def test_an_address_leaves_one_of_those_that_run_to_others(queue: FairQueue) -> None:
    first, second, other = event("a"), event("a"), event("b")
    wait(queue, first, second)
    assert run_next(queue) is first
    assert run_next(queue) is None
    wait(queue, other)
    assert run_next(queue) is other


def test_those_who_read_slow_sources_let_others_begin(queue: FairQueue) -> None:
    slow = [event("a"), event("b"), event("c")]
    wait(queue, *slow)
    assert [run_next(queue), run_next(queue), run_next(queue)] == [*slow[:2], None]
    line = queue.event_queue_per_concurrency_id["plan"]
    starts: Any = {"fn": {time.time() - 60}}
    line.start_times_per_fn = starts
    assert run_next(queue) is slow[2]
    wait(queue, event("d"))
    assert run_next(queue) is None  # the latest has just begun
    starts["fn"] |= {time.time() - 61, time.time() - 62}
    assert run_next(queue) is not None
    wait(queue, event("e"))
    assert run_next(queue) is None  # no more than a quarter of the eight places


def test_addresses_take_turns(queue: FairQueue) -> None:
    many = [event("a", "model") for _ in range(4)]
    others = [event("b", "model"), event("b", "model"), event("c", "model")]
    wait(queue, *many, *others)
    order = [one.request.scope["client"][0] for one in
             queue.event_queue_per_concurrency_id["model"].queue]  # fmt: skip
    assert order == list("abcabaa")


def test_an_address_has_half_of_the_places_and_a_session_a_quarter(queue: FairQueue) -> None:
    wait(queue, event("a", session="s"), event("a", session="s"))
    assert "from your address" in queue._refusal("plan", "a", "s")
    assert queue._refusal("plan", "a", "t") == ""
    wait(queue, event("a"), event("a"))
    assert "from your address" in queue._refusal("plan", "a", "t")
    assert queue._refusal("plan", "b", "u") == ""
    assert queue._refusal("model", "a", "t") == ""
    wait(queue, *(event(f"x{i}") for i in range(4)))
    assert queue._refusal("plan", "b", "u").startswith("Too many requests are waiting")


def test_messages_of_a_visitor_who_waits_outlast_those_of_many_others(queue: FairQueue) -> None:
    waiting = event("a", session="visitor")
    wait(queue, waiting)
    messages: Any = queue.pending_messages_per_session
    messages["visitor"] = "messages"
    for number in range(1000):
        queue._keep_messages()
        messages[f"s{number}"] = "messages"
        queue.pending_event_ids_session[f"s{number}"] = set()
    assert "visitor" in messages
    assert len(messages) <= 500
    assert len(queue.pending_event_ids_session) <= 1001


def test_a_job_ends_when_its_visitor_leaves() -> None:
    job = jobs.Job(60)
    here = True
    job.wanted = lambda: here
    job.check()
    here = False
    with pytest.raises(jobs.Canceled):
        job.check()
    committed = jobs.Job(60)
    committed.commit()
    committed.wanted = lambda: False
    committed.check()  # goes on, since it cannot be undone


# --- uploads ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of uploads."""
    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path))
    return tmp_path


def test_an_address_uploads_five_of_the_largest_files_in_an_hour(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = uploads.Uploads(MB)
    assert [limits.count("a", MB) for _ in range(uploads.OF_ADDRESS)] == [""] * uploads.OF_ADDRESS
    refusal = limits.count("a", 1)
    assert "You have uploaded 5 MB within an hour" in refusal
    assert "Try again in 60 minutes" in refusal
    assert limits.count("b", 1) == ""
    assert "larger than 1 MB" in limits.count("b", 2 * MB)
    clock = time.monotonic() + hourly.PERIOD + 1
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    assert limits.count("a", MB) == ""


def test_uploads_leave_room_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)._replace(free=uploads.SPARE_BYTES + MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    limits = uploads.Uploads(2 * MB)
    assert limits.count("a", MB) == ""
    assert "leave no room" in limits.count("a", MB + 1)


def test_a_file_is_deleted_when_nobody_uses_it(folder: Path) -> None:
    path = folder / "hash" / "rows.csv"
    path.parent.mkdir()
    path.touch()
    first, second = uploads.used(str(path)), uploads.used(str(path))
    assert first is second is not None
    del first
    assert path.exists()
    del second
    assert not path.parent.exists()
    assert uploads.used(str(path)) is uploads.used("/etc/hostname") is None


def test_what_came_of_an_upload_that_broke_off_is_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, limits = folder / "tmpabc", uploads.Uploads(MB)
    half.write_bytes(b"half")
    limits.count("a", MB)
    assert half.exists()
    monkeypatch.setattr(uploads, "_ABANDONED_SECONDS", -1)
    limits.count("a", MB)
    assert not half.exists()


# --- the base model -----------------------------------------------------------------------------


def test_an_address_has_some_minutes_of_the_base_model_in_an_hour() -> None:
    spent = hourly.model_time()
    spent.add("a", hourly.MODEL_SECONDS - 1)
    spent.check("a")
    spent.add("a", 2)
    with pytest.raises(LoraMetaError, match="10 minutes within an hour") as caught:
        spent.check("a")
    assert "Try again in 60 minutes" in str(caught.value.advice[0])
    spent.check("b")
    with pytest.raises(LoraMetaError, match="10 minutes within an hour"):
        spent.check("b", hourly.MODEL_SECONDS + 1)


def test_an_address_makes_some_gigabytes_of_adapters_in_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None
    share = hourly.HourlyShare(10, "made adapters of 10 bytes")
    share.add("", 10)
    monkeypatch.setattr(generating, "ADAPTERS", share)
    with pytest.raises(LoraMetaError, match="made adapters of 10 bytes within an hour"):
        generating.make_adapter(nothing, jobs.Job(60))


def test_a_prompt_is_bounded_before_the_model_is_loaded() -> None:
    nothing: Any = None
    prompt = "a" * (trying.PROMPT_CHARACTERS + 1)
    with pytest.raises(RequestError, match="20,001 characters, more than the 20,000"):
        trying.answers(nothing, nothing, prompt, jobs.Job(60))


# --- inputs -------------------------------------------------------------------------------------


def test_columns_are_bounded_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_lorameta.data.columns import columns

    monkeypatch.setattr(columns, "_PART", None)
    with pytest.raises(UsageError, match="got 1,100,000 characters"):
        columns.parse_columns("input=text," * 100_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", float("inf")), ("rank", "9" * 5000), ("temperature", "nan"), ("top_k", "1e999"),
     ("temperature", float("nan"))],
)  # fmt: skip
def test_a_number_has_to_be_finite(name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf"^{name} "):
        inputs.recipe_of(**{name: value})


def test_of_many_columns_the_first_and_those_with_a_role_are_shown() -> None:
    names = [f"column {i}" for i in range(20_000)]
    found = Columns(input="column 3", output="column 15000.text")
    row = dict.fromkeys(names, "a value")
    source = Source([], [], Preview(None, "train", names, [row] * 3, found, None))
    form = html_forms.columns_form(source, 1, DatasetRequest("user/name"))
    assert len(form) < 300_000
    assert "Of 20,000 columns, 201 are shown" in form
    assert "role-15000" in form
    values = {"role-3": "input", "role-15000": "output"}
    assert html_forms.columns_from_form(values, names, found) == found
    everything = {f"role-{i}": "input" for i in range(101)}
    with pytest.raises(RequestError, match="At most 100 columns"):
        html_forms.columns_from_form(everything, names, None)


def test_a_repo_id_is_bounded() -> None:
    from hf_lorameta import plan
    from hf_lorameta.demo import TRAIN_FILE
    from work.generating import Destination, chosen_name

    result = planning.PlanResult(plan(TRAIN_FILE), [], "rows")
    with pytest.raises(RequestError, match="is not a repo id"):
        chosen_name(result, Destination("a" * 300_000), "user")
