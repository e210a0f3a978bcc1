"""Run commands under injected faults and check the results; see `tests.benchmarks.fault_cases`.

A command runs in its own process against a loopback Hub, on its own disk, under one fault. It must
either succeed, or end with two lines that state the problem and succeed when it is run again on
the files that the first run left. The result must be byte-identical to an undisturbed run's.
"""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import WORK_FOLDER
from tests.conftest import BASE, Account, Done, Shell, rows, tokenizer_json, tree
from tests.support.fault_hub import Fault, FaultHub

COMMANDS = ("build", "add", "plan", "push")
DISK_MB = 256
PAGE = 4096
ROOT = Path(__file__).parents[2]
EXPECTED_EXIT_CODES = (3, 4, 5, 6)
"""Exit codes of dataset, bank, adapter and Hub errors."""
RETRY_AFTER = 7
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


@dataclass(frozen=True)
class Case:
    """One fault to inject.

    Attributes:
        row: title of its table row.
        key: unique within that row.
        kind: a method of `World`.
        arguments: of that method, as plain JSON.
    """

    row: str
    key: str
    kind: str
    arguments: Mapping[str, Any]


@dataclass
class Tally:
    """Outcomes of cases.

    Attributes:
        runs: number of cases.
        at_once: number that succeeded under the fault.
        repeated: number that reported the problem and succeeded when run again.
        failed: descriptions of those that did neither.
        read: number of files and streams that were searched for the token.
        leaks: those that contained it.
        note: MB of memory that fuzzed inputs needed.
    """

    runs: int = 0
    at_once: int = 0
    repeated: int = 0
    failed: list[str] = field(default_factory=list)
    read: int = 0
    leaks: list[str] = field(default_factory=list)
    note: float = 0.0


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

    def fault(self, **fault: Any) -> dict[str, Any]:
        """A fault of this request only."""
        own = {"path": self.path, "method": self.method, "skip": self.nth, "times": 1}
        return own | fault


def pattern(path: str, name: str) -> str:
    """A regular expression for the path of the same request in any world and run."""
    escaped = re.escape(path.replace(name, "NAME"))
    return f"^{re.sub(r'[0-9a-f]{64}|[0-9a-f]{40}', '[0-9a-f]+', escaped)}$"


class CaseFailedError(Exception):
    """A command did not behave as it must."""


