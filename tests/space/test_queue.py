"""Gradio's queue on the page: visitors wait for each other, cancel there, or are too many."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import Account, Shell
from tests.space.datasets import TRAIN
from tests.support.caller import Caller
from tests.support.fault_hub import Fault
from tests.support.running_space import RunningSpace, Visitor, missing, running_space

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect

AT_ONCE = 4
"""Datasets that are read at the same time."""


@pytest.fixture(scope="module")
def small_queue(world: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSpace]:
    home = tmp_path_factory.mktemp("queue")
    with running_space(
        world.hub, home, HF_LORAMETA_QUEUE="2", HF_HUB_DOWNLOAD_TIMEOUT="600"
    ) as space:
        yield space


def test_visitors_wait_in_line_can_cancel_there_and_are_told_if_they_are_too_many(
    small_queue: RunningSpace, chromium: Any, cli: Shell, user: Account
) -> None:
    go_on, reading = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        reading.release()
        go_on.wait()

    slow = user.dataset("slow", {"train.jsonl": TRAIN})
    repo = user.dataset("book", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("callback", path=f"datasets/{slow}", callback=hold))
    # two pages share the files that are fetched; more would share too few connections
    contexts = [chromium.new_context() for _ in range(2)]
    visitors = [
        Visitor(chromium, small_queue.url, context=contexts[i // 2], address=f"203.0.113.{i + 1}")
        for i in range(3)
    ]
    first, second, third = (visitor.page for visitor in visitors)
    others = [Caller(small_queue, f"203.0.113.{i + 4}") for i in range(AT_ONCE)]
    with posts(first) as asked:
        visitors[0].plan(repo)
    asking = [(path, body.replace(repo, slow)) for path, body in asked[:2]]
    with ended_by(go_on):
        for other in others:  # each begins before the next one asks: only two may wait
            repeat(asking, other)
            assert reading.acquire(timeout=120)
        visitors[0].enter_dataset(repo)
        expect(first.locator("#lm-work")).to_contain_text("Waiting: place 1 in the line")
        visitors[1].enter_dataset(repo)
        expect(second.locator("#lm-work")).to_contain_text("Waiting: place 2 in the line")
        visitors[2].enter_dataset(repo)
        expect(third.locator("#lm-work")).to_contain_text("All places in the line are taken")
        expect(third.locator("#lm-work")).to_contain_text("Too many people use this page")
        expect(third.locator("#lm-cancel")).to_be_hidden()
        with posts(second) as canceling:
            second.locator("#lm-cancel").click()
            expect(second.locator("#lm-work")).to_have_text("Canceled")
        visitors[2].enter_dataset(repo)
        expect(third.locator("#lm-work")).to_contain_text("All places in the line are taken")
        repeat(canceling[:1], others[0])
        visitors[2].wait_for_plan(repo)  # it asked once more
    cli.hub.clear_faults()
    visitors[0].wait_for_plan(repo)
    expect(second.locator("#lm-work")).to_have_text("Canceled")
    expect(second.locator("#lm-verdict")).to_be_hidden()
    for visitor in visitors:
        visitor.close()


@contextmanager
def posts(page: Any) -> Iterator[list[tuple[str, str]]]:
    """Collect path and body of what a page posts."""
    found: list[tuple[str, str]] = []

    def note(request: Any) -> None:
        if request.method == "POST":
            found.append((urlsplit(request.url).path, request.post_data))

    page.on("request", note)
    yield found
    page.remove_listener("request", note)


def repeat(requests: list[tuple[str, str]], caller: Caller) -> None:
    """Post what a page did, as another page at the address of a caller."""
    for path, body in requests:
        renamed = json.loads(body) | {"session_hash": caller.address}
        assert caller.status(path, json.dumps(renamed).encode()) == 200


@contextmanager
def ended_by(event: threading.Event) -> Iterator[None]:
    """Set an event at the end of a ``with`` block, also if a test fails."""
    try:
        yield
    finally:
        event.set()
