"""The Space as a process of its own, against the loopback Hub, and a browser to look at it."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_lorameta.localhub import LocalHub

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "space"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_SECONDS = 90.0


def missing(*packages: str, browser: bool = False) -> str:
    """Why tests of the Space cannot run here; empty if they can."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (extra: space, dev)"
    return "" if CHROMIUM or not browser else "no chromium is installed"


@dataclass
class RunningSpace:
    """A Space that answers.

    Attributes:
        url: of the page.
        hub: the loopback Hub it talks to.
        scratch: its temporary files.
        log: what it prints.
        process: the server.
        seconds: it took to answer.
    """

    url: str
    hub: LocalHub
    scratch: Path
    log: Path
    process: "subprocess.Popen[bytes]"
    seconds: float

    def leftovers(self) -> list[str]:
        """Folders of requests that were not removed."""
        found = (path.name for path in self.scratch.glob("*lorameta-*"))
        return sorted(name for name in found if not name.startswith("hf-lorameta-wheel-"))

    def settled(self, seconds: float = 10.0) -> list[str]:
        """`leftovers`, once ended requests have had time to clear up."""
        deadline = time.monotonic() + seconds
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.leftovers()

    def memory(self) -> int:
        """Bytes of memory the server holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


@contextmanager
def running_space(
    hub: LocalHub,
    home: Path,
    *,
    token: str | None = None,
    folder: Path = SPACE,
    python: str = sys.executable,
    **variables: str,
) -> Iterator[RunningSpace]:
    """Start ``python app.py`` in a folder and wait until the page is served.

    Args:
        hub: what the Space takes for the Hub.
        home: for its caches.
        token: saved on this machine, for the sign-in that Gradio plays outside of Spaces.
        folder: the Space's root.
        python: interpreter.
        variables: of the Space.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = Path(tempfile.mkdtemp(prefix="lm"))  # short: sockets are made below it
    strip = ("HF_", "HUGGING_FACE_", "GRADIO_", "SPACE_", "OAUTH_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(strip)}
    env |= hub.env(token, home=home)
    env |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "gradio")}
    env |= {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | variables
    log = home / "space.log"
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "app.py"], cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            _await(url, process, log)
            yield RunningSpace(url, hub, scratch, log, process, time.monotonic() - began)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            told = log.read_text(errors="replace")
            assert process.poll() is None, f"the Space ended:\n{told}"
            assert time.monotonic() < deadline, f"the Space does not answer:\n{told}"
            time.sleep(0.05)


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


class Visitor:
    """Somebody with a browser; notes what the page asks of whom, and what it complains of.

    Args:
        browser: of `browser`.
        url: of the Space.
        dark: prefers dark pages.
        width: of the window, in pixels.
        height: of the window, in pixels.
    """

    def __init__(
        self, browser: Any, url: str, *, dark: bool = False, width: int = 1280, height: int = 900
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.url = url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        self.open()

    def open(self) -> None:
        """Go to the page and wait for the bank."""
        self.page.goto(self.url)
        self.page.get_by_text("every file checked").wait_for()

    def foreign(self) -> list[str]:
        """Requests to other hosts than the Space's own."""
        own = (self.url, "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]

    def sign_in(self) -> None:
        """As Gradio plays it outside of Spaces."""
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_text("Signed in as").wait_for()

    def name(self, dataset: str) -> None:
        """Type a dataset id and press Enter."""
        box = self.page.get_by_label("Dataset id")
        box.fill(dataset)
        box.press("Enter")

    def plan(self, dataset: str) -> None:
        """Name a dataset and wait for its plan."""
        self.name(dataset)
        self.page.locator("#lm-plan .lm-bars").wait_for()
        self.page.locator("#lm-map svg").wait_for()

    def error(self) -> str:
        """What the page says went wrong."""
        box = self.page.get_by_role("alert").first
        box.wait_for()
        return str(box.inner_text())

    def close(self) -> None:
        """Close the window."""
        self.context.close()
