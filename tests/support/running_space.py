"""Run the Space as a process against the loopback Hub, and visit it with a browser."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.local_hub import LocalHub

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "space"
NO_STUBS = Path(__file__).with_name("no_stubs.py").read_text("utf-8")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_SECONDS = 300.0
WAIT_MS = 180_000
"""How long a test waits for the page; more than it takes, as other work may slow the machine."""
VERDICT_IN_VIEW = """() => {
    const [verdict, bar] = ["#lm-verdict .lm-verdict", "#lm-bar"].map(
        (place) => document.querySelector(place).getBoundingClientRect());
    return verdict.bottom <= bar.top;
}"""
"""Whether the verdict on a dataset is above the bar, to which the page scrolls."""
_LEFT = "about:blank"
"""URL of a window that its visitor has left."""
_ABORTED = re.compile("AbortError|Connection errored out|Failed to fetch")


def missing(*packages: str, browser: bool = False) -> str:
    """Return what is missing to run tests of the Space; empty if nothing is."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (extra: space, dev)"
    return "" if CHROMIUM or not browser else "no chromium is installed"


@dataclass
class RunningSpace:
    """A Space that serves its page.

    Attributes:
        url: URL of the page.
        hub: the loopback Hub that it uses.
        scratch: folder of its temporary files.
        log: file with its output.
        process: the server.
    """

    url: str
    hub: LocalHub
    scratch: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    def leftovers(self) -> list[str]:
        """Return the folders of requests that were not removed."""
        names = (path.name for path in self.scratch.glob("lm-space-*/*"))
        return sorted(name for name in names if name.startswith(("lorameta-", "reader-")))

    def settled(self, seconds: float = 180.0) -> list[str]:
        """Return the `leftovers` after finished requests had time to clean up."""
        deadline = time.monotonic() + seconds
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.leftovers()

    def memory(self, peak: bool = False) -> int:
        """Return the resident memory of the server in bytes, or the most that it had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        name = "VmHWM" if peak else "VmRSS"
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024


ON_HUB = {
    "SPACE_ID": "ann/space",
    "OAUTH_CLIENT_ID": "id",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile contribute-repos",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
}
"""What the Hub sets for a Space with a sign-in, except what makes Gradio's page contact the Hub."""


def session_cookie(user: str, token: str, secret: str = ON_HUB["OAUTH_CLIENT_SECRET"]) -> str:
    """Return the cookie that Gradio sets after a sign-in on the Hub.

    Args:
        user: who signs in.
        token: that the Hub gives.
        secret: of the Space.
    """
    from itsdangerous import TimestampSigner

    profile = {"name": user, "preferred_username": user, "profile": "", "picture": ""}
    info = {"access_token": token, "scope": "", "expires_at": time.time() + 9999}
    session = {"oauth_info": info | {"userinfo": profile}}
    signer = TimestampSigner(hashlib.sha256(f"{secret}-v4".encode()).hexdigest())
    return str(signer.sign(base64.b64encode(json.dumps(session).encode())).decode())


