"""Run commands under every fault: ``python -m tests.benchmarks.fault_injection FOLDER``.

The faults follow from traces of undisturbed runs. A few processes share the cases, each with its
own loopback Hub. Prints failures on stderr as they come, and the final table, which is also written
to FOLDER.
"""

import argparse
import copy
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hf_lorameta.bank.index import WORK_FOLDER
from tests.benchmarks.fault_world import (
    COMMANDS,
    DISK_MB,
    Case,
    CaseFailedError,
    Outcome,
    Request,
    World,
    expect,
    mount,
)
from tests.benchmarks.tables import markdown_table
from tests.conftest import Done, rows
from tests.support.fault_hub import Fault

PAGE = 4096
RETRY_AFTER = 7
HEAD = ("what", "runs", "succeeded at once", "succeeded after a clear error", "wrong")
TOKENS = "the token in any file written or published, or in anything printed"


class FaultCases:
    """All cases, for the requests that the commands make in a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._seconds: dict[str, float] = {}
        self._states: dict[tuple[str, ...], Any] = {}

    @cached_property
    def traces(self) -> dict[str, list[Request]]:
        return {command: self.world.trace(command) for command in COMMANDS}

    def select(self, share: float = 1.0, only: str = "") -> Iterator[Case]:
        """Yield a share of the cases of every row whose title contains `only`, at least one."""
        for family in FAMILIES:
            rows: dict[str, list[Case]] = {}
            for case in family(self):
                rows.setdefault(case.row, []).append(case)
            for cases in (of for row, of in rows.items() if only in row):
                count = max(1, round(len(cases) * share))
                yield from (cases[i * len(cases) // count] for i in range(count))

    # --- faults of requests ---------------------------------------------------------------------

    def _faults(
        self, row: str, command: str, faults: Iterable[Fault], inspect: Any = lambda *_: None
    ) -> Iterator[Case]:
        """Yield cases of one fault each; `inspect` gets it, the first run and its success."""

        def run(fault: Fault) -> bool:
            name = self.world.prepare(command)
            return self.world.check(command, name, fault, inspect=partial(inspect, fault))

        for fault in faults:
            yield Case(f"{command}: {row}", repr(fault), partial(run, fault))

    def passing_faults(self) -> Iterator[Case]:
        """One fault at one request, which must not end the command."""

        def inspect(_: Fault, disturbed: Done, succeeded: bool) -> None:
            expect(succeeded, f"ended: exit {disturbed.code}: {disturbed.err[-300:]}")

        for command, trace in self.traces.items():
            for seen in trace:
                faults = [seen.fault("status", status=s) for s in (500, 502, 503, 504)]
                faults.append(seen.fault("cut"))  # the answer is lost
                if seen.received:
                    faults.append(
                        seen.fault("cut", in_request=True, after_bytes=seen.received // 2)
                    )
                row = "one error or cut that passes, on each request"
                yield from self._faults(row, command, faults, inspect)

    def cuts(self) -> Iterator[Case]:
        """The connection breaks within an answer."""
        for command, trace in self.traces.items():
            cuts = [
                seen.fault("cut", after_bytes=seen.sent * tenth // 10)
                for seen in trace
                if seen.method != "HEAD" and seen.sent
                for tenth in range(10)
            ]
            yield from self._faults("connection cut at every tenth of each answer", command, cuts)

    def _file_requests(self, command: str) -> list[Request]:
        """Return the requests that fetch a file's content."""
        trace = self.traces[command]
        return [s for s in trace if s.method == "GET" and s.sent and not s.path.startswith("^/api")]

    def truncations(self) -> Iterator[Case]:
        """A file is shorter than announced, once or at every request."""
        for command in COMMANDS:
            faults = [
                seen.fault("truncate", after_bytes=seen.sent // 2, times=times)
                for seen in self._file_requests(command)
                for times in (1, None)
            ]
            yield from self._faults("a file that shrinks while it is read", command, faults)

    def error_bursts(self) -> Iterator[Case]:
        """The Hub answers with an error three times, at every request."""
        for command, trace in self.traces.items():
            first = [seen for seen in trace if seen.nth == 0]
            for status, after in ((429, RETRY_AFTER), (503, None), (500, None)):
                row = f"{status}{f' with Retry-After: {after}' if after else ''} three times"
                how: dict[str, Any] = {"status": status, "retry_after": after, "times": 3}
                faults = [seen.fault("status", **how) for seen in first]
                yield from self._faults(row, command, faults, self._check_waits)

    def _check_waits(self, fault: Fault, _: Done, succeeded: bool) -> None:
        """Check that the command waited after every error, at least as long as Retry-After.

        Except after the last error before it gives up or skips an entry, and after the first HEAD
        of a file, which the client repeats once without waiting.
        """
        least, slept = fault.retry_after or 0.1, self.world.slept()
        struck = sum(r.fault == "status" for r in self.world.hub.requests)
        enough = struck - (not succeeded) - (fault.method == "HEAD")
        waits = sum(seconds >= least for seconds in slept)
        expect(waits >= enough, f"{struck} errors and waits {slept}, expected {least} each")

    def outages(self) -> Iterator[Case]:
        """The Hub answers 503 from some request on, until the command is run again."""
        for command, trace in self.traces.items():
            faults = [Fault("status", status=503, skip=index) for index in range(len(trace))]
            yield from self._faults("nothing but 503, from each request on", command, faults)

    def flipped_bits(self) -> Iterator[Case]:
        """One bit of a file changes in transit."""
        for command in COMMANDS:
            flips = [
                seen.fault("corrupt", bits=1, after_bytes=seen.sent * part // 4)
                for seen in self._file_requests(command)
                if not seen.path.startswith("^/datasets/owner/e")  # streamed, without a checksum
                for part in (1, 3)
            ]
            flips += [
                s.fault("corrupt", bits=1, in_request=True, after_bytes=s.received // 2)
                for s in self.traces[command]
                if s.method == "PUT"
            ]
            yield from self._faults("one bit of a file flipped on its way", command, flips)

    # --- other writers --------------------------------------------------------------------------

    def repo_changes(self) -> Iterator[Case]:
        """A repo changes or disappears between two requests."""
        read = {
            "build": [("model", "owner/e1"), ("dataset", "owner/e1")],
            "plan": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
            "push": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
        }
        for command, repos in read.items():
            for change in ("changed", "deleted"):
                row = f"{command}: a repo {change} just before each request for it"
                for kind, repo_id in repos:
                    path = f"{kind}s/{repo_id}" if kind == "dataset" else repo_id
                    pattern = re.compile(rf"\^/(api/models/|api/)?{re.escape(path)}\b")
                    for seen in self.traces[command]:
                        if pattern.match(seen.path.replace("\\", "")):
                            run = partial(self._change_repo, command, kind, repo_id, change, seen)
                            yield Case(row, f"{kind} {repo_id} {seen.key}", run)
        for change in ("changed", "deleted"):
            row = f"push: the target {change} by somebody else just before each request for it"
            for seen in self.traces["push"]:
                if "NAME" in seen.path:
                    yield Case(row, seen.key, partial(self._change_target, change, seen))

    def _change_repo(
        self, command: str, kind: str, repo_id: str, change: str, request: Request
    ) -> bool:
        """Commit to a repo or delete it just before a request is answered."""
        before, after = self._before_and_after(command, kind, repo_id, change)
        act = partial(self._put, kind, repo_id, after)
        repair = partial(self._put, kind, repo_id, before)
        fault = request.fault("callback", callback=act)
        states = ("", f"{kind} {repo_id} changed") if change == "changed" else ("",)
        name = self.world.prepare(command)
        try:
            return self.world.check(command, name, fault, repair=repair, states=states)
        finally:
            repair()

    def _before_and_after(
        self, command: str, kind: str, repo_id: str, change: str
    ) -> tuple[Any, Any]:
        """Return a repo before and after a change; compute the results for both."""
        at, hub = (kind, repo_id), self.world.hub
        if at not in self._states:
            self._states[at] = self._get(kind, repo_id)
        before = self._states[at]
        if change == "deleted":
            return before, None
        if (*at, change) not in self._states:
            files = {"train.jsonl": rows(3, 12)} if kind == "dataset" else {"notes.txt": b"again\n"}
            files = {"README.md": b"Changed\n"} if repo_id == "owner/bank" else files
            hub.commit(repo_id, dict(files), repo_type=kind)
            self._states[*at, change] = self._get(kind, repo_id)
        after = self._states[*at, change]
        self._put(kind, repo_id, after)
        self.world.expected(command, f"{kind} {repo_id} {change}")
        self._put(kind, repo_id, before)
        return before, after

    def _get(self, kind: str, repo_id: str) -> Any:
        """Copy a repo of the Hub; None if there is none."""
        state = self.world.hub._hub
        with state.lock:
            return copy.deepcopy(state.repos.get((kind, repo_id)))

    def _put(self, kind: str, repo_id: str, repo: Any) -> None:
        """Replace a repo by a copy of another one; None deletes it."""
        state = self.world.hub._hub
        with state.lock:
            state.repos.pop((kind, repo_id), None)
            if repo is not None:
                state.repos[kind, repo_id] = copy.deepcopy(repo)

    def _change_target(self, change: str, request: Request) -> bool:
        """Change or delete the repo that a push creates, just before a request is answered."""
        name, theirs, hub = self.world.prepare("push"), {"theirs.txt": b"theirs\n"}, self.world.hub
        repo = f"owner/{name}"

        def act() -> None:
            if change == "deleted":
                self._put("model", repo, None)
                return
            if hub.repo(repo) is None:
                hub.create_repo(repo)
            hub.commit(repo, dict(theirs))

        extra = theirs if change == "changed" else {}
        fault = request.fault("callback", callback=act)
        return self.world.check("push", name, fault, extra=extra)

    def concurrent_runs(self) -> Iterator[Case]:
        """Two processes write into one folder at once."""
        for number in range(5):
            run = partial(self._run_twice, "build", 0.05 * (1 + number))
            yield Case("build: two into one folder at once", f"number {number}", run)

    def _run_twice(self, command: str, delay: float) -> bool:
        world = self.world
        name = world.prepare(command)
        words = world.words(command, name)
        world.hub.add_fault(Fault("delay", path="/resolve/", seconds=delay))
        processes = [world.shell.start(*words, token=world.owner.token) for _ in range(2)]
        outputs = [process.communicate() for process in processes]
        codes = sorted(process.returncode for process in processes)
        world.hub.clear_faults()
        for out, err in outputs:
            world.search_token(out + err, "printed")
        expect(codes in ([0, 0], [0, 4]), f"exit codes {codes}: {outputs}")
        world.compare(command, name, Done(0, "", ""))
        world.run_again(command, name)
        world.clear(name)
        return codes == [0, 0]

    # --- kills ----------------------------------------------------------------------------------

    def kills(self) -> Iterator[Case]:
        """SIGKILL at 50 random moments, spread over the duration of the command."""
        rng = random.Random(0)
        for command in ("build all", "plan", "push"):
            row = f"{command.split()[0]}: kill -9 at 50 random moments, then resumed"
            for i in range(50):
                run = partial(self.kill, command, (i + rng.random()) / 50)
                yield Case(row, f"moment {i}", run)

    def kill(self, command: str, share: float) -> bool:
        """Send SIGKILL after a share of a run's duration, then run the command again."""
        world = self.world
        for attempt in range(8):
            name = world.prepare(command)
            if command not in self._seconds:
                with world.undisturbed(command) as (_, _, seconds):
                    self._seconds[command] = seconds
            after = share * 0.9**attempt * self._seconds[command]
            done = world.run(world.words(command, name), kill_after=after)
            if done.code == -signal.SIGKILL:
                break
            expect(done.code == 0, f"exit {done.code}: {done.err[-200:]}")
            world.clear(name)
            del self._seconds[command]  # measure again: the machine is faster now
        else:
            raise CaseFailedError("ended before it was killed, eight times")
        records = (world.shell.cwd / name / WORK_FOLDER).glob("*.json")
        finished = [path.stem.replace("--", "/") for path in records if path.stem != "seen"]
        files = set(world.published(name))
        complete = set(world.expected("push")) if files - {".gitattributes"} else files
        expect(files == complete, f"incomplete repo: {files}")
        world.hub.clear_requests()
        world.run_again(command, name)
        paths = [request.path for request in world.hub.requests]
        again = [entry for entry in finished if any(entry in path for path in paths)]
        expect(not again, f"fetched again: {again}")
        world.clear(name)
        return False

    # --- disks ----------------------------------------------------------------------------------

    def disks(self) -> Iterator[Case]:
        """The disk is full or read-only."""
        if not self.world.mounted:
            return
        for command in COMMANDS:
            self.world.fresh(command)
            used = self._used()
            with self.world.undisturbed(command):
                pages = self._used() - used + 8  # for files that it removes in the end
            row = f"{command}: disk full after each number of pages"
            for page in range(pages):
                yield Case(row, f"page {page}", partial(self._fill, command, page))
        for command in (*COMMANDS, "pack", "generate"):
            row = "build, plan, push, pack, generate: on a read-only disk"
            yield Case(row, command, partial(self._make_read_only, command))

    def _used(self) -> int:
        """Return the number of used pages of the disk."""
        disk = os.statvfs(self.world.disk)
        return disk.f_blocks - disk.f_bfree

    def _fill(self, command: str, pages: int) -> bool:
        """Fill the disk up to some free pages."""
        name, disk = self.world.prepare(command), self.world.disk
        size = (self._used() + pages) * PAGE
        expect(not mount("-o", f"remount,size={size}", disk), "cannot shrink the disk")
        repair = partial(mount, "-o", f"remount,size={DISK_MB}m", disk)
        return self.world.check(command, name, repair=repair)

    def _make_read_only(self, command: str) -> bool:
        name, disk = self.world.prepare(command), self.world.disk
        expect(not mount("-o", "remount,ro", disk), "cannot make the disk read-only")
        repair = partial(mount, "-o", "remount,rw", disk)

        def inspect(disturbed: Done, _: bool) -> None:
            reported = any(words in disturbed.err for words in ("could not be", "cannot be"))
            expect(disturbed.code == 0 or reported, disturbed.err[-200:])

        try:
            return self.world.check(command, name, repair=repair, inspect=inspect)
        finally:
            repair()

    def places(self) -> Iterator[Case]:
        """One folder cannot be written: the cache, the output, or that for temporary files."""
        if not self.world.mounted:
            return
        states = {"cache": ("missing", "read-only", "warm and read-only", "full"),
                  "tmp": ("full",), "output": ("full", "a mount point")}  # fmt: skip
        for place, found in states.items():
            commands = ("build", "generate") if place == "output" else (*COMMANDS, "generate")
            for state in found:
                row = f"{', '.join(commands)}: {place} {state}"
                for command in commands:
                    yield Case(row, command, partial(self._block, command, place, state))

    def _block(self, command: str, place: str, state: str) -> bool:
        """Run a command where one folder cannot be written, which has to be blamed for an error."""
        world = self.world
        name = world.prepare(command)
        if "warm" in state:
            with world.undisturbed(command):
                pass  # its files stay in the cache
            name = world.named(command)
        folders = {"cache": world.shell.home, "tmp": world.disk / "tmp"}
        folder = folders.get(place, world.shell.cwd / name)
        if state == "missing":
            folder.rmdir()
            folder.touch()
            repair: Callable[[], object] = folder.unlink
        else:
            folder.mkdir(exist_ok=True)
            size = "size=8k" if state == "full" else "size=64m"
            options: tuple[str, ...] = ("-t", "tmpfs", "-o", size, "tmpfs")
            options = ("--bind", str(folder)) if "read-only" in state else options
            expect(not mount(*options, folder), "cannot mount")
            repair = partial(subprocess.run, ["umount", str(folder)], check=True)
            if "read-only" in state:
                mount("-o", "remount,ro,bind", folder)
            if state == "full":
                (folder / "lost+found").write_bytes(b"x" * 8192)

        def inspect(disturbed: Done, succeeded: bool) -> None:
            expect(succeeded or state == "full", f"exit {disturbed.code}: {disturbed.err[-300:]}")
            blamed = f"Error: {folder}" if place != "output" else name
            expect(succeeded or blamed in disturbed.err, f"blames {disturbed.err[-300:]}")
            if place == "output" and succeeded:
                world.compare(command, name, disturbed)

        keep = repair if state != "a mount point" else lambda: None
        try:
            return world.check(command, name, repair=keep, inspect=inspect)
        finally:
            if keep is not repair:
                repair()


FAMILIES = (
    FaultCases.passing_faults, FaultCases.cuts, FaultCases.truncations, FaultCases.error_bursts,
    FaultCases.places, FaultCases.outages, FaultCases.flipped_bits, FaultCases.repo_changes,
    FaultCases.kills, FaultCases.disks, FaultCases.concurrent_runs,
)  # fmt: skip


def run(worker: int, workers: int, share: float, only: str) -> list[Outcome]:
    """Run every `workers`-th case in a world of its own."""
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        cases = list(FaultCases(world).select(share, only))[worker::workers]
        for number, case in enumerate(cases, 1):
            outcomes.append(found := world.case(case))
            if found.failed:
                print(f"failed: {case.row} | {found.failed}", file=sys.stderr, flush=True)
            if number % 20 == 0:
                print(f"{number} of {len(cases)} runs", file=sys.stderr, flush=True)
    return outcomes


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the numbers of outcomes as Markdown, and of searches for the token."""
    rows: dict[str, list[Outcome]] = {}
    for found in outcomes:
        rows.setdefault(found.row, []).append(found)
    cells: list[list[object]] = []
    for row, of in rows.items():
        right, wrong = sum(o.at_once for o in of), sum(bool(o.failed) for o in of)
        cells.append([row, len(of), right, len(of) - right - wrong, wrong])
    everything = [found for of in rows.values() for found in of]
    searched = sum(found.searched for found in everything)
    leaks = sum(len(found.leaks) for found in everything)
    cells.append([TOKENS, searched, searched - leaks, 0, leaks])
    return markdown_table(HEAD, [[*map(str, row)] for row in cells], right=range(1, len(HEAD)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--workers", type=int, default=4, help="number of processes")
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    shared = (options.workers, 0.05 if options.small else 1.0, options.only)
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(run, worker, *shared) for worker in range(options.workers)]
        in_order = zip_longest(*(of.result() for of in running))
    outcomes = [outcome for group in in_order for outcome in group if outcome]
    text = table(outcomes)
    (options.folder / "fault_injection.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(any(found.failed or found.leaks for found in outcomes))


if __name__ == "__main__":
    main()
