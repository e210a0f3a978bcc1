"""Averaging files by byte ranges agrees with `merging.factors`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import AdapterFile, write_tensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method import averaging, merging
from hf_lorameta.method.averaging import average, can_average

LAYOUT = (Module("h.0.q", 24, 40), Module("h.0.v", 24, 6))


def write(folder: Path, number: int, rank: int = 2, dtype: str = "bfloat16") -> list[AdapterFile]:
    rng = np.random.default_rng(number)
    files = []
    for i in range(number):
        pairs = [
            tuple(rng.normal(0, 10.0 ** rng.integers(-9, 9), m.shape(f, rank)).astype(np.float32)
                  for f in ("A", "B"))
            for m in LAYOUT
        ]  # fmt: skip
        write_tensors(folder / f"{i}", LAYOUT, rank, dtype, pairs)  # type: ignore[arg-type]
        files.append(AdapterFile(folder / f"{i}"))
    return files


@settings(max_examples=20)
@given(number=st.integers(1, 40), range_bytes=st.sampled_from([1, 200, 1 << 20]),
       words=st.sampled_from([3, 1 << 14]))  # fmt: skip
def test_averaging_files_agrees_with_factors(
    number: int, range_bytes: int, words: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = write(tmp_path_factory.mktemp("f"), number)
    rng = np.random.default_rng(0)
    weights, scalings = rng.normal(size=number), rng.random(number) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "_RANGE_BYTES", range_bytes)
        patch.setattr(averaging, "_PIECE_WORDS", words)
        assert can_average(files)
        got = average(files, weights, scalings)
    for module, pair in zip(LAYOUT, got, strict=True):
        As, Bs = zip(*(file.factors(module.name) for file in files), strict=True)
        for ours, theirs, parts in zip(
            pair, merging.factors(As, Bs, weights, scalings), (As, Bs), strict=True
        ):
            assert ours.shape == theirs.shape
            largest = np.abs(np.stack(parts)).max() * np.abs(weights).max() * scalings.max()
            assert np.abs(ours - theirs).max() <= 2e-6 * number * largest


def test_the_number_of_workers_does_not_change_the_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path, 35)
    weights = np.linspace(0, 1, 35)
    monkeypatch.setattr(averaging, "_RANGE_BYTES", 100)
    results = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(averaging, "_WORKERS", workers)
        results.append(average(files, weights, weights + 1))
    assert all(np.array_equal(x, y) for r in results for p, q in zip(r, results[0], strict=True)
               for x, y in zip(p, q, strict=True))  # fmt: skip


def test_files_of_other_ranks_or_types_are_not_averaged(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    plain = write(tmp_path / "a", 2)
    assert not can_average([*plain, *write(tmp_path / "b", 2, rank=4)])
    assert not can_average(write(tmp_path / "c", 2, dtype="float32"))


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    files = write(tmp_path, 3)
    with files[1].path.open("r+b") as file:
        file.truncate(files[1].path.stat().st_size - 10)
    with pytest.raises(AdapterError, match="ended at byte"):
        average(files, np.ones(3), np.ones(3))


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    average(write(tmp_path, 20), np.ones(20), np.ones(20), lambda *x: seen.append(x))
    assert seen[-1] == (2, 2)
