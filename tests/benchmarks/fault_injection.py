"""Run commands under every fault: ``python -m tests.benchmarks.fault_injection FOLDER``.

The cases of `tests.benchmarks.fault_cases` run in a few processes, each with its own loopback Hub.
Every outcome is appended to FOLDER at once, so the command resumes where it was stopped and repeats
failed cases (name a new folder for a new run). Prints a line per row on stderr and the final table,
which is also written to ``fault_injection.md`` and ``fault_injection.json``.
"""

import argparse
import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.fault_cases import FaultCases
from tests.benchmarks.fault_scenarios import ROOT, Case, Tally, World
from tests.benchmarks.fuzz import CAP_MB
from tests.benchmarks.tables import markdown_table

INPUTS = 100_000
HEAD = ("what", "runs", "succeeded at once", "succeeded after a clear error", "wrong")
TOKENS = "the token in any file written or published, or in anything printed"


def key_of(case: Case) -> str:
    return f"{case.row} | {case.key}"


# --- worker processes ---------------------------------------------------------------------------


def work() -> None:
    """Read cases as lines of JSON from stdin, run them and print their tallies."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    with (
        contextlib.suppress(BrokenPipeError),
        tempfile.TemporaryDirectory() as scratch,
        World(Path(scratch)) as world,
    ):
        for line in sys.stdin:
            tally = world.case(Case(**json.loads(line)))
            print(json.dumps(asdict(tally)), flush=True)


class Worker:
    """A process that runs one case at a time; it is replaced if it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def case(self, case: Case) -> Tally:
        if self._process is None:
            words = [sys.executable, "-m", "tests.benchmarks.fault_injection", "--worker"]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(asdict(case)), file=self._process.stdin, flush=True)
            return Tally(**json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):
            self.close()
            return Tally(runs=1, failed=[f"{case.key}: the worker failed, see above"])

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()
            self._process = None


# --- all cases ----------------------------------------------------------------------------------


class Suite:
    """Cases and their outcomes.

    Args:
        folder: of the outcomes.
        cases: to run.
    """

    def __init__(self, folder: Path, cases: Iterable[Case]) -> None:
        self.folder, self.cases = folder, list(cases)
        self.tallies = self._load()
        self._file = folder / "outcomes.jsonl"
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def _load(self) -> dict[str, Tally]:
        path = self.folder / "outcomes.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        outcomes: dict[str, Any] = {}
        for line in lines:
            with contextlib.suppress(ValueError):  # a partial line of an interrupted run
                outcomes.update(json.loads(line))
        tallies = {key: Tally(**outcome) for key, outcome in outcomes.items()}
        return {key: tally for key, tally in tallies.items() if not tally.failed}

    def run(self, workers: int) -> None:
        """Run the cases that have no outcome yet."""
        cases: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in self.cases:
            if key_of(case) not in self.tallies:
                cases.put(case)
        threads = [
            threading.Thread(target=self._work, args=(cases,), daemon=True) for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, cases: "queue.SimpleQueue[Case]") -> None:
        worker = Worker()
        while True:
            try:
                case = cases.get_nowait()
            except queue.Empty:
                worker.close()
                return
            self._record(case, worker.case(case))

    def _record(self, case: Case, tally: Tally) -> None:
        with self._lock:
            self.tallies[key_of(case)] = tally
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key_of(case): asdict(tally)}) + "\n")
            for failed in tally.failed:
                print(f"failed: {case.row} | {failed}", file=sys.stderr, flush=True)
            row = [c for c in self.cases if c.row == case.row]
            if all(key_of(c) in self.tallies for c in row):
                seconds = time.monotonic() - self._start
                print(f"{seconds:6.0f} s  {case.row}: {len(row)}", file=sys.stderr, flush=True)

    def rows(self) -> dict[str, Tally]:
        """The tally of every row of the table."""
        rows: dict[str, Tally] = {}
        for case in self.cases:
            tally = self.tallies[key_of(case)]
            row = rows.setdefault(case.row, Tally())
            for name in ("runs", "at_once", "repeated", "failed", "read", "leaks"):
                setattr(row, name, getattr(row, name) + getattr(tally, name))
            row.note = max(row.note, tally.note)
        for name in [name for name in rows if name.startswith("fuzz")]:
            row = rows.pop(name)
            rows[f"{name} (memory +{row.note:.1f} MB, cap {CAP_MB})"] = row
        read = sum(row.read for row in rows.values())
        leaks = [leak for row in rows.values() for leak in row.leaks]
        return rows | {TOKENS: Tally(read, read - len(leaks), 0, leaks)}


def table(rows: dict[str, Tally]) -> str:
    """Return the rows as Markdown."""
    cells = [
        (name, *map(str, (t.runs, t.at_once, t.repeated, len(t.failed))))
        for name, t in rows.items()
    ]
    return markdown_table(HEAD, cells, right=range(1, len(HEAD)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--small", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--share", type=float, help="share of the runs; 1 is all")
    parser.add_argument("--workers", type=int, default=4, help="number of processes")
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    if options.folder is None:
        parser.error("missing FOLDER for the outcomes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options.folder.mkdir(parents=True, exist_ok=True)
    share = options.share or (0.05 if options.small else 1.0)
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        cases = list(FaultCases(world, round(INPUTS * share)).select(share))
    suite = Suite(options.folder, (case for case in cases if options.only in case.row))
    suite.run(options.workers)
    rows = suite.rows()
    text = table(rows)
    (options.folder / "fault_injection.md").write_text(text + "\n", encoding="utf-8")
    tallies = {name: asdict(tally) for name, tally in rows.items()}
    (options.folder / "fault_injection.json").write_text(
        json.dumps(tallies, indent=1), encoding="utf-8"
    )
    print(text)
    sys.exit(any(tally.failed for tally in rows.values()))


if __name__ == "__main__":
    main()