@contextmanager
def running_space(
    hub: LocalHub,
    home: Path,
    *,
    token: str | None = None,
    folder: Path = SPACE,
    python: str = sys.executable,
    before: str = "",
    on_hub: bool = False,
    **variables: str,
) -> Iterator[RunningSpace]:
    """Start ``python app.py`` in a folder and wait until the page is served.

    Args:
        hub: the loopback Hub.
        home: folder for caches.
        token: token saved on this machine; with `on_hub`, Gradio needs one.
        folder: the Space's files.
        python: interpreter.
        before: code that it runs first.
        on_hub: whether visitors can sign in, as on the Hub.
        variables: environment variables of the Space.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = Path(tempfile.mkdtemp(prefix="lm"))  # short, since socket paths are limited
    strip = ("HF_", "HUGGING_FACE_", "GRADIO_", "SPACE_", "OAUTH_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(strip)}
    env |= hub.env(token, home=home)
    env |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home / "gradio")}
    env |= {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    env |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    env |= {"HF_LORAMETA_NO_BASE": "1"}  # adapters are tested only where a test asks for it
    env |= (ON_HUB if on_hub else {}) | variables
    log = home / "space.log"
    url = f"http://127.0.0.1:{port}"
    run = f"{NO_STUBS}\n{before}\nimport runpy; runpy.run_path('app.py', run_name='__main__')"
    command = [python, *(("-c", run) if folder == SPACE else ("app.py",))]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            _wait_for_page(url, process, log)
            yield RunningSpace(url, hub, scratch, log, process)
        finally:
            process.terminate()
            process.wait(timeout=30)
            shutil.rmtree(scratch, ignore_errors=True)


def _wait_for_page(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30):
                return
        except (urllib.error.URLError, OSError):
            output = log.read_text(errors="replace")
            assert process.poll() is None, f"the Space exited:\n{output}"
            assert time.monotonic() < deadline, f"the Space does not respond:\n{output}"
            time.sleep(0.05)


@contextmanager
def browser() -> Iterator[Any]:
    """Start the system's chromium under Playwright."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
        flags.append("--js-flags=--no-opt")  # of pages so short, it takes longer than it saves
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield chromium
        finally:
            chromium.close()


