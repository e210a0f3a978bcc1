"""One visitor cannot make others wait: each attack, then another visitor; the line on the page."""

import json
import threading
import time
import urllib.error
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import Account, Shell, Web
from tests.space.datasets import TRAIN
from tests.support.caller import Caller
from tests.support.fault_hub import Fault
from tests.support.running_space import RunningSpace, Visitor, missing, running_space

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)
NO_BROWSER = missing("playwright", browser=True)

ATTACKER, VISITOR = "203.0.113.1", "203.0.113.2"
AT_ONCE = 5
"""Datasets that are read at the same time, of which the first is slow, so that one more begins."""
PLACES = 4
"""In the line of `own_space`."""
WAIT_SECONDS = 60.0
"""Longest wait of another visitor here, where other work may slow the machine; 2 s where none does.
What the attackers ask for would take minutes, or forever."""
MB = 1_000_000


@pytest.fixture
def space(own_space: Web) -> RunningSpace:
    return own_space.space


@pytest.mark.skipif(bool(NO_BROWSER), reason=NO_BROWSER)
def test_on_ones_own_machine_the_page_shows_how_to_publish_and_call_it(
    space: RunningSpace, chromium: Any, user: Account
) -> None:
    from playwright.sync_api import expect

    visitor = Visitor(chromium, space.url)
    visitor.plan(user.dataset("notes", {"train.jsonl": TRAIN}))
    visitor.make()
    commands = visitor.page.locator("#lm-publish")
    expect(commands).to_contain_text("hf-lorameta push --from notes-lorameta --repo-id user/notes-")
    assert not visitor.page.get_by_role("button", name="Save to Hub").is_visible()
    visitor.open_section("Run your own copy")
    own = visitor.page.locator("#lm-own")
    expect(own).to_contain_text(f'Client("{space.url}")')
    expect(own).to_contain_text("hf-lorameta space deploy")
    assert visitor.errors == []
    visitor.close()


@pytest.fixture
def attacker(space: RunningSpace) -> Caller:
    return Caller(space, ATTACKER)


@pytest.fixture
def visitor(space: RunningSpace) -> Caller:
    return Caller(space, VISITOR)


@pytest.fixture
def reading() -> threading.Semaphore:
    """Released whenever the reading of the slow dataset has begun."""
    return threading.Semaphore(0)


@pytest.fixture
def slow(cli: Shell, user: Account, reading: threading.Semaphore) -> str:
    """A dataset that takes forever to read."""
    repo = user.dataset("slow", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("hold", path=f"datasets/{repo}", callback=reading.release))
    return repo


def events_of(visitor: Caller) -> dict[str, int]:
    """Return the numbers of the page's events by name; `run` waits for a plan."""
    with visitor.send("/config") as answer:
        return {event["api_name"]: event["id"] for event in json.load(answer)["dependencies"]}


def test_after_each_attack_another_visitor_plans_soon(
    space: RunningSpace, attacker: Caller, visitor: Caller, user: Account, slow: str
) -> None:
    book = user.dataset("book", {"train.jsonl": TRAIN})
    run = events_of(visitor)["run"]
    many = "input=text," * 100_000
    attacks: dict[str, Callable[[], set[int]]] = {
        "a megabyte of columns": lambda: {attacker.ask(dataset=book, columns=many)},
        "4 MB of instruction": lambda: {attacker.ask(dataset=book, instruction="a" * 4 * MB)},
        "a file at a URL": lambda: {
            attacker.ask(dataset="", file={"path": "http://203.0.113.9/x.csv"})
        },
        "an event that waits in no line": lambda: {attacker.join(0, "s0")},
        "an endpoint without the queue": lambda: {
            attacker.status("/gradio_api/run/plan", b'{"data": []}')
        },
        # these take all of the requests that an address may make at once
        "45 posts that nobody reads": lambda: {attacker.ask(dataset=slow) for _ in range(45)},
        "45 joins of as many sessions": lambda: {attacker.join(run, f"s{i}") for i in range(45)},
        "15 uploads": lambda: {
            attacker.upload(f"{i}.csv", b"%d" % i + b"a" * 900_000) for i in range(15)
        },
        "80 open streams": lambda: {
            attacker.keep_open(f"/gradio_api/heartbeat/h{i}") for i in range(80)
        },
        "300 requests": lambda: {attacker.status("/config") for _ in range(300)},
    }
    expected = {
        "a megabyte of columns": {413}, "4 MB of instruction": {413}, "a file at a URL": {400},
        "45 posts that nobody reads": {200, 429}, "15 uploads": {200, 429},
        "80 open streams": {200, 429}, "an event that waits in no line": {200},
        "an endpoint without the queue": {404},
    }  # fmt: skip
    waits = {}
    for name, attack in attacks.items():
        statuses = attack()
        assert statuses == expected.get(name, statuses), name
        start = time.monotonic()
        assert visitor.plan(dataset=book).startswith("complete"), name
        waits[name] = time.monotonic() - start
        assert visitor.join(run, name) == 200, name
    assert visitor.upload("mine.csv", b"input,output\na,b\n") == 200
    for stream in attacker.streams:
        stream.close()
    assert max(waits.values()) < WAIT_SECONDS, waits


