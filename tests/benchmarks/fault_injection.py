"""Run commands under every fault: ``python -m tests.benchmarks.fault_injection FOLDER``.

The cases of `tests.benchmarks.fault_cases` run in a few processes, each with its own loopback Hub.
Prints failures on stderr as they come, and the final table, which is also written to FOLDER.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from pathlib import Path

from tests.benchmarks.fault_cases import FaultCases
from tests.benchmarks.fault_scenarios import Case, Tally, World
from tests.benchmarks.fuzz import CAP_MB
from tests.benchmarks.tables import markdown_table

INPUTS = 100_000
HEAD = ("what", "runs", "succeeded at once", "succeeded after a clear error", "wrong")
TOKENS = "the token in any file written or published, or in anything printed"
Outcome = tuple[str, Tally]
"""The row of a case, and what came of it."""


def run(cases: Sequence[Case]) -> list[Outcome]:
    """Run cases one after another, in a world of their own."""
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        for number, case in enumerate(cases, 1):
            tally = world.case(case)
            outcomes.append((case.row, tally))
            for failed in tally.failed:
                print(f"failed: {case.row} | {failed}", file=sys.stderr, flush=True)
            if number % 20 == 0:
                print(f"{number} of {len(cases)} runs", file=sys.stderr, flush=True)
    return outcomes


def rows_of(outcomes: Iterable[Outcome]) -> dict[str, Tally]:
    """Return the tally of every row of the table."""
    rows: dict[str, Tally] = {}
    for title, tally in outcomes:
        row = rows.setdefault(title, Tally())
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--workers", type=int, default=4, help="number of processes")
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    share = 0.05 if options.small else 1.0
    with tempfile.TemporaryDirectory() as scratch, World(Path(scratch)) as world:
        cases = list(FaultCases(world, round(INPUTS * share)).select(share))
    cases = [case for case in cases if options.only in case.row]
    shares = [cases[first :: options.workers] for first in range(options.workers)]
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        in_order = zip_longest(*pool.map(run, shares))
    rows = rows_of(outcome for group in in_order for outcome in group if outcome)
    text = table(rows)
    (options.folder / "fault_injection.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(any(tally.failed for tally in rows.values()))


if __name__ == "__main__":
    main()
