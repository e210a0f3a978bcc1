"""Repeat what visitors do on the Space's page: ``python -m tests.benchmarks.space_page``.

Prints how often each was right; `tests/space/test_repeated.py` asserts each a few times.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hf_lorameta.demo.run import DATA_FOLDER
from tests.support.fault_hub import Fault, FaultHub
from tests.support.running_space import Visitor, browser, running_space

OWNER = "ann"
NAMES = ("amber-notes", "amber-letters", "beryl-notes", "coral-list", "coral-diary")
TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
ODD = "odd-columns"
LATE_MS = 3000
"""Longer than a result can be late: what was replaced is canceled, and its reader ended."""
ROLES = ("", "input", "output")
WAYS = ("mouse", "arrows", "type and Enter", "type and Tab")


def create_datasets(hub: FaultHub) -> None:
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
        folder: for files to upload.
    """

    def __init__(self, visitor: Visitor, hub: FaultHub, folder: Path) -> None:
        self.visitor, self.hub, self.folder = visitor, hub, folder
        self.page = visitor.page
        self.random = random.Random(0)
        self.number = 0

    def search(self) -> bool:
        """Type part of a name at some speed, choose a match, and count the requests for it."""
        name = self._other_name()
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
        self.page.wait_for_timeout(1000)
        planned_and_counted = count + 2  # the plan, and right answers after it
        return self._requests() == planned_and_counted and self.visitor.errors == []

    def slow_dataset_then_file(self) -> bool:
        """Choose a file while a slow dataset is being read."""
        slow, path = f"{OWNER}/{self._other_name()}", self._file()
        with self._slow(slow):
            self.visitor.enter_dataset(slow)
            self.page.wait_for_timeout(self.random.randint(0, 800))
            self.visitor.upload(path)
            self.page.wait_for_timeout(LATE_MS)
        return self._planned(path.name)

    def file_then_slow_dataset(self) -> bool:
        """Name a slow dataset while a file is being read."""
        slow, path = f"{OWNER}/{self._other_name()}", self._file()
        with self._slow(slow):
            self.page.locator("#lm-file").set_input_files(path)
            self.page.wait_for_timeout(self.random.randint(0, 800))
            self.visitor.plan(slow)
            self.page.wait_for_timeout(LATE_MS)
        return self._planned(slow)

    def choose_role(self, way: str) -> bool:
        """Choose the other role of a column in one way, and wait for a plan with it."""
        if not self.page.get_by_label("Role of mark").count():
            self.visitor.enter_dataset(f"{OWNER}/{ODD}")
        box = self.page.get_by_label("Role of right")
        box.wait_for()
        before = box.input_value()
        wanted = "input" if before == "output" else "output"
        if way == "mouse":
            box.select_option(wanted)  # as a click on the open list does, which is not in the page
        else:
            box.focus()
            if way == "arrows":
                steps = ROLES.index(wanted) - ROLES.index(before)
                for _ in range(abs(steps)):
                    self.page.keyboard.press("ArrowDown" if steps > 0 else "ArrowUp")
            else:
                self.page.keyboard.type(wanted)
                self.page.keyboard.press("Enter" if way == "type and Enter" else "Tab")
        self.page.locator(f"[data-link*='{wanted}%3Dright']").wait_for(state="attached")
        return bool(box.input_value() == wanted)

    @contextmanager
    def slowed(self, factor: int) -> Iterator[None]:
        """Slow the page's CPU."""
        devtools = self.visitor.context.new_cdp_session(self.page)
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": factor})
        try:
            yield
        finally:
            devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})

    def cancel(self) -> bool:
        """Press Cancel at a random moment of reading a dataset or of making an adapter."""
        make, later = self.page.locator("#lm-make"), self.page.locator("#lm-verdict")
        reading = self.random.random() < 0.5
        pressed = False
        while not pressed:  # the button may not be there yet, or no more
            if reading:
                self.visitor.enter_dataset(f"{OWNER}/{self._other_name()}")
            else:
                if not make.is_visible():
                    self.visitor.plan(f"{OWNER}/{self._other_name()}")
                make.click()
                later = self.page.get_by_role("heading", name="Your adapter is ready")
            self.page.wait_for_timeout(self.random.randint(0, 1500))
            pressed = self.page.evaluate("""() => {
                const cancel = document.querySelector('#lm-cancel');
                if (!cancel?.checkVisibility()) return false;
                cancel.click();
                return true;
            }""")
        work = self.page.locator("#lm-work")
        work.get_by_text("Canceled").wait_for()
        self.page.wait_for_timeout(600)
        return work.inner_text() == "Canceled" and not later.is_visible()

    def _other_name(self) -> str:
        """Return a random name, not the one before, whose plan may still be shown."""
        self.number += self.random.randint(1, len(NAMES) - 1)
        return NAMES[self.number % len(NAMES)]

    def _file(self) -> Path:
        """Write a file to upload, with a new name."""
        path = self.folder / f"rows-{self.number}.jsonl"
        path.write_bytes(TRAIN)
        return path

    @contextmanager
    def _slow(self, repo: str) -> Iterator[None]:
        self.hub.add_fault(Fault("delay", path=f"datasets/{repo}", seconds=0.15))
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


def measure(visitor: Visitor, repetitions: Repetitions, scale: float, only: str) -> None:
    """Run the repetitions whose title contains `only`."""

    def run(title: str, times: int, action: Callable[[], bool]) -> None:
        if only in title:
            repeat(title, max(1, round(times * scale)), action)

    run("search and choose", 200, repetitions.search)
    run("slow dataset, then a file", 20, repetitions.slow_dataset_then_file)
    run("file, then a slow dataset", 20, repetitions.file_then_slow_dataset)
    for slowdown in (1, 6):
        with repetitions.slowed(slowdown):
            for way in WAYS:
                title = f"role by {way}, CPU slowed {slowdown}×"
                run(title, 50, partial(repetitions.choose_role, way))
    run("cancel", 50, repetitions.cancel)
    print(f"errors of the page: {visitor.errors}")


def main() -> None:
    """Start the Space and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the repetitions")
    parser.add_argument("--only", default="", help="part of the titles of what to repeat")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, FaultHub() as hub, browser() as chromium:
        create_datasets(hub)
        with running_space(hub, Path(home)) as space:
            visitor = Visitor(chromium, space.url)
            repetitions = Repetitions(visitor, hub, Path(home))
            measure(visitor, repetitions, arguments.scale, arguments.only)
            visitor.close()


if __name__ == "__main__":
    main()
