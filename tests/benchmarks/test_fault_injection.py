"""A few cases of `tests.benchmarks.fault_injection`, its bookkeeping, and seeded fuzzing."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.benchmarks import fuzz
from tests.benchmarks.fault_cases import FaultCases
from tests.benchmarks.fault_injection import TOKENS, rows_of, table
from tests.benchmarks.fault_scenarios import ROOT, Case, Tally, World

FAMILIES = ("passing_faults", "cuts", "truncations", "error_bursts", "places", "outages",
            "flipped_bits", "repo_changes", "kills", "disks", "concurrent_runs")  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultCases]:
    with World(tmp_path_factory.mktemp("survival")) as world:
        yield FaultCases(world, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_commands_survive_a_case_of_each_family(family: str, cases: FaultCases) -> None:
    rows: dict[str, list[Case]] = {}
    for case in getattr(cases, family)():
        rows.setdefault(case.row, []).append(case)
    if not rows:
        pytest.skip("needs permission to mount a disk")
    titles = list(rows)
    row = rows[titles[FAMILIES.index(family) % len(titles)]]  # not of the command before
    tally = cases.world.case(row[len(row) * 2 // 3])
    assert not tally.failed, tally
    assert tally.runs == tally.at_once + tally.repeated == 1
    assert tally.read > 10
    assert not tally.leaks


@pytest.mark.slow
def test_failures_and_leaks_are_detected(cases: FaultCases) -> None:
    """A fault without effect, a different result, a token in a file."""
    world = cases.world
    fault = {"kind": "cut", "path": "^/nowhere", "method": "GET", "skip": 0, "times": 1}
    case = Case("row", "key", "fault", {"command": "plan", "fault": fault})
    assert "had no effect" in world.case(case).failed[0]
    world._expected["plan", ""] = {"out": b"something else"}
    world._states.clear()
    passing = Case("row", "key", "kill", {"command": "plan", "share": 0.1})
    assert "other bytes: ['out']" in world.case(passing).failed[0]
    del world._expected["plan", ""]
    (world.disk / "work/kept").write_text(world.owner.token)
    assert world.case(passing).leaks == ["work/kept"] * 2  # before and after
    (world.disk / "work/kept").unlink()


def test_outcomes_are_added_up_by_row() -> None:
    rows = rows_of([
        ("x", Tally(1, 1, 0, [], 2)), ("x", Tally(1, 0, 1, [], 2)), ("y", Tally(1, 0, 0, ["b"], 2)),
    ])  # fmt: skip
    assert list(rows) == ["x", "y", TOKENS]
    assert "| x | 2 | 1 | 1 | 0 |" in table(rows)
    assert "| y | 1 | 0 | 0 | 1 |" in table(rows)
    assert f"| {TOKENS} | 6 | 6 | 0 | 0 |" in table(rows)


def test_invalid_inputs_raise_only_package_errors() -> None:
    kinds = [f"{kind}={30 if 'files' in kind else 100}" for kind in fuzz.KINDS]
    words = [sys.executable, "-m", "tests.benchmarks.fuzz", *kinds]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    for kind, line in zip(fuzz.KINDS, done.stdout.splitlines(), strict=True):
        result = json.loads(line)
        assert result["failed"] == [], kind
        assert 0 < result["rejected"] < result["runs"], kind
        assert result["memory"] < fuzz.CAP_MB, kind


def test_inputs_are_distributed_over_all_kinds() -> None:
    counts = fuzz.distribute(100_000)
    assert set(counts) == set(fuzz.KINDS)
    assert sum(counts.values()) >= 100_000


def test_memory_cap_fails_a_reader_that_allocates_10_gb() -> None:
    program = (
        "import numpy, runpy, sys\nfrom tests.benchmarks import fuzz\n"
        "def allocate(number):\n"
        "    def one(rng):\n        number > fuzz._WARM and numpy.zeros(10 << 30, numpy.uint8)\n"
        "    return fuzz._run(number, one)\n"
        "fuzz.KINDS['manifests'] = allocate\nsys.argv[1:] = ['manifests=60']\nfuzz.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    failed = json.loads(done.stdout)["failed"]
    assert len(failed) == 60, done.stderr
    assert "MemoryError" in failed[0]


def test_header_that_claims_10_gb_is_rejected_without_allocating(tmp_path: Path) -> None:
    import tracemalloc

    from hf_lorameta.bank.pack_format import PackedFile
    from hf_lorameta.errors import AdapterError
    from hf_lorameta.formats.lora_file import AdapterFile

    (tmp_path / "a").write_bytes((10 << 30).to_bytes(8, "little") + b"{}" * 50)
    kinds: tuple[Callable[[Path], AdapterFile], ...] = (AdapterFile, PackedFile)
    tracemalloc.start()
    for kind in kinds:
        with pytest.raises(AdapterError, match="claims"):
            kind(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
