"""Run commands under injected faults and check the results; see `tests.benchmarks.fault_injection`.

A command runs in its own process against a loopback Hub, on its own disk, under one fault. It must
either succeed, or end with two lines that state the problem and succeed when it is run again on
the files that the first run left. The result must be byte-identical to an undisturbed run's.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from hf_lorameta.bank.bank import Bank
from tests.conftest import BASE, Account, Done, Shell, tokenizer_json, tree
from tests.support.fault_hub import Fault, FaultHub, FaultKind

COMMANDS = ("build", "extend", "plan", "push")
DISK_MB = 256
EXPECTED_EXIT_CODES = (0, 3, 4, 5, 6)
"""Exit codes of dataset, bank, adapter and Hub errors, and of a build with skipped entries."""
RECORD_SLEEP = """
import os, time
import datasets.utils.file_utils, hf_lorameta.hub.retry, huggingface_hub.utils._http

class Clock:
    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, seconds):
        with open(os.environ["SLEPT"], "a") as file:
            file.write(f"{seconds}\\n")

for module in (datasets.utils.file_utils, hf_lorameta.hub.retry, huggingface_hub.utils._http):
    module.time = Clock()
"""
"""Code that makes a command record its waits for the Hub instead of sleeping."""
NOTHING: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class Case:
    """One fault to inject.

    Attributes:
        row: title of its table row.
        key: unique within that row.
        run: returns whether the command succeeded under the fault; otherwise it reported the
            problem and succeeded when run again. Raises `CaseFailedError` if it did neither.
    """

    row: str
    key: str
    run: Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        row: of the case.
        at_once: whether the command succeeded under the fault.
        failed: what it did wrong, if anything.
        searched: number of files and streams that were searched for the token.
        leaks: those that contained it.
    """

    row: str
    at_once: bool
    failed: str
    searched: int
    leaks: list[str]


@dataclass(frozen=True)
class Request:
    """A request of an undisturbed run: the `nth` with this method and path pattern."""

    method: str
    path: str
    nth: int
    sent: int
    received: int

    @property
    def key(self) -> str:
        return f"{self.method} {self.path} #{self.nth}"

    def fault(self, kind: FaultKind, **settings: Any) -> Fault:
        """Return a fault of this request only."""
        own: dict[str, Any] = {
            "path": self.path,
            "method": self.method,
            "skip": self.nth,
            "times": 1,
        }
        return Fault(kind, **own | settings)


def pattern(path: str, name: str) -> str:
    """Return a regular expression for the path of the same request in any world and run."""
    escaped = re.escape(path.replace(name, "NAME"))
    return f"^{re.sub(r'[0-9a-f]{64}|[0-9a-f]{40}', '[0-9a-f]+', escaped)}$"


class CaseFailedError(Exception):
    """A command did not behave as it must."""


def expect(condition: object, problem: object) -> None:
    """Raise `CaseFailedError` unless the condition holds."""
    if not condition:
        raise CaseFailedError(str(problem))


def mount(*words: object) -> int:
    """Run ``mount``; return its exit code."""
    done = subprocess.run(["mount", *map(str, words)], check=False, capture_output=True)
    return done.returncode


class DiskShell(Shell):
    """Runs commands with their temporary files on the disk under test."""

    def env(self, token: str | None = None) -> dict[str, str]:
        return super().env(token) | {"TMPDIR": str(self.home.parent / "tmp")}


