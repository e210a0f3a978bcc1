"""A small part of `tests.benchmarks.fault_injection`, and the seeded fuzz; see there for all of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.benchmarks import fault_injection, fuzz
from tests.benchmarks.fault_cases import Cases
from tests.benchmarks.fault_injection import TOKENS, Suite, table
from tests.benchmarks.fault_scenarios import ROOT, Case, Tally, World

FAMILIES = ("cuts", "shrinking", "bursts", "outages", "checksums", "swaps", "kills", "disks",
            "at_once")  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    with World(tmp_path_factory.mktemp("survival")) as world:
        yield Cases(world, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_case_of_every_row(family: str, cases: Cases) -> None:
    rows: dict[str, list[Case]] = {}
    for case in getattr(cases, family)():
        rows.setdefault(case.row, []).append(case)
    if not rows:
        pytest.skip("needs the right to mount a disk")
    for row in rows.values():
        tally = cases.world.case(row[len(row) * 2 // 3])
        assert not tally.failed, tally
        assert tally.runs == tally.at_once + tally.repeated == 1
        assert tally.read > 10
        assert not tally.leaks


@pytest.mark.slow
def test_what_is_not_well_is_seen(cases: Cases) -> None:
    """The suite itself: a fault that strikes nothing, other bytes, a token in a file."""
    world = cases.world
    fault = {"kind": "cut", "path": "^/nowhere", "method": "GET", "skip": 0, "times": 1}
    case = Case("row", "key", "fault", {"command": "plan", "fault": fault})
    assert "struck nothing" in world.case(case).failed[0]
    world._expected["plan", ""] = {"out": b"something else"}
    world._states.clear()
    passing = Case("row", "key", "kill", {"command": "plan", "share": 0.1})
    assert "other bytes: ['out']" in world.case(passing).failed[0]
    del world._expected["plan", ""]
    (world.disk / "work/kept").write_text(world.owner.token)
    assert world.case(passing).leaks == ["work/kept"] * 2  # before and after
    (world.disk / "work/kept").unlink()


class FakeWorker:
    """Instead of a process."""

    done: list[str]

    def case(self, case: Case) -> Tally:
        self.done.append(case.key)
        return Tally(1, 1, 0, ["sad"] if case.key == "b" and len(self.done) < 3 else [], 2)

    def close(self) -> None:
        pass


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeWorker.done = []
    monkeypatch.setattr(fault_injection, "Worker", FakeWorker)
    cases = [Case(row, key, "kill", {}) for row, key in ("xa", "xb", "yc")]
    Suite(tmp_path, cases[:2]).run(1)
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write('{"y | c": {"ru')  # killed here
        file.write("\n")
    suite = Suite(tmp_path, cases)
    suite.run(1)
    assert FakeWorker.done == ["a", "b", "b", "c"]  # what was wrong is tried again
    assert list(suite.rows()) == ["x", "y", TOKENS]
    assert "| x | 2 | 2 | 0 | 0 |" in table(suite.rows())
    assert f"| {TOKENS} | 6 | 6 | 0 | 0 |" in table(suite.rows())


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_bad_inputs_raise_our_errors(kind: str) -> None:
    words = [
        sys.executable,
        "-m",
        "tests.benchmarks.fuzz",
        kind,
        "30" if "files" in kind else "300",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert 0 < told["refused"] < told["runs"]
    assert told["grown"] < fuzz.CAP_MB


def test_no_fewer_inputs_than_were_asked_for() -> None:
    shares = fuzz.shares(100_000)
    assert set(shares) == set(fuzz.KINDS)
    assert sum(shares.values()) >= 100_000


def test_the_memory_cap_holds() -> None:
    """A reader that believes a header of 10 GB is found out."""
    believer = (
        "import numpy, runpy, sys\nfrom tests.benchmarks import fuzz\n"
        "def believe(number):\n"
        "    def one(rng):\n        number > fuzz._WARM and numpy.zeros(10 << 30, numpy.uint8)\n"
        "    return fuzz._run(number, one)\n"
        "fuzz.KINDS['manifests'] = believe\nsys.argv[1:] = ['manifests', '60']\nfuzz.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", believer], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert len(told["wrong"]) == 60, done.stderr
    assert "MemoryError" in told["wrong"][0]


def test_a_header_that_claims_10_gb_is_not_believed(tmp_path: Path) -> None:
    import tracemalloc

    from hf_lorameta.bank.packed import PackedFile
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
