"""A benchmark of large base models runs at a small size; figures are not checked."""

import argparse
from pathlib import Path

from tests.benchmarks import large_bases


def test_every_part_of_a_large_base_is_measured(tmp_path: Path, one_thread: None) -> None:
    options = argparse.Namespace(
        folder=tmp_path, size="tiny", parts=large_bases.PARTS, threads=1, slow_bfloat16=False
    )
    figures = dict(large_bases.measure(options))
    assert set(figures) == set(large_bases.PARTS)
    assert all(part["seconds"] > 0 for part in figures.values())