class World:
    """A loopback Hub with a bank, a disk, and the commands under test.

    Args:
        scratch: empty folder.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.disk = scratch, scratch / "disk"
        self.hub = FaultHub()
        self.searched, self.leaks = 0, list[str]()
        self._numbers = count()
        self._expected: dict[tuple[str, str], dict[str, bytes]] = {}

    # --- setup ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as undo:  # also cleans up after an error in the setup
            self._set_up(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _set_up(self, undo: ExitStack) -> None:
        undo.enter_context(self.hub)
        self.disk.mkdir()
        self.mounted = not mount("-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", self.disk)
        if self.mounted:
            undo.callback(subprocess.run, ["umount", str(self.disk)], check=True)
        for name in ("home", "work", "tmp"):
            (self.disk / name).mkdir()
        self.hub.add_user("base")
        self.hub.create_repo(BASE)
        self.hub.commit(BASE, {"tokenizer.json": tokenizer_json()})
        self.shell = DiskShell(self.hub, self.disk / "home")
        undo.callback(self.shell.close)
        self.shell.cwd = self.disk / "work"
        self.owner = Account(self.hub, "owner", self.hub.add_user("owner"))
        for topic in range(4):
            self.owner.entry(f"e{topic}", topic)
        self.all = self.owner.manifest(self.disk / "work/all.yaml")
        self.foldable = self.owner.manifest(self.disk / "work/few.yaml", self.owner.entries[:2])
        self.folder = self.disk / "work/bank"
        self.fewer = self.disk / "work/fewer"
        self.run(("bank", "build", self.all, "-o", self.folder, "-q"))
        self.run(("bank", "build", self.foldable, "-o", self.fewer, "-q"))
        self.run(("bank", "push", self.folder, "owner/bank"))

    def words(self, command: str, name: str) -> tuple[object, ...]:
        """Return a command line; `name` differs in each run."""
        bank, data = "owner/bank", "owner/e1"
        return {
            "build": ("bank", "build", self.foldable, "-o", name, "-q"),
            "extend": ("bank", "build", self.all, "-o", name, "-q"),
            "build all": ("bank", "build", self.all, "-o", name, "-q"),
            "plan": ("plan", "-d", data, "--bank", bank, "-q", "--json"),
            "push": ("push", "-d", data, "--bank", bank, "-q", "--overwrite",
                     "--repo-id", f"owner/{name}"),
            "pack": ("bank", "pack", self.folder, "-o", name, "-q"),
            "generate": ("generate", "-d", data, "--bank", self.folder, "-o", name, "-q"),
        }[command]  # fmt: skip

    # --- running --------------------------------------------------------------------------------

    def run(self, words: tuple[object, ...], **options: Any) -> Done:
        """Run a command and search its output for the token."""
        slept = self.scratch / "slept"
        slept.unlink(missing_ok=True)
        options |= {"code": None, "before": RECORD_SLEEP, "SLEPT": str(slept)}
        try:
            done = self.shell(*words, token=self.owner.token, **options)
        except AssertionError as error:  # more than two lines, or the token
            raise CaseFailedError(f"printed {str(error)[-300:]!r}") from None
        self.search_token(done.out + done.err, "printed")
        return done

    def slept(self) -> list[float]:
        """Return the seconds of each wait of the last command."""
        path = self.scratch / "slept"
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def search_token(self, content: str | bytes, where: str) -> None:
        """Search for the token; count searches and leaks."""
        content = content if isinstance(content, bytes) else content.encode()
        self.searched += 1
        if self.owner.token.encode() in content:
            self.leaks.append(where)

    def result(self, command: str, name: str, done: Done) -> dict[str, bytes]:
        """Return the files or the output that a command produced."""
        if command == "plan":
            return {"out": done.out.encode()}
        if command == "push":
            files = self.published(name)
            return {k: v.replace(name.encode(), b"NAME") for k, v in files.items()}
        folder = self.shell.cwd / name
        files = tree(folder) if folder.exists() else {}
        return {k: v for k, v in files.items() if not k.startswith(".cache/")}

    def published(self, name: str) -> dict[str, bytes]:
        """Return the files of the repo that a push created."""
        repo = f"owner/{name}"
        if self.hub.repo(repo) is None:
            return {}
        return {f: self.hub.read(repo, f) for f in self.hub.files(repo)}

    def expected(self, command: str, state: str = "") -> dict[str, bytes]:
        """Return the result of an undisturbed run with the repos in some state."""
        if (command, state) not in self._expected:
            with self.undisturbed(command) as (name, done, _):
                self._expected[command, state] = self.result(command, name, done)
        return self._expected[command, state]

    @contextmanager
    def undisturbed(self, command: str) -> Iterator[tuple[str, Done, float]]:
        """Run a command without a fault."""
        self.hub.clear_faults()
        name = self.fresh(command)
        began = time.monotonic()
        done = self.run(self.words(command, name))
        seconds = time.monotonic() - began
        if done.code:
            raise AssertionError(f"{command} fails undisturbed: {done.err}")
        yield name, done, seconds
        self.clear(name)

    def trace(self, command: str) -> list[Request]:
        """Return every request of an undisturbed run."""
        requests: list[Request] = []
        with self.undisturbed(command) as (name, _, _):
            times: dict[tuple[str, str], int] = {}
            for record in self.hub.requests:
                at = record.method, pattern(record.path, name)
                nth = times[at] = times.get(at, -1) + 1
                requests.append(Request(*at, nth, record.bytes_sent, record.bytes_received))
        return sorted(requests, key=lambda request: request.key)

    def fresh(self, command: str) -> str:
        """Empty the cache and the log of requests; return a new name for a command's result."""
        shutil.rmtree(self.shell.home, ignore_errors=True)
        self.shell.home.mkdir()
        self.hub.clear_requests()
        return self.named(command)

    def named(self, command: str) -> str:
        """Return a new name for a command's result."""
        name = f"target{next(self._numbers)}"
        if command == "extend":
            shutil.copytree(self.fewer, self.shell.cwd / name)
        return name

    def clear(self, name: str) -> None:
        """Search all written files for the token, then remove them."""
        for path in self.disk.rglob("*"):
            if path.is_file():
                self.search_token(path.read_bytes(), str(path.relative_to(self.disk)))
        for file, content in self.published(name).items():
            self.search_token(content, f"published {file}")
        shutil.rmtree(self.shell.cwd / name, ignore_errors=True)
        for path in (self.disk / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --- running a case -------------------------------------------------------------------------

    def case(self, case: Case) -> Outcome:
        """Run a case."""
        self.searched, self.leaks = 0, []
        at_once, failed = False, ""
        try:
            at_once = case.run()
        except CaseFailedError as error:
            failed = f"{case.key}: {error}"
        self.hub.clear_faults()
        return Outcome(case.row, at_once, failed, self.searched, self.leaks)

    def prepare(self, command: str) -> str:
        """Compute the expected result of a command; return a name for its next run."""
        self.expected(command)
        return self.fresh(command)

    def check(
        self,
        command: str,
        name: str,
        *faults: Fault,
        repair: Callable[[], object] = lambda: None,
        states: tuple[str, ...] = ("",),
        extra: Mapping[str, bytes] = NOTHING,
        inspect: Callable[[Done, bool], object] = lambda disturbed, succeeded: None,
    ) -> bool:
        """Run a command under faults, and again without them if it reported a problem.

        Args:
            command: the command.
            name: returned by `prepare`.
            faults: to inject; at least one must take effect.
            repair: undoes other disturbances before the second run.
            states: of the repos; the result must be that of one of them.
            extra: files that the result must contain as well.
            inspect: called with the outcome of the first run, and whether it succeeded.

        Returns:
            Whether the first run succeeded.
        """
        for fault in faults:
            self.hub.add_fault(replace(fault, path=fault.path.replace("NAME", name)))
        disturbed = self.run(self.words(command, name))
        struck = any(record.fault for record in self.hub.requests)
        self.hub.clear_faults()
        repair()
        expect(struck or not faults, "the fault had no effect")
        skipped = (
            command.startswith(("build", "extend")) and not disturbed.code and self.skipped(name)
        )
        succeeded = disturbed.code == 0 and not skipped
        inspect(disturbed, succeeded)
        if succeeded:
            self.compare(command, name, disturbed, states, extra)
        else:
            reported = disturbed.code in EXPECTED_EXIT_CODES or _is_disk_error(disturbed)
            expect(reported, f"exit {disturbed.code}: {disturbed.err[-200:]}")
            self.run_again(command, name, extra)
        self.clear(name)
        return succeeded

    def run_again(self, command: str, name: str, extra: Mapping[str, bytes] = NOTHING) -> None:
        """Run a command again, which must give the result of an undisturbed run."""
        done = self.run(self.words(command, name))
        expect(done.code == 0, f"run again: exit {done.code}: {done.err[-200:]}")
        self.compare(command, name, done, extra=extra)

    def compare(
        self,
        command: str,
        name: str,
        done: Done,
        states: tuple[str, ...] = ("",),
        extra: Mapping[str, bytes] = NOTHING,
    ) -> None:
        """Check that the result is that of an undisturbed run in one of the states."""
        result = self.result(command, name, done)
        expected = [{**self.expected(command, state), **extra} for state in states]
        if result not in expected:
            first = expected[0]
            names = sorted(k for k in {*result, *first} if result.get(k) != first.get(k))
            raise CaseFailedError(f"other bytes: {names}")

    def skipped(self, name: str) -> bool:
        """Return whether a built bank lacks an entry."""
        return bool(Bank(self.shell.cwd / name).index.skipped)


def _is_disk_error(done: Done) -> bool:
    """Whether the command named a file that it cannot use."""
    return done.code == 1 and "cannot be used" in done.err and "unexpected" not in done.err