def test_a_caller_who_leaves_gives_up_the_place(
    visitor: Caller, slow: str, reading: threading.Semaphore, user: Account
) -> None:
    book = user.dataset("book", {"train.jsonl": TRAIN})
    with ExitStack() as streams:
        for _ in range(AT_ONCE - 2):  # each begins before the next one asks
            streams.enter_context(visitor.stream(dataset=slow))
            assert reading.acquire(timeout=WAIT_SECONDS)
        last = threading.Thread(target=lambda: visitor.plan(dataset=book))
        last.start()  # waits, since an address may have all but one running
        last.join(2)
        assert last.is_alive()
    last.join(WAIT_SECONDS)
    assert not last.is_alive()


def test_a_server_that_is_ended_leaves_no_files(
    cli: Shell, slow: str, reading: threading.Semaphore, tmp_path: Path
) -> None:
    with running_space(cli.hub, tmp_path) as space, Caller(space, VISITOR).stream(dataset=slow):
        assert reading.acquire(timeout=WAIT_SECONDS)
        assert space.leftovers()
        space.process.terminate()
        space.process.wait(WAIT_SECONDS)
        assert [*space.scratch.iterdir()] == []


@pytest.mark.skipif(NO_BROWSER != "", reason=NO_BROWSER)
def test_visitors_wait_in_line_and_can_cancel_there(
    space: RunningSpace,
    chromium: Any,
    cli: Shell,
    slow: str,
    reading: threading.Semaphore,
    user: Account,
) -> None:
    from playwright.sync_api import expect

    repo = user.dataset("book", {"train.jsonl": TRAIN})
    # two pages share the files that are fetched; more would share too few connections
    context = chromium.new_context()
    visitors = [
        Visitor(chromium, space.url, context=context, address=f"203.0.113.{i + 1}")
        for i in range(2)
    ]
    first, second = (visitor.page for visitor in visitors)
    others = [Caller(space, f"203.0.113.{i + 3}") for i in range(AT_ONCE + PLACES - 2)]
    events = events_of(others[0])
    with (
        first.expect_request(of_event(events["choose"])) as chosen,
        first.expect_request(of_event(events["run"])) as joined,
    ):
        visitors[0].plan(repo)
    for number, other in enumerate(others, 1):
        repeat(chosen.value, other, repo, slow)
        repeat(joined.value, other)
        if number <= AT_ONCE:  # it begins before the next one asks
            assert reading.acquire(timeout=120)
    visitors[0].enter_dataset(repo)
    expect(first.locator("#lm-work")).to_contain_text("Waiting: place ")
    visitors[1].enter_dataset(repo)
    expect(second.locator("#lm-work")).to_contain_text("Waiting: place ")
    with second.expect_request(of_event(events["cancel"])) as canceling:
        second.locator("#lm-cancel").click()
    expect(second.locator("#lm-work")).to_have_text("Canceled")
    for other in others[:PLACES]:
        repeat(canceling.value, other)
    cli.hub.clear_faults()
    visitors[0].wait_for_plan(repo)
    expect(second.locator("#lm-work")).to_have_text("Canceled")
    expect(second.locator("#lm-verdict")).to_be_hidden()
    for visitor in visitors:
        visitor.close()


def of_event(number: int) -> Callable[[Any], bool]:
    """Return whether a request is for an event of the page."""
    return lambda request: f'"fn_index":{number},' in (request.post_data or "")


def repeat(request: Any, caller: Caller, old: str = "", new: str = "") -> None:
    """Post what a page did, with a text replaced, as another page at the address of a caller."""
    body = json.loads(request.post_data.replace(old, new)) | {"session_hash": caller.address}
    assert caller.status(urlsplit(request.url).path, json.dumps(body).encode()) == 200


def test_an_uploaded_file_is_deleted_after_its_call(space: RunningSpace, visitor: Caller) -> None:
    folder = space.log.parent / "gradio"
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="r.csv"\r\n\r\n'
    body = head.encode() + b"input,output\nhow are you,well\n\r\n--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    with visitor.send("/gradio_api/upload", body, kind) as answer:
        path = json.load(answer)[0]
    assert list(folder.rglob("r.csv"))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert visitor.plan(dataset="", file=file).startswith("complete")
    assert not list(folder.rglob("r.csv"))
    with pytest.raises(urllib.error.HTTPError) as caught:
        visitor.plan(dataset="", file=file)
    assert "no longer there" in caught.value.read().decode()