def expect(condition: object, problem: object) -> None:
    """Raise `CaseFailedError` unless the condition holds."""
    if not condition:
        raise CaseFailedError(str(problem))


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
        self.read, self.leaks = 0, list[str]()
        self._numbers = count()
        self._expected: dict[tuple[str, str], dict[str, bytes]] = {}
        self._states: dict[tuple[str, ...], Any] = {}
        self._seconds: dict[str, float] = {}

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
        self.mounted = not _mount("-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", self.disk)
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
        self.few = self.owner.manifest(self.disk / "work/few.yaml", self.owner.entries[:2])
        self.folder = self.disk / "work/bank"
        self.fewer = self.disk / "work/fewer"
        self.run(("bank", "build", self.all, "-o", self.folder, "-q"))
        self.run(("bank", "build", self.few, "-o", self.fewer, "-q"))
        self.run(("bank", "push", self.folder, "owner/bank"))

    def words(self, command: str, name: str) -> tuple[object, ...]:
        """A command line; `name` differs in each run."""
        bank, data = "owner/bank", "owner/e1"
        return {
            "build": ("bank", "build", self.few, "-o", name, "-q"),
            "add": ("bank", "add", name, self.all, "-q"),
            "build all": ("bank", "build", self.all, "-o", name, "-q"),
            "plan": ("plan", "-d", data, "--bank", bank, "-q", "--json"),
            "push": ("push", "-d", data, "--bank", bank, "-q", "--overwrite",
                     "--repo-id", f"owner/{name}"),
            "pack": ("bank", "pack", self.folder, "-o", name, "-q"),
            "generate": ("generate", "-d", data, "--bank", self.folder, "-o", name, "-q"),
        }[command]  # fmt: skip

    # --- running --------------------------------------------------------------------------------

    def run(self, words: tuple[object, ...], before: str = RECORD_SLEEP, **options: Any) -> Done:
        """Run a command and search its output for the token."""
        slept = self.scratch / "slept"
        slept.unlink(missing_ok=True)
        try:
            done = self.shell(
                *words,
                token=self.owner.token,
                code=None,
                before=before,
                SLEPT=str(slept),
                **options,
            )
        except AssertionError as error:  # more than two lines, or the token
            raise CaseFailedError(f"printed {str(error)[-300:]!r}") from None
        self.search_token(done.out + done.err, "printed")
        return done

    def slept(self) -> list[float]:
        """Seconds of each wait of the last command."""
        path = self.scratch / "slept"
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def search_token(self, content: str | bytes, where: str) -> None:
        """Search for the token; count searches and leaks."""
        content = content if isinstance(content, bytes) else content.encode()
        self.read += 1
        if self.owner.token.encode() in content:
            self.leaks.append(where)

    def result(self, command: str, name: str, done: Done) -> dict[str, bytes]:
        """The files or the output that a command produced."""
        if command == "plan":
            return {"out": done.out.encode()}
        if command == "push":
            files = self.published(name)
            return {k: v.replace(name.encode(), b"NAME") for k, v in files.items()}
        folder = self.shell.cwd / name
        files = tree(folder) if folder.exists() else {}
        return {k: v for k, v in files.items() if not k.startswith(".cache/")}

    def published(self, name: str) -> dict[str, bytes]:
        """The files of the repo that a push created."""
        repo = f"owner/{name}"
        if self.hub.repo(repo) is None:
            return {}
        return {f: self.hub.read(repo, f) for f in self.hub.files(repo)}

    def expected(self, command: str, state: str = "") -> dict[str, bytes]:
        """The result of an undisturbed run with the repos in some state."""
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
        """Every request of an undisturbed run."""
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
        if command == "add":
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

    def case(self, case: Case) -> Tally:
        """Run a case."""
        self.read, self.leaks = 0, []
        tally = Tally()
        try:
            outcome = getattr(self, case.kind)(**case.arguments)
        except CaseFailedError as error:
            tally.runs, tally.failed = 1, [f"{case.key}: {error}"]
        else:
            if isinstance(outcome, Tally):
                tally = outcome
            else:
                tally.runs, tally.at_once, tally.repeated = 1, int(outcome), int(not outcome)
        self.hub.clear_faults()
        tally.read, tally.leaks = tally.read + self.read, [*tally.leaks, *self.leaks]
        return tally

    def prepare(self, command: str, *states: str) -> str:
        """Compute the expected results of a command; return a name for its next run."""
        for state in ("", *states):
            self.expected(command, state)
        return self.fresh(command)

    def check(
        self,
        command: str,
        name: str,
        *faults: Fault,
        repair: Callable[[], object] = lambda: None,
        states: tuple[str, ...] = ("",),
        extra: Mapping[str, bytes] = MappingProxyType({}),
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
            fault.path = fault.path.replace("NAME", name)
            self.hub.add_fault(fault)
        words = self.words(command, name)
        disturbed = self.run(words)
        struck = any(record.fault for record in self.hub.requests)
        self.hub.clear_faults()
        repair()
        expect(struck or not faults, "the fault had no effect")
        skipped = command.startswith(("build", "add")) and not disturbed.code and self.skipped(name)
        succeeded = disturbed.code == 0 and not skipped
        inspect(disturbed, succeeded)
        if succeeded:
            self.compare(command, name, disturbed, states, extra)
        else:
            reported = disturbed.code in (*EXPECTED_EXIT_CODES, 0) or _is_disk_error(disturbed)
            expect(reported, f"exit {disturbed.code}: {disturbed.err[-200:]}")
            self.run_again(words, command, name, extra)
        self.clear(name)
        return succeeded

    def run_again(
        self,
        words: tuple[object, ...],
        command: str,
        name: str,
        extra: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Run a command again, which must give the result of an undisturbed run."""
        done = self.run(words)
        expect(done.code == 0, f"run again: exit {done.code}: {done.err[-200:]}")
        self.compare(command, name, done, extra=extra)

    def compare(
        self,
        command: str,
        name: str,
        done: Done,
        states: tuple[str, ...] = ("",),
        extra: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Check that the result is that of an undisturbed run in one of the states."""
        result = self.result(command, name, done)
        expected = [{**self.expected(command, state), **extra} for state in states]
        if result not in expected:
            first = expected[0]
            names = sorted(k for k in {*result, *first} if result.get(k) != first.get(k))
            raise CaseFailedError(f"other bytes: {names}")

    def skipped(self, name: str) -> bool:
        """Whether a built bank lacks an entry."""
        return bool(Bank(self.shell.cwd / name).index.skipped)

    # --- kinds of cases -------------------------------------------------------------------------

    def fault(self, command: str, fault: dict[str, Any]) -> bool:
        """Disturb a request."""
        retried = fault["kind"] == "status" and fault["times"] is not None
        inspect = partial(self._check_waits, fault) if retried else lambda *_: None
        return self.check(command, self.prepare(command), Fault(**fault), inspect=inspect)

    def passing(self, command: str, fault: dict[str, Any]) -> bool:
        """Disturb a request once, which must not end the command."""

        def inspect(disturbed: Done, succeeded: bool) -> None:
            expect(succeeded, f"ended: exit {disturbed.code}: {disturbed.err[-300:]}")

        return self.check(command, self.prepare(command), Fault(**fault), inspect=inspect)

    def _check_waits(self, fault: dict[str, Any], disturbed: Done, succeeded: bool) -> None:
        """Check that the command waited after every error, at least as long as Retry-After.

        Except after the last error before it gives up or skips an entry, and after the first HEAD
        of a file, which the client repeats once without waiting.
        """
        least = fault["retry_after"] or 0.1
        struck = sum(r.fault == "status" for r in self.hub.requests)
        waits = sum(seconds >= least for seconds in self.slept())
        expect(
            waits >= struck - (not succeeded) - (fault["method"] == "HEAD"),
            f"{struck} errors and waits {self.slept()}, expected {least} each",
        )

    def repo(
        self, command: str, repo: tuple[str, str], change: str, request: dict[str, Any]
    ) -> bool:
        """Commit to a repo or delete it just before a request is answered."""
        kind, repo_id = repo
        before, after = self.states(command, kind, repo_id, change)
        act = partial(self.put, kind, repo_id, after)
        fault = Fault(**Request(**request).fault(kind="callback", callback=act))
        repair = partial(self.put, kind, repo_id, before)
        states = ("", f"{kind} {repo_id} changed") if change == "changed" else ("",)
        try:
            return self.check(command, self.prepare(command), fault, repair=repair, states=states)
        finally:
            repair()

    def states(self, command: str, kind: str, repo_id: str, change: str) -> tuple[Any, Any]:
        """A repo before and after a change; computes the results for both."""
        at = kind, repo_id
        if at not in self._states:
            self._states[at] = self.get(kind, repo_id)
        before = self._states[at]
        if change == "deleted":
            return before, None
        if (*at, change) not in self._states:
            self.hub.commit(repo_id, self.other_files(kind, repo_id), repo_type=kind)
            self._states[*at, change] = self.get(kind, repo_id)
        after = self._states[*at, change]
        self.put(kind, repo_id, after)
        self.expected(command, f"{kind} {repo_id} {change}")
        self.put(kind, repo_id, before)
        self.expected(command)
        return before, after

    def other_files(self, kind: str, repo_id: str) -> dict[str, bytes]:
        """Files of another commit."""
        if repo_id == "owner/bank":
            return {"README.md": b"Now under new management\n"}
        if kind == "dataset":
            return {"train.jsonl": rows(3, 12)}
        return {"notes.txt": b"trained again\n"}

    def get(self, kind: str, repo_id: str) -> Any:
        """Copy a repo of the Hub; None if there is none."""
        state = self.hub._hub
        with state.lock:
            return copy.deepcopy(state.repos.get((kind, repo_id)))

    def put(self, kind: str, repo_id: str, repo: Any) -> None:
        """Replace a repo by a copy of another one; None deletes it."""
        state = self.hub._hub
        with state.lock:
            state.repos.pop((kind, repo_id), None)
            if repo is not None:
                state.repos[kind, repo_id] = copy.deepcopy(repo)

    def target(self, change: str, request: dict[str, Any]) -> bool:
        """Change or delete the repo that a push creates, just before a request is answered."""
        name, theirs = self.prepare("push"), {"theirs.txt": b"theirs\n"}
        repo = f"owner/{name}"

        def act() -> None:
            if change == "deleted":
                self.put("model", repo, None)
                return
            if self.hub.repo(repo) is None:
                self.hub.create_repo(repo)
            self.hub.commit(repo, theirs)

        fault = Fault(**Request(**request).fault(kind="callback", callback=act))
        return self.check("push", name, fault, extra=theirs if change == "changed" else {})

    def kill(self, command: str, share: float) -> bool:
        """Send SIGKILL after a share of a run's duration, then run the command again."""
        for attempt in range(8):
            name = self.prepare(command)
            words = self.words(command, name)
            after = share * 0.9**attempt * self.seconds(command)
            done = self.run(words, kill_after=after)
            if done.code == -signal.SIGKILL:
                break
            expect(done.code == 0, f"exit {done.code}: {done.err[-200:]}")
            self.clear(name)
            del self._seconds[command]  # measure again: the machine is faster now
        else:
            raise CaseFailedError("ended before it was killed, eight times")
        finished = self.finished(command, name)
        files = set(self.published(name))
        complete = set(self.expected("push")) if files - {".gitattributes"} else files
        expect(files == complete, f"incomplete repo: {files}")
        self.hub.clear_requests()
        self.run_again(words, command, name)
        paths = [request.path for request in self.hub.requests]
        again = [file for file in finished if any(file in path for path in paths)]
        expect(not again, f"fetched again: {again}")
        self.clear(name)
        return False

    def seconds(self, command: str) -> float:
        """Duration of an undisturbed run."""
        if command not in self._seconds:
            with self.undisturbed(command) as (_, _, seconds):
                self._seconds[command] = seconds
        return self._seconds[command]

    def finished(self, command: str, name: str) -> list[str]:
        """Parts of request paths that name the entries a killed command had finished."""
        folder = self.shell.cwd / name
        if command.startswith("build"):
            records = (folder / WORK_FOLDER).glob("*.json")
            return [p.stem.replace("--", "/") for p in records if p.stem != "seen"]
        return []

    def full_disk(self, command: str, pages: int) -> bool:
        """Fill the disk up to some free pages."""
        name = self.prepare(command)
        size = (self.used() + pages) * PAGE
        expect(not _mount("-o", f"remount,size={size}", self.disk), "cannot shrink the disk")
        repair = partial(_mount, "-o", f"remount,size={DISK_MB}m", self.disk)
        return self.check(command, name, repair=repair)

    def used(self) -> int:
        """Number of used pages of the disk."""
        disk = os.statvfs(self.disk)
        return disk.f_blocks - disk.f_bfree

    def pages(self, command: str) -> int:
        """Number of pages that an undisturbed run fills."""
        self.fresh(command)
        used = self.used()
        with self.undisturbed(command):
            return self.used() - used

    def read_only_disk(self, command: str) -> bool:
        """Mount the disk read-only."""
        name = self.prepare(command)
        expect(not _mount("-o", "remount,ro", self.disk), "cannot make the disk read-only")
        repair = partial(_mount, "-o", "remount,rw", self.disk)

        def inspect(disturbed: Done, _: bool) -> None:
            reported = any(words in disturbed.err for words in ("could not be", "cannot be"))
            expect(disturbed.code == 0 or reported, disturbed.err[-200:])

        try:
            return self.check(command, name, repair=repair, inspect=inspect)
        finally:
            repair()

    def place(self, command: str, place: str, state: str) -> bool:
        """Run a command where one folder cannot be written, which has to be blamed for an error."""
        name = self.prepare(command)
        if "warm" in state:
            with self.undisturbed(command):
                pass  # its files stay in the cache
            name = self.named(command)
        folders = {"cache": self.shell.home, "tmp": self.disk / "tmp"}
        folder = folders.get(place, self.shell.cwd / name)
        if state == "missing":
            folder.rmdir()
            folder.touch()
            repair: Callable[[], object] = folder.unlink
        else:
            folder.mkdir(exist_ok=True)
            size = "size=8k" if state == "full" else "size=64m"
            options: tuple[str, ...] = ("-t", "tmpfs", "-o", size, "tmpfs")
            options = ("--bind", str(folder)) if "read-only" in state else options
            expect(not _mount(*options, folder), "cannot mount")
            repair = partial(subprocess.run, ["umount", str(folder)], check=True)
            if "read-only" in state:
                _mount("-o", "remount,ro,bind", folder)
            if state == "full":
                (folder / "lost+found").write_bytes(b"x" * 8192)

        def inspect(disturbed: Done, succeeded: bool) -> None:
            expect(succeeded or state == "full", f"exit {disturbed.code}: {disturbed.err[-300:]}")
            blamed = f"Error: {folder}" if place != "output" else name
            expect(succeeded or blamed in disturbed.err, f"blames {disturbed.err[-300:]}")
            if place == "output" and succeeded:
                self.compare(command, name, disturbed)

        keep = repair if state != "a mount point" else lambda: None
        try:
            return self.check(command, name, repair=keep, inspect=inspect)
        finally:
            if keep is not repair:
                repair()

    def concurrent(self, command: str, number: int) -> bool:
        """Run a command twice at once into one folder."""
        name = self.prepare(command)
        words = self.words(command, name)
        self.hub.add_fault(Fault("delay", path="/resolve/", seconds=0.05 * (1 + number)))
        processes = [self.shell.start(*words, token=self.owner.token) for _ in range(2)]
        outputs = [process.communicate() for process in processes]
        codes = sorted(process.returncode for process in processes)
        self.hub.clear_faults()
        for out, err in outputs:
            self.search_token(out + err, "printed")
        expect(codes in ([0, 0], [0, 4]), f"exit codes {codes}: {outputs}")
        self.compare(command, name, Done(0, "", ""))
        self.run_again(words, command, name)
        self.clear(name)
        return codes == [0, 0]

    def fuzz(self, name: str, inputs: int) -> Tally:
        """Read invalid inputs of one kind in a process with limited memory."""
        words = [sys.executable, "-m", "tests.benchmarks.fuzz", f"{name}={inputs}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
        self.search_token(done.stdout + done.stderr, "printed")
        expect(done.returncode == 0, f"exit {done.returncode}: {done.stderr[-300:]}")
        result = json.loads(done.stdout)
        runs, rejected, failed = result["runs"], result["rejected"], result["failed"]
        return Tally(runs, runs - rejected - len(failed), rejected, failed, note=result["memory"])


def _is_disk_error(done: Done) -> bool:
    """Whether the command named a file that it cannot use."""
    return done.code == 1 and "cannot be used" in done.err and "unexpected" not in done.err


def _mount(*words: object) -> int:
    done = subprocess.run(["mount", *map(str, words)], check=False, capture_output=True)
    return done.returncode