class Visitor:
    """A browser window on the page; records the page's requests and errors.

    Args:
        browser: browser from `browser`.
        url: URL of the Space.
        context: context of visitors one after another, whose window and cache of the page's files
            save most of the time to open it; default: a new one.
        width: width of the window in pixels.
        height: height of the window in pixels.
        still: prefer reduced motion, which takes less of this machine.
        address: of the visitor, as a proxy before the server would state it.

    Attributes:
        requests: URLs that the page requested.
        errors: JavaScript and console errors, without those of requests that leaving a page ended.
    """

    def __init__(
        self,
        browser: Any,
        url: str,
        *,
        context: Any = None,
        width: int = 1280,
        height: int = 900,
        still: bool = True,
        address: str = "",
    ) -> None:
        self.context = context or browser.new_context()
        self._alone = context is None
        idle = (page for page in self.context.pages if page.url == _LEFT)
        self.page = next(idle, None) or self.context.new_page()
        self.page.bring_to_front()  # behind another window, each click takes a second
        self.page.set_viewport_size({"width": width, "height": height})
        motion = "reduce" if still else "no-preference"
        self.page.emulate_media(color_scheme="light", reduced_motion=motion)
        self.page.set_extra_http_headers({"X-Forwarded-For": address} if address else {})
        self.page.set_default_timeout(WAIT_MS)
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._handlers = {
            "request": lambda request: self.requests.append(request.url),
            "pageerror": lambda error: self.errors.append(str(error)),
            "console": self._record_message,
            "framenavigated": self._forget_aborted,
        }
        for event, handler in self._handlers.items():
            self.page.on(event, handler)
        self.open()

    def _record_message(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _forget_aborted(self, frame: Any) -> None:
        if frame == self.page.main_frame:  # another page, such as that after signing in
            self.errors = [text for text in self.errors if not _ABORTED.search(text)]

    def open(self) -> None:
        """Open the page."""
        self.page.goto(self.url)
        self.page.locator("#lm-dataset").wait_for()

    def foreign_requests(self) -> list[str]:
        """Return the requests to hosts other than the Space."""
        own = (self.url, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(own)]

    def sign_in(self, user: str, token: str) -> None:
        """Come back from the Hub's sign-in."""
        cookie = {"name": "session", "value": session_cookie(user, token), "url": self.url}
        self.context.add_cookies([cookie])
        self.page.goto(f"{self.url}?{urlsplit(self.page.url).query}")
        self.page.locator("#lm-dataset").wait_for()

    def enter_dataset(self, dataset: str) -> None:
        """Type a dataset id and press Enter."""
        box = self.page.get_by_role("combobox", name="Name or link of a dataset")
        box.fill(dataset)
        box.press("Enter")

    def plan(self, dataset: str) -> None:
        """Enter a dataset id and wait for its verdict."""
        self.enter_dataset(dataset)
        self.wait_for_plan(dataset)

    def wait_for_plan(self, dataset: str) -> None:
        """Wait for the verdict on a dataset."""
        name = dataset.replace("/", "%2F")
        self.page.locator(f"[data-link*='dataset={name}']").wait_for(state="attached")
        self.page.locator("#lm-verdict .lm-verdict").wait_for()
        self.page.locator("#lm-make").wait_for()

    def upload(self, path: Path) -> None:
        """Choose a file and wait for its verdict."""
        self.page.locator("#lm-file").set_input_files(path)
        self.page.locator(f"#lm-verdict [data-announce^='{path.name}']").wait_for()
        self.page.locator("#lm-make").wait_for()

    def make(self) -> None:
        """Make the adapter and wait for it."""
        self.page.locator("#lm-make").click()
        ready = re.compile("Your adapter is ready|First version, not yet trained")
        self.page.get_by_role("heading", name=ready).wait_for()
        self.wait_for_end()

    def save(self) -> None:
        """Save the adapter to the Hub, and wait for that."""
        self.page.get_by_role("button", name="Save to Hub").click()
        saved = self.page.locator("#lm-saved").get_by_text("Your adapter is on the Hub")
        anyway = self.page.locator("#lm-save-anyway")  # asked if it is unlikely to help
        saved.or_(anyway).first.wait_for()
        if anyway.is_visible():
            anyway.click()
        self.page.locator("#lm-saved").get_by_text("Your adapter is on the Hub").wait_for()
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until no request of the page runs: its Cancel button would be that of the next."""
        self.page.locator("#lm-cancel").wait_for(state="hidden")

    def open_section(self, title: str) -> None:
        """Open an accordion."""
        self.page.locator("button.label-wrap", has_text=title).click()

    def open_all_sections(self) -> None:
        """Open all accordions."""
        for button in self.page.locator("button.label-wrap:visible").all():
            if "open" not in str(button.get_attribute("class")).split():
                button.click()
        self.page.wait_for_function("""() => ![...document.querySelectorAll(
            'button.label-wrap:not(.open)')].some((e) => e.checkVisibility())""")
        self.page.wait_for_timeout(500)

    @contextmanager
    def held(self, url: "re.Pattern[str]") -> Iterator[Callable[[], None]]:
        """Hold what the page sends to a URL; at the end, let it go and wait for an answer.

        Yields:
            A function that waits until something is held.
        """
        held: list[Any] = []
        self.page.route(url, lambda route: held.append(route))

        def wait_for_one() -> None:
            deadline = time.monotonic() + WAIT_MS / 1000
            while not held:
                assert time.monotonic() < deadline, f"nothing was sent to {url.pattern}"
                self.page.wait_for_timeout(20)

        yield wait_for_one
        wait_for_one()
        self.page.route(url, lambda route: route.continue_())  # comes before the first
        with self.page.expect_response(url):
            for route in held:
                route.continue_()

    def visible_text(self) -> str:
        """Return the visible text of the page, without blocks of code."""
        return str(
            self.page.evaluate("""() => {
            const seen = [...document.querySelectorAll('.lm-text')];
            seen.forEach((e) => { e.dataset.shown = e.style.display; e.style.display = 'none'; });
            const text = document.body.innerText;
            seen.forEach((e) => { e.style.display = e.dataset.shown; });
            return text;
        }""")
        )

    def wait_for_error(self, message: str = "") -> None:
        """Wait for an error that contains a message."""
        self.page.get_by_role("alert").filter(has_text=message).first.wait_for()

    def close(self) -> None:
        """Leave the page, and sign out."""
        if self._alone:
            self.context.close()
            return
        for event, handler in self._handlers.items():
            self.page.remove_listener(event, handler)
        self.page.unroute_all(behavior="ignoreErrors")
        self.page.evaluate("sessionStorage.clear(); lorametaVisit = null")  # stored as one leaves
        self.page.goto(_LEFT)
        self.context.clear_cookies()
