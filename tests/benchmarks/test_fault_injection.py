"""A few cases of `tests.benchmarks.fault_injection`, and seeded fuzzing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks import fuzz
from tests.benchmarks.fault_injection import FAMILIES, FaultCases
from tests.benchmarks.fault_world import Case, World
from tests.support.fault_hub import Fault

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultCases]:
    with World(tmp_path_factory.mktemp("survival")) as world:
        yield FaultCases(world)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=lambda n: FAMILIES[n].__name__)
def test_commands_survive_a_case_of_each_family(number: int, cases: FaultCases) -> None:
    rows: dict[str, list[Case]] = {}
    for case in FAMILIES[number](cases):
        rows.setdefault(case.row, []).append(case)
    if not rows:
        pytest.skip("needs permission to mount a disk")
    titles = list(rows)
    row = rows[titles[number % len(titles)]]  # not of the command before
    found = cases.world.case(row[len(row) * 2 // 3])
    assert not found.failed
    assert found.searched > 10
    assert not found.leaks


@pytest.mark.slow
def test_failures_and_leaks_are_detected(cases: FaultCases) -> None:
    """A fault without effect, a different result, a token in a file."""
    world = cases.world
    [nowhere] = cases._faults("row", "plan", [Fault("cut", path="^/nowhere")])
    assert "had no effect" in world.case(nowhere).failed
    world._expected["plan", ""] = {"out": b"something else"}
    passing = Case("row", "key", partial(cases.kill, "plan", 0.1))
    assert "other bytes: ['out']" in world.case(passing).failed
    del world._expected["plan", ""]
    (world.disk / "work/kept").write_text(world.owner.token)
    assert world.case(passing).leaks == ["work/kept"] * 2  # before and after
    (world.disk / "work/kept").unlink()


def test_invalid_inputs_raise_only_package_errors() -> None:
    kinds = [f"{kind}={30 if 'files' in kind else 60}" for kind in fuzz.KINDS]
    words = [sys.executable, "-m", "tests.benchmarks.fuzz", *kinds]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    for kind, line in zip(fuzz.KINDS, done.stdout.splitlines(), strict=True):
        result = json.loads(line)
        assert result["failed"] == [], kind
        assert 0 < result["rejected"] < result["runs"], kind
        assert result["memory"] < fuzz.CAP_MB, kind


def test_memory_cap_fails_a_reader_that_allocates_10_gb() -> None:
    program = (
        "import numpy, runpy, sys\nfrom tests.benchmarks import fuzz\n"
        "def allocate(number):\n"
        "    def one(rng):\n        number > fuzz._WARM and numpy.zeros(10 << 30, numpy.uint8)\n"
        "    return fuzz._run(number, one)\n"
        "fuzz.KINDS['packs'] = allocate\nsys.argv[1:] = ['packs=60']\nfuzz.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    failed = json.loads(done.stdout)["failed"]
    assert len(failed) == 60, done.stderr
    assert "MemoryError" in failed[0]
