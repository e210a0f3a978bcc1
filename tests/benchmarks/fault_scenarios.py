"""What is done to a command, and what must come of it; `tests.benchmarks.fault_cases` lists all of it.

A command runs in a process of its own against a loopback Hub, on a disk of its own. It is harmed in
one way; then it must have ended well all the same, or have said in two lines what is wrong and end
well when it is simply run again, with the files that the harmed run left. The result must be byte
for byte that of an undisturbed run.
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
from hf_lorameta.files import sha256
from hf_lorameta.localhub import Fault, LocalHub
from tests.conftest import BASE, Account, Done, Shell, rows, tokenizer_json, tree

COMMANDS = ("build", "pull", "plan", "push")
DISK_MB = 256
PAGE = 4096
ROOT = Path(__file__).parents[2]
SAID = (3, 4, 5, 6)
"""Exit codes of errors that say what is wrong: dataset, bank, adapter, Hub."""
RETRY_AFTER = 7
QUICK = """
import os, time
import datasets.utils.file_utils, hf_lorameta.hub.retry, huggingface_hub.utils._http

class Quick:
    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, seconds):
        with open(os.environ["SLEPT"], "a") as file:
            file.write(f"{seconds}\\n")

for module in (datasets.utils.file_utils, hf_lorameta.hub.retry, huggingface_hub.utils._http):
    module.time = Quick()
"""
"""Waiting for the Hub is noted instead of done."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        row: of the table.
        key: what is unique in that row.
        kind: a method of `World`.
        arguments: its arguments; plain JSON.
    """

    row: str
    key: str
    kind: str
    arguments: Mapping[str, Any]


@dataclass
class Tally:
    """What came of cases.

    Attributes:
        runs: how many.
        at_once: ended well though harmed.
        repeated: said what is wrong, and ended well when run again.
        failed: did neither, and how.
        read: files and streams that were searched for the token.
        leaks: those that held it.
        note: for the row.
    """

    runs: int = 0
    at_once: int = 0
    repeated: int = 0
    failed: list[str] = field(default_factory=list)
    read: int = 0
    leaks: list[str] = field(default_factory=list)
    note: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request of an undisturbed run: the `nth` whose path matches."""

    method: str
    path: str
    nth: int
    sent: int
    received: int

    @property
    def key(self) -> str:
        return f"{self.method} {self.path} #{self.nth}"

    def fault(self, **fault: Any) -> dict[str, Any]:
        """A fault that strikes this request alone."""
        own = {"path": self.path, "method": self.method, "skip": self.nth, "times": 1}
        return own | fault


def pattern(path: str, name: str) -> str:
    """A path as a regular expression that fits the same request of any world and run."""
    escaped = re.escape(path.replace(name, "NAME"))
    return f"^{re.sub(r'[0-9a-f]{64}|[0-9a-f]{40}', '[0-9a-f]+', escaped)}$"


class WrongError(Exception):
    """What must not happen."""


def insist(good: object, problem: object) -> None:
    """Raise `WrongError` unless something is so."""
    if not good:
        raise WrongError(str(problem))


class Warm(Shell):
    """Commands whose temporary files lie on the disk that is harmed."""

    def env(self, token: str | None = None) -> dict[str, str]:
        return super().env(token) | {"TMPDIR": str(self.home.parent / "tmp")}


