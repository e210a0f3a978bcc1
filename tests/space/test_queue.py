"""Gradio's queue on the page: visitors wait for each other, cancel there, or are too many."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import Account, Shell
from tests.space.datasets import TRAIN
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
    contexts = [chromium.new_context() for _ in range(AT_ONCE)]
    everybody = [
        Visitor(chromium, small_queue.url, context=contexts[i // 2], address=f"203.0.113.{i + 1}")
        for i in range(AT_ONCE + 3)
    ]
    running, visitors = everybody[:AT_ONCE], everybody[AT_ONCE:]
    first, second, third = (visitor.page for visitor in visitors)
    with ended_by(go_on):
        for visitor in running:  # each begins before the next one asks: only two may wait
            visitor.enter_dataset(slow)
            assert reading.acquire(timeout=120)
        visitors[0].enter_dataset(repo)
        expect(first.locator("#lm-work")).to_contain_text("Waiting: place 1 in the line")
        visitors[1].enter_dataset(repo)
        expect(second.locator("#lm-work")).to_contain_text("Waiting: place 2 in the line")
        visitors[2].enter_dataset(repo)
        expect(third.locator("#lm-work")).to_contain_text("All places in the line are taken")
        expect(third.locator("#lm-work")).to_contain_text("Too many people use this page")
        expect(third.locator("#lm-cancel")).to_be_hidden()
        second.locator("#lm-cancel").click()
        expect(second.locator("#lm-work")).to_have_text("Canceled")
        visitors[2].enter_dataset(repo)
        expect(third.locator("#lm-work")).to_contain_text("All places in the line are taken")
        running[0].page.locator("#lm-cancel").click()
        visitors[2].wait_for_plan(repo)  # it asked once more
    cli.hub.clear_faults()
    for visitor in running[1:]:
        visitor.wait_for_plan(slow)
    visitors[0].wait_for_plan(repo)
    expect(second.locator("#lm-work")).to_have_text("Canceled")
    expect(second.locator("#lm-verdict")).to_be_hidden()
    for visitor in everybody:
        visitor.close()


@contextmanager
def ended_by(event: threading.Event) -> Iterator[None]:
    """Set an event at the end of a ``with`` block, also if a test fails."""
    try:
        yield
    finally:
        event.set()
