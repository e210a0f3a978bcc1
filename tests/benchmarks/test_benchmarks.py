"""The synthetic bank and the measurements run at a small size; figures are not checked."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.engines.scoring import Scores
from tests.benchmarks import large_bases, measurements, quality
from tests.benchmarks.synthetic_bank import SIZES, Shape, write_bank
from tests.conftest import tree
from tests.support import shared_data


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return write_bank(tmp_path_factory.mktemp("bank") / "small", SIZES["small"])


def test_same_seed_gives_the_same_bytes(bank: Bank, tmp_path: Path) -> None:
    again = write_bank(tmp_path / "again", SIZES["small"])
    assert tree(bank.folder) == tree(again.folder)
    assert bank.verify() == []
    other = write_bank(tmp_path / "other", SIZES["small"], seed=1)
    assert other.digest != bank.digest


def test_full_shape_is_that_of_mistral_7b() -> None:
    shape = Shape()
    values = sum(shape.rank * (m.in_features + m.out_features) for m in shape.layout)
    assert len(shape.layout) == 96
    assert values == 9_437_184
    assert 9.4e9 < 2 * values * shape.adapters < 9.6e9


def test_adapters_share_a_subspace(bank: Bank) -> None:
    files = bank.adapters()
    As = np.concatenate([file.factors(bank.layout[0].name)[0] for file in files])
    energy = np.square(np.linalg.svd(As, compute_uv=False))
    assert energy[: SIZES["small"].shared].sum() > 0.95 * energy.sum()


def test_combining_returns_all_figures(bank: Bank) -> None:
    figures = measurements.combine(str(bank.folder))
    assert {"seconds", "cpu", "peak", "above"} <= set(figures)


def test_pack_size_reports_the_retained_energy(bank: Bank, tmp_path: Path) -> None:
    measurements.make_pack(str(bank.folder), str(tmp_path / "p"), "8", "int8")
    assert measurements.pack_size(str(tmp_path / "p"))["retained"] > 0.9


def test_every_part_of_a_large_base_is_measured(tmp_path: Path, one_thread: None) -> None:
    options = argparse.Namespace(
        folder=tmp_path, size="tiny", layers=None, parts=large_bases.PARTS, adapters=4,
        dtype="bfloat16", threads=1, slow_bfloat16=False,
    )  # fmt: skip
    figures = dict(large_bases.measure(options))
    assert set(figures) == set(large_bases.PARTS)
    assert all(part["seconds"] > 0 for part in figures.values())
    assert figures["train16"]["steps"] > 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/2/3"])
def test_part_of_the_tasks_must_exist(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["quality", str(tmp_path), "--part", part])
    with pytest.raises(SystemExit):
        quality.main()
    assert "argument --part: " in capsys.readouterr().err
    assert quality.parse_part("2/2") == (2, 2)


def test_quality_scores_the_base_model_in_its_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[object] = []

    class Chatty:
        def chat_prompt(self, text: str) -> str:
            return f"<user>{text}<model>"

        def evaluate(self, rows: object, *options: object) -> tuple[Scores, list[str]]:
            scored.append(rows)
            return Scores(1.0, 0.0, 0.0, 0.0, 1), []

    monkeypatch.setattr(shared_data, "rows", lambda task, split: [("q", "a")])
    benchmark = quality.Benchmark(tmp_path, answers=False)
    benchmark.__dict__["evaluator"] = Chatty()
    for method in ("base", "base-chat"):
        benchmark.score("task", method, far=False)
    assert scored == [[("q", "a")], [("<user>q<model>", "a")]]
