"""Everything that can go wrong, on purpose: ``python -m tests.benchmarks.fault_injection FOLDER``.

The cases of `tests.benchmarks.fault_cases` run in a few processes side by side, each with a
Hub of its own; every outcome is written to FOLDER at once, so that the command goes on where it was
stopped (what went wrong is tried again; for a fresh run name a fresh folder). Prints a line a row
on stderr, and in the end the table, which is kept as ``survival.md`` and ``survival.json``, too.
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

from tests.benchmarks.fault_cases import Cases
from tests.benchmarks.fault_scenarios import ROOT, Case, Tally, World
from tests.benchmarks.fuzz import CAP_MB

INPUTS = 100_000
HEAD = "| what | runs | well at once | said so, then well | wrong |\n|---|--:|--:|--:|--:|"
TOKENS = "the token in any file written or published, or in anything printed"


def key_of(case: Case) -> str:
    return f"{case.row} | {case.key}"


# --- a process that carries cases out -----------------------------------------------------------


def work() -> None:
    """Cases come in as lines of JSON, tallies go out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    gone = contextlib.suppress(BrokenPipeError)  # the parent
    with gone, tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        for line in sys.stdin:
            tally = world.case(Case(**json.loads(line)))
            print(json.dumps(asdict(tally)), flush=True)


class Worker:
    """A process that carries out one case at a time; a new one takes its place if it dies."""

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
            return Tally(runs=1, failed=[f"{case.key}: the suite itself failed, see above"])

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()
            self._process = None


# --- all of them --------------------------------------------------------------------------------


class Suite:
    """Cases and what came of them.

    Args:
        folder: where outcomes are kept.
        cases: to carry out.
    """

    def __init__(self, folder: Path, cases: Iterable[Case]) -> None:
        self.folder, self.cases = folder, list(cases)
        self.tallies = self._known()
        self._file = folder / "outcomes.jsonl"
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def _known(self) -> dict[str, Tally]:
        path = self.folder / "outcomes.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found: dict[str, Any] = {}
        for line in lines:
            with contextlib.suppress(ValueError):  # cut off
                found.update(json.loads(line))
        known = {key: Tally(**told) for key, told in found.items()}
        return {key: tally for key, tally in known.items() if not tally.failed}

    def run(self, workers: int) -> None:
        """Carry out what has not been."""
        left: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in self.cases:
            if key_of(case) not in self.tallies:
                left.put(case)
        threads = [
            threading.Thread(target=self._serve, args=(left,), daemon=True) for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, left: "queue.SimpleQueue[Case]") -> None:
        worker = Worker()
        while True:
            try:
                case = left.get_nowait()
            except queue.Empty:
                worker.close()
                return
            self._note(case, worker.case(case))

    def _note(self, case: Case, tally: Tally) -> None:
        with self._lock:
            self.tallies[key_of(case)] = tally
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({key_of(case): asdict(tally)}) + "\n")
            for failed in tally.failed:
                print(f"wrong: {case.row} | {failed}", file=sys.stderr, flush=True)
            mates = [c for c in self.cases if c.row == case.row]
            if all(key_of(c) in self.tallies for c in mates):
                seconds = time.monotonic() - self._began
                print(f"{seconds:6.0f} s  {case.row}: {len(mates)}", file=sys.stderr, flush=True)

    def rows(self) -> dict[str, Tally]:
        """The table, by row."""
        found: dict[str, Tally] = {}
        for case in self.cases:
            one = self.tallies[key_of(case)]
            row = found.setdefault(case.row, Tally())
            for name in ("runs", "at_once", "repeated", "failed", "read", "leaks"):
                setattr(row, name, getattr(row, name) + getattr(one, name))
            row.note = max(row.note, one.note)
        for name in [name for name in found if name.startswith("fuzz")]:
            row = found.pop(name)
            found[f"{name} (memory +{row.note:.1f} MB, cap {CAP_MB})"] = row
        read = sum(row.read for row in found.values())
        leaks = [leak for row in found.values() for leak in row.leaks]
        return found | {TOKENS: Tally(read, read - len(leaks), 0, leaks)}


def table(rows: dict[str, Tally]) -> str:
    """As Markdown."""
    return "\n".join([HEAD, *(
        f"| {name} | {t.runs} | {t.at_once} | {t.repeated} | {len(t.failed)} |"
        for name, t in rows.items()
    )])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--small", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--share", type=float, help="of the runs; 1 is all")
    parser.add_argument("--workers", type=int, default=4, help="processes side by side")
    parser.add_argument("--only", default="", help="rows that hold these words")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        work()
        return
    if chosen.folder is None:
        parser.error("name a FOLDER for the outcomes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    share = chosen.share or (0.05 if chosen.small else 1.0)
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        cases = list(Cases(world, round(INPUTS * share)).chosen(share))
    suite = Suite(chosen.folder, (case for case in cases if chosen.only in case.row))
    suite.run(chosen.workers)
    rows = suite.rows()
    text = table(rows)
    (chosen.folder / "survival.md").write_text(text + "\n", encoding="utf-8")
    told = {name: asdict(tally) for name, tally in rows.items()}
    (chosen.folder / "survival.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    print(text)
    sys.exit(any(tally.failed for tally in rows.values()))


if __name__ == "__main__":
    main()