class World:
    """A Hub of its own, a bank on it, a disk of its own, and the commands under test.

    Args:
        scratch: empty folder.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.disk = scratch, scratch / "disk"
        self.hub = LocalHub()
        self.read, self.leaks = 0, list[str]()
        self._numbers = count()
        self._expected: dict[tuple[str, str], dict[str, bytes]] = {}
        self._states: dict[tuple[str, ...], Any] = {}
        self._seconds: dict[str, float] = {}

    # --- setting up -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as undo:  # a world half made is undone, too
            self._make(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _make(self, undo: ExitStack) -> None:
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
        self.shell = Warm(self.hub, self.disk / "home")
        undo.callback(self.shell.close)
        self.shell.cwd = self.disk / "work"
        self.owner = Account(self.hub, "owner", self.hub.add_user("owner"))
        for topic in range(4):
            self.owner.entry(f"e{topic}", topic)
        self.all = self.owner.manifest(self.disk / "work/all.yaml")
        self.few = self.owner.manifest(self.disk / "work/few.yaml", self.owner.entries[:2])
        self.folder = self.disk / "work/bank"
        self.run(("bank", "build", self.all, "-o", self.folder, "-q"))
        self.run(("bank", "push", self.folder, "owner/bank"))

    def words(self, command: str, name: str) -> tuple[object, ...]:
        """A command line; `name` is what is new in each run."""
        bank, data = "owner/bank", "owner/e1"
        return {
            "build": ("bank", "build", self.few, "-o", name, "-q"),
            "build all": ("bank", "build", self.all, "-o", name, "-q"),
            "pull": ("bank", "pull", bank, "-o", name, "--all", "-q"),
            "plan": ("plan", "-d", data, "--bank", bank, "-q", "--json"),
            "push": ("push", "-d", data, "--bank", bank, "-q", "--yes",
                     "--repo-id", f"owner/{name}"),
            "pack": ("bank", "pack", self.folder, "-o", name, "-q"),
            "generate": ("generate", "-d", data, "--bank", self.folder, "-o", name, "-q"),
        }[command]  # fmt: skip

    # --- running --------------------------------------------------------------------------------

    def run(self, words: tuple[object, ...], before: str = QUICK, **how: Any) -> Done:
        """Run a command and look for the token in what it says."""
        slept = self.scratch / "slept"
        slept.unlink(missing_ok=True)
        try:
            done = self.shell(
                *words, token=self.owner.token, code=None, before=before, SLEPT=str(slept), **how
            )
        except AssertionError as error:  # not two lines, or the token
            raise WrongError(f"says {str(error)[-300:]!r}") from None
        self.look_for_token(done.out + done.err, "printed")
        return done

    def slept(self) -> list[float]:
        """Seconds that the last command would have waited, each time."""
        path = self.scratch / "slept"
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def look_for_token(self, content: str | bytes, where: str) -> None:
        """Count what was searched, and what was found."""
        content = content if isinstance(content, bytes) else content.encode()
        self.read += 1
        if self.owner.token.encode() in content:
            self.leaks.append(where)

    def result(self, command: str, name: str, done: Done) -> dict[str, bytes]:
        """What a command made."""
        if command == "plan":
            return {"out": done.out.encode()}
        if command == "push":
            files = self.published(name)
            return {k: v.replace(name.encode(), b"NAME") for k, v in files.items()}
        folder = self.shell.cwd / name
        found = tree(folder) if folder.exists() else {}
        return {k: v for k, v in found.items() if not k.startswith(".cache/")}

    def published(self, name: str) -> dict[str, bytes]:
        """The files of the repo that a push made."""
        repo = f"owner/{name}"
        if self.hub.repo(repo) is None:
            return {}
        return {f: self.hub.read(repo, f) for f in self.hub.files(repo)}

    def expected(self, command: str, state: str = "") -> dict[str, bytes]:
        """What an undisturbed run makes, while repos are in some state."""
        if (command, state) not in self._expected:
            with self.undisturbed(command) as (name, done, _):
                self._expected[command, state] = self.result(command, name, done)
        return self._expected[command, state]

    @contextmanager
    def undisturbed(self, command: str) -> Iterator[tuple[str, Done, float]]:
        """A run in peace."""
        self.hub.clear_faults()
        name = self.fresh()
        began = time.monotonic()
        done = self.run(self.words(command, name))
        seconds = time.monotonic() - began
        if done.code:
            raise AssertionError(f"{command} fails undisturbed: {done.err}")
        yield name, done, seconds
        self.clear(name)

    def trace(self, command: str) -> list[Seen]:
        """Every request of an undisturbed run."""
        seen: list[Seen] = []
        with self.undisturbed(command) as (name, _, _):
            times: dict[tuple[str, str], int] = {}
            for record in self.hub.requests:
                at = record.method, pattern(record.path, name)
                nth = times[at] = times.get(at, -1) + 1
                seen.append(Seen(*at, nth, record.bytes_sent, record.bytes_received))
        return sorted(seen, key=lambda s: s.key)

    def fresh(self) -> str:
        """A new name, an empty cache and an empty log of requests."""
        shutil.rmtree(self.shell.home, ignore_errors=True)
        self.shell.home.mkdir()
        self.hub.clear_requests()
        return f"target{next(self._numbers)}"

    def clear(self, name: str) -> None:
        """Search everything that was written for the token, then remove it."""
        for path in self.disk.rglob("*"):
            if path.is_file():
                self.look_for_token(path.read_bytes(), str(path.relative_to(self.disk)))
        for file, content in self.published(name).items():
            self.look_for_token(content, f"published {file}")
        shutil.rmtree(self.shell.cwd / name, ignore_errors=True)
        for path in (self.disk / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # --- one harmed run, and perhaps another ----------------------------------------------------

    def case(self, case: Case) -> Tally:
        """Carry a case out."""
        self.read, self.leaks = 0, []
        tally = Tally()
        try:
            found = getattr(self, case.kind)(**case.arguments)
        except WrongError as error:
            tally.runs, tally.failed = 1, [f"{case.key}: {error}"]
        else:
            if isinstance(found, Tally):
                tally = found
            else:
                tally.runs, tally.at_once, tally.repeated = 1, int(found), int(not found)
        self.hub.clear_faults()
        tally.read, tally.leaks = tally.read + self.read, [*tally.leaks, *self.leaks]
        return tally

    def ready(self, command: str, *states: str) -> str:
        """Know what must come of a command; a name for the next run of it."""
        for state in ("", *states):
            self.expected(command, state)
        return self.fresh()

    def survive(
        self,
        command: str,
        name: str,
        *faults: Fault,
        heal: Callable[[], object] = lambda: None,
        states: tuple[str, ...] = ("",),
        also: Mapping[str, bytes] = MappingProxyType({}),
        look: Callable[[Done], object] = lambda harmed: None,
    ) -> bool:
        """Run a command that is being harmed, and once more in peace if it said something.

        Args:
            command: which.
            name: made by `validate_engine`.
            faults: that strike it; one of them must.
            heal: ends the harm.
            states: of the repos, in each of which the result would be right.
            also: must be in the result.
            look: at the harmed run.

        Returns:
            Whether it ended well at once.
        """
        for fault in faults:
            fault.path = fault.path.replace("NAME", name)
            self.hub.add_fault(fault)
        words = self.words(command, name)
        harmed = self.run(words)
        struck = any(record.fault for record in self.hub.requests)
        self.hub.clear_faults()
        heal()
        insist(struck or not faults, "the fault struck nothing")
        look(harmed)
        whole = not (command.startswith("build") and not harmed.code and self.skipped(name))
        if harmed.code == 0 and whole:
            self.compare(command, name, harmed, states, also)
        else:
            well_said = harmed.code in (*SAID, 0) or _of_the_disk(harmed)
            insist(well_said, f"exit {harmed.code}: {harmed.err[-200:]}")
            done = self.run(words)
            insist(done.code == 0, f"run again: exit {done.code}: {done.err[-200:]}")
            self.compare(command, name, done, ("",), also)
        self.clear(name)
        return harmed.code == 0 and whole

    def compare(
        self,
        command: str,
        name: str,
        done: Done,
        states: tuple[str, ...] = ("",),
        also: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Insist on the bytes of an undisturbed run."""
        made = self.result(command, name, done)
        wanted = [{**self.expected(command, state), **also} for state in states]
        if made not in wanted:
            first = wanted[0]
            names = sorted(k for k in {*made, *first} if made.get(k) != first.get(k))
            raise WrongError(f"other bytes: {names}")

    def skipped(self, name: str) -> bool:
        """Whether a built bank lacks an entry."""
        return bool(Bank(self.shell.cwd / name).index.skipped)

    # --- kinds of cases -------------------------------------------------------------------------

    def fault(self, command: str, fault: dict[str, Any]) -> bool:
        """A request goes wrong."""
        told = fault["kind"] == "status" and fault["times"] is not None
        look = partial(self._waited, fault) if told else lambda _: None
        return self.survive(command, self.ready(command), Fault(**fault), look=look)

    def _waited(self, fault: dict[str, Any], harmed: Done) -> None:
        """Whoever was told to come again later has waited, as long as was said.

        But for the last refusal before it gives up, and for the first HEAD of a file: the client
        asks once more before it waits.
        """
        least = fault["retry_after"] or 0.1
        struck = sum(r.fault == "status" for r in self.hub.requests)
        waits = sum(seconds >= least for seconds in self.slept())
        insist(
            waits >= struck - (harmed.code != 0) - (fault["method"] == "HEAD"),
            f"{struck} times refused and waited {self.slept()}, expected {least} each",
        )

    def swap(self, command: str, repo: tuple[str, str], what: str, seen: dict[str, Any]) -> bool:
        """A repo gets another commit, or is deleted, just before a request is answered."""
        kind, repo_id = repo
        state = f"{kind} {repo_id} {what}"
        before, after = self.states(command, kind, repo_id, what)
        act = partial(self.put, kind, repo_id, after)
        fault = Fault(**Seen(**seen).fault(kind="callback", callback=act))
        heal = partial(self.put, kind, repo_id, before)
        states = ("", state) if what == "changed" else ("",)
        try:
            return self.survive(command, self.ready(command), fault, heal=heal, states=states)
        finally:
            heal()

    def states(self, command: str, kind: str, repo_id: str, what: str) -> tuple[Any, Any]:
        """A repo as it is, and as it will be; with the result that the latter gives."""
        at = kind, repo_id
        if at not in self._states:
            self._states[at] = self.get(kind, repo_id)
        before = self._states[at]
        if what == "deleted":
            return before, None
        if (*at, what) not in self._states:
            self.hub.commit(repo_id, self.other_files(kind, repo_id), repo_type=kind)
            self._states[*at, what] = self.get(kind, repo_id)
        after = self._states[*at, what]
        self.put(kind, repo_id, after)
        self.expected(command, f"{kind} {repo_id} {what}")
        self.put(kind, repo_id, before)
        self.expected(command)
        return before, after

    def other_files(self, kind: str, repo_id: str) -> dict[str, bytes]:
        """What another commit brings."""
        if repo_id == "owner/bank":
            return {"README.md": b"Now under new management\n"}
        if kind == "dataset":
            return {"train.jsonl": rows(3, 12)}
        return {"notes.txt": b"trained again\n"}

    def get(self, kind: str, repo_id: str) -> Any:
        """A copy of a repo of the Hub."""
        state = self.hub._hub
        with state.lock:
            return copy.deepcopy(state.repos.get((kind, repo_id)))

    def put(self, kind: str, repo_id: str, repo: Any) -> None:
        """Put a copy of a repo in its place; None is none."""
        state = self.hub._hub
        with state.lock:
            state.repos.pop((kind, repo_id), None)
            if repo is not None:
                state.repos[kind, repo_id] = copy.deepcopy(repo)

    def target(self, what: str, seen: dict[str, Any]) -> bool:
        """Somebody changes or deletes the repo that a push goes to, just before a request."""
        name, theirs = self.ready("push"), {"theirs.txt": b"theirs\n"}
        repo = f"owner/{name}"

        def act() -> None:
            if what == "deleted":
                self.put("model", repo, None)
                return
            if self.hub.repo(repo) is None:
                self.hub.create_repo(repo)
            self.hub.commit(repo, theirs)

        fault = Fault(**Seen(**seen).fault(kind="callback", callback=act))
        return self.survive("push", name, fault, also=theirs if what == "changed" else {})

    def kill(self, command: str, share: float) -> bool:
        """kill -9 after a share of the time that a run takes; then the same command again."""
        for attempt in range(8):
            name = self.ready(command)
            words = self.words(command, name)
            after = share * 0.9**attempt * self.seconds(command)
            done = self.run(words, kill_after=after)
            if done.code == -signal.SIGKILL:
                break
            insist(done.code == 0, f"exit {done.code}: {done.err[-200:]}")
            self.clear(name)
            del self._seconds[command]  # the machine is faster now
        else:
            raise WrongError("was never killed before its end")
        finished = self.finished(command, name)
        files = set(self.published(name))
        whole = set(self.expected("push")) if files - {".gitattributes"} else files
        insist(files == whole, f"half a repo: {files}")
        self.hub.clear_requests()
        done = self.run(words)
        insist(done.code == 0, f"run again: exit {done.code}: {done.err[-200:]}")
        asked = [r.path for r in self.hub.requests]
        again = [f for f in finished if any(f in path for path in asked)]
        insist(not again, f"fetched again: {again}")
        self.compare(command, name, done)
        self.clear(name)
        return False

    def seconds(self, command: str) -> float:
        """How long an undisturbed run takes."""
        if command not in self._seconds:
            with self.undisturbed(command) as (_, _, seconds):
                self._seconds[command] = seconds
        return self._seconds[command]

    def finished(self, command: str, name: str) -> list[str]:
        """Entries that a killed command had finished, as they stand in paths of requests."""
        folder = self.shell.cwd / name
        if command.startswith("build"):
            records = (folder / WORK_FOLDER).glob("*.json")
            return [p.stem.replace("--", "/") for p in records if p.stem != "seen"]
        if command == "pull":
            right = {e.name: e.sha256 for e in Bank(self.folder).index.entries}
            files = (folder / "adapters").glob("*.safetensors")
            return [p.name for p in files if sha256(p) == right[p.stem]]
        return []

    def full(self, command: str, pages: int) -> bool:
        """The disk is full after so many pages have been written."""
        name = self.ready(command)
        size = (self.used() + pages) * PAGE
        insist(not _mount("-o", f"remount,size={size}", self.disk), "cannot shrink the disk")
        heal = partial(_mount, "-o", f"remount,size={DISK_MB}m", self.disk)
        return self.survive(command, name, heal=heal)

    def used(self) -> int:
        """Pages of the disk that are in use."""
        disk = os.statvfs(self.disk)
        return disk.f_blocks - disk.f_bfree

    def pages(self, command: str) -> int:
        """Pages of the disk that an undisturbed run fills."""
        self.fresh()
        used = self.used()
        with self.undisturbed(command):
            return self.used() - used

    def read_only(self, command: str) -> bool:
        """The disk cannot be written."""
        name = self.ready(command)
        insist(not _mount("-o", "remount,ro", self.disk), "cannot make the disk read-only")
        heal = partial(_mount, "-o", "remount,rw", self.disk)

        def look(harmed: Done) -> None:
            told = any(words in harmed.err for words in ("could not be", "cannot be"))
            insist(harmed.code == 0 or told, harmed.err[-200:])

        try:
            return self.survive(command, name, heal=heal, look=look)
        finally:
            heal()

    def together(self, command: str, number: int) -> bool:
        """Two of a command into one folder at once."""
        name = self.ready(command)
        words = self.words(command, name)
        self.hub.add_fault(Fault("delay", path="/resolve/", seconds=0.05 * (1 + number)))
        both = [self.shell.start(*words, token=self.owner.token) for _ in range(2)]
        said = [process.communicate() for process in both]
        codes = sorted(process.returncode for process in both)
        self.hub.clear_faults()
        for out, err in said:
            self.look_for_token(out + err, "printed")
        insist(codes in ([0, 0], [0, 4]), f"exit codes {codes}: {said}")
        self.compare(command, name, Done(0, "", ""))
        done = self.run(words)
        insist(done.code == 0, f"exit {done.code} afterwards: {done.err[-200:]}")
        self.compare(command, name, done)
        self.clear(name)
        return codes == [0, 0]

    def fuzz(self, name: str, inputs: int) -> Tally:
        """Bad inputs of one kind, read in a process that cannot have more memory than stated."""
        words = [sys.executable, "-m", "tests.benchmarks.fuzz", name, str(inputs)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
        self.look_for_token(done.stdout + done.stderr, "printed")
        insist(done.returncode == 0, f"exit {done.returncode}: {done.stderr[-300:]}")
        found = json.loads(done.stdout)
        runs, refused, failed = found["runs"], found["refused"], found["wrong"]
        return Tally(runs, runs - refused - len(failed), refused, failed, note=found["grown"])


def _of_the_disk(done: Done) -> bool:
    """An error that says which file cannot be written, and to look at the disk."""
    return done.code == 1 and "cannot be used" in done.err and "unforeseen" not in done.err


def _mount(*words: object) -> int:
    done = subprocess.run(["mount", *map(str, words)], check=False, capture_output=True)
    return done.returncode
