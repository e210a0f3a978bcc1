"""A small part of `tests.benchmarks.survival`, and the seeded fuzz; see there for all of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_lorameta.localhub import LocalHub
from tests.benchmarks import fuzz, survival
from tests.benchmarks.survival import Tally, World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with LocalHub() as hub:
        made = make_world(tmp_path_factory.mktemp("survival"), hub)
        yield made
        made.shell.close()


def insist(tallies: Iterator[Tally]) -> None:
    for tally in tallies:
        assert not tally.failed, tally.row()
        assert tally.runs == tally.at_once + tally.repeated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "share"),
    [
        (survival.checksums, 0.4),
        (survival.changed, 0.25),
        (survival.kills, 0.04),
        (survival.disks, 0.04),
        (survival.folders, 0.2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_case(
    case: Callable[[World, float], Iterator[Tally]], share: float, world: World
) -> None:
    insist(case(world, share))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "pull", "plan", "push"])
def test_cut_connections(command: str, world: World) -> None:
    insist(survival.cuts(world, command, 0.01))


@pytest.mark.slow
def test_no_token_in_anything_said_or_written(world: World) -> None:
    insist(survival.tokens(world))
    assert world.said


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_bad_inputs_raise_our_errors(kind: str) -> None:
    runs, refused, wrong = fuzz.KINDS[kind](300)
    assert wrong == []
    assert 0 < refused < runs


def test_a_header_that_claims_10_gb_is_not_believed(tmp_path: Path) -> None:
    import tracemalloc

    from hf_lorameta.adapter import AdapterFile
    from hf_lorameta.errors import AdapterError
    from hf_lorameta.pack import PackedFile

    (tmp_path / "a").write_bytes((10 << 30).to_bytes(8, "little") + b"{}" * 50)
    tracemalloc.start()
    for kind in (AdapterFile, PackedFile):
        with pytest.raises(AdapterError, match="claims"):
            kind(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
