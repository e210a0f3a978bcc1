"""Repeat what visitors do on the Space's page: ``python -m tests.benchmarks.space_page``.

Prints how often each was right. Nothing is asserted; `tests/space` has each once.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.localhub import LocalHub
from hf_lorameta.localhub.faults import Fault
from tests.running_space import RunningSpace, Visitor, browser, running_space

OWNER = "ann"
NAMES = ("amber-notes", "amber-letters", "beryl-notes", "coral-list", "coral-diary")
TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
ODD = "odd-columns"
WAYS = ("mouse", "arrows", "type and Enter", "type and Tab")


def create_datasets(hub: LocalHub) -> None:
    """Add datasets to search for, and one whose columns have to be chosen."""
    hub.add_user(OWNER)
    odd = [{"left": f"how was {i}", "right": "very kind", "mark": str(i)} for i in range(40)]
    contents = dict.fromkeys(NAMES, TRAIN)
    contents[ODD] = "".join(json.dumps(row) + "\n" for row in odd).encode()
    for name, content in contents.items():
        hub.create_repo(f"{OWNER}/{name}", repo_type="dataset")
        hub.commit(f"{OWNER}/{name}", {"train.jsonl": content}, repo_type="dataset")


class Repetitions:
    """Repeats actions on one page and counts the right outcomes.

    Args:
        visitor: of the page.
        hub: the loopback Hub.
        path: a file to upload.
    """

    def __init__(self, visitor: Visitor, hub: LocalHub, path: Path) -> None:
        self.visitor, self.hub, self.path = visitor, hub, path
        self.page = visitor.page
        self.random = random.Random(0)

    def search(self) -> bool:
        """Type part of a name at some speed, choose a match, and count the requests for it."""
        name = self.random.choice(NAMES)
        box = self.page.locator("#lm-dataset")
        box.fill("")
        box.press_sequentially(
            name[: self.random.randint(3, 9)], delay=self.random.randint(60, 300)
        )
        option = self.page.get_by_role("option", name=f"{OWNER}/{name}")
        option.wait_for()
        count = self._requests()
        option.click()
        self.visitor.wait_for_plan(f"{OWNER}/{name}")
        return self._requests() == count + 1 and self.visitor.errors == []

    def slow_dataset_then_file(self) -> bool:
        """Choose a file while a slow dataset is being read."""
        slow = f"{OWNER}/{NAMES[0]}"
        with self._slow(slow):
            self.visitor.enter_dataset(slow)
            self.page.wait_for_timeout(self.random.randint(0, 800))
            self.visitor.upload(self.path)
        self.page.wait_for_timeout(2500)
        return self._planned(self.path.name)

    def file_then_slow_dataset(self) -> bool:
        """Name a slow dataset while a file is being read."""
        slow = f"{OWNER}/{NAMES[0]}"
        with self._slow(slow):
            self.page.locator("#lm-file").set_input_files(self.path)
            self.page.wait_for_timeout(self.random.randint(0, 800))
            self.visitor.plan(slow)
        self.page.wait_for_timeout(2500)
        return self._planned(slow)

    def columns(self, way: str) -> bool:
        """Choose the role of a column in one way, and look whether it is still there."""
        if not self.page.get_by_label("Role of mark").count():
            self.visitor.enter_dataset(f"{OWNER}/{ODD}")
        box = self.page.get_by_label("Role of right")
        box.wait_for()
        wanted = "input" if box.input_value() == "output" else "output"
        if way == "mouse":
            box.select_option(wanted)
        else:
            box.focus()
            keys = {"arrows": ["ArrowDown" if wanted == "output" else "ArrowUp"]}
            for key in keys.get(way, [wanted[0]]):
                self.page.keyboard.press(key)
            if way != "arrows":
                self.page.keyboard.press("Enter" if way == "type and Enter" else "Tab")
            box.evaluate("e => e.blur()")
            wanted = box.input_value()
        self.page.locator(f"[data-link*='{wanted}%3Dright']").wait_for(state="attached")
        return bool(box.input_value() == wanted and wanted)

    def cancel(self) -> bool:
        """Press Cancel at a random moment of making an adapter."""
        if not self.page.locator("#lm-make").is_visible():
            self.visitor.plan(f"{OWNER}/{NAMES[1]}")
        self.page.locator("#lm-make").click()
        cancel = self.page.locator("#lm-cancel")
        cancel.wait_for()
        self.page.wait_for_timeout(self.random.randint(0, 700))
        if not cancel.is_visible():
            return True  # it was ready before
        cancel.click()
        self.page.locator("#lm-work", has_text="Cancelled").wait_for(timeout=5000)
        self.page.wait_for_timeout(600)
        return "Cancelled" in self.page.locator("#lm-work").inner_text()

    @contextmanager
    def _slow(self, repo: str) -> Iterator[None]:
        self.hub.add_fault(Fault("delay", path=f"datasets/{repo}", seconds=1.0))
        try:
            yield
        finally:
            self.hub.clear_faults()

    def _requests(self) -> int:
        return sum("queue/join" in url for url in self.visitor.requests)

    def _planned(self, name: str) -> bool:
        shown = self.page.locator("#lm-verdict [data-announce]").get_attribute("data-announce")
        return bool(shown and shown.startswith(name))


def repeat(title: str, times: int, action: Callable[[], bool]) -> None:
    """Run an action many times and print how often it was right."""
    started, right = time.monotonic(), 0
    for number in range(times):
        try:
            right += action()
        except Exception as error:  # noqa: BLE001 - counted
            print(f"  {title}, number {number}: {type(error).__name__}: {str(error)[:200]}")
    print(f"{title}: {right} of {times} right, {time.monotonic() - started:.0f} s", flush=True)


def measure(space: RunningSpace, chromium: Any, hub: LocalHub, path: Path, scale: float) -> None:
    """Run all repetitions."""

    def times(count: int) -> int:
        return max(1, round(count * scale))

    visitor = Visitor(chromium, space.url)
    repetitions = Repetitions(visitor, hub, path)
    repeat("search and choose", times(200), repetitions.search)
    repeat("slow dataset, then a file", times(20), repetitions.slow_dataset_then_file)
    repeat("file, then a slow dataset", times(20), repetitions.file_then_slow_dataset)
    for slowdown in (1, 6):
        devtools = visitor.context.new_cdp_session(visitor.page)
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
        for way in WAYS:
            title = f"role by {way}, CPU slowed {slowdown}×"
            repeat(title, times(50), lambda way=way: repetitions.columns(way))  # type: ignore[misc]
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    repeat("cancel", times(50), repetitions.cancel)
    print(f"errors of the page: {visitor.errors}")
    visitor.close()


def main() -> None:
    """Start the Space and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the repetitions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, LocalHub() as hub, browser() as chromium:
        create_datasets(hub)
        path = Path(home) / "rows.jsonl"
        path.write_bytes(TRAIN)
        with running_space(hub, Path(home)) as space:
            measure(space, chromium, hub, path, arguments.scale)


if __name__ == "__main__":
    main()
