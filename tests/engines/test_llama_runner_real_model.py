"""Updates in llama.cpp on the real base model, in 4 bits and in float32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines import llama_runner
from hf_lorameta.engines.llama_client import LlamaCpp
from hf_lorameta.engines.llama_runner import LlamaCppRunner
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.finite_differences import search
from hf_lorameta.refine.shrink import validate
from tests.engine_fixtures import dequantized, needs_engine, packaged
from tests.plain_bank import plain_bank

pytestmark = [pytest.mark.slow, needs_engine]
ROWS = [
    ("Is it good or bad? What a lovely day we had.", "good"),
    ("Is it good or bad? Nothing here worked, not once.", "bad"),
    ("Is it good or bad? I would come again.", "good"),
    ("Is it good or bad? The worst meal of my life.", "bad"),
]
USED = [20, 3, 7, 12]
C = np.array([0.6, 0.3, -0.2, 0.1])
ROUNDING_4_BIT = 0.15
"""Nats per token; rounding of a 4-bit base model differs with the loaded adapters, by 0.10 at most
when measured."""
ROUNDING_FLOAT32 = 0.005
"""For a float32 base model, 0.0009 when measured: keys and values are in float16."""


@pytest.fixture(scope="module")
def base() -> Path:
    return packaged()


@pytest.fixture(scope="module")
def wide() -> Path:
    """The base model in float32."""
    return dequantized()


@pytest.fixture
def runner(base: Path) -> Iterator[LlamaCppRunner]:
    with LlamaCppRunner(base, plain_bank().layout, max_length=128) as held:
        yield held


def mixture(bank: Bank | None = None) -> WeightedSum:
    return WeightedSum(bank or plain_bank(), USED)


def as_one(sum_: Any, c: Any, base: Path, folder: Path) -> LlamaCpp:
    """llama.cpp with the sum as one adapter."""
    pairs, layout = list(sum_.pairs(Coefficients(c))), plain_bank().layout
    folder.mkdir()
    rank = len(pairs[0][0])
    write_tensors(folder / WEIGHTS_FILE, layout, rank, "float32", pairs)
    (folder / CONFIG_FILE).write_bytes(write_config("", layout, rank))
    config = base_config(read_metadata(base))
    return LlamaCpp(base, [gguf_adapter.export(folder, folder / "a.gguf", config)], context=128)


@pytest.mark.parametrize(
    ("kind", "alone"),
    [("bank", 32), ("pack", 2)],
    ids=["each on its own", "two on their own, two as a group"],
)
def test_scaled_adapters_equal_their_sum(
    kind: str, alone: int, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_runner, "SEARCH_DIMENSIONS", alone)
    bank = plain_bank()
    summed = mixture(pack(bank, tmp_path / "pack", basis=64) if kind == "pack" else bank)
    with LlamaCppRunner(wide, bank.layout, max_length=128) as runner:
        tokens = runner.encode(ROWS[:2])
        plain = runner.loss(tokens)
        runner.set(summed, Coefficients(C))
        adapted = runner.loss(tokens)
        assert abs(adapted - plain) > 100 * ROUNDING_FLOAT32
        odds = runner.log_odds(tokens)
        assert np.logaddexp(0, -odds).mean() == pytest.approx(adapted, abs=1e-6)
        runner.clear()
        assert runner.loss(tokens) == pytest.approx(plain, abs=1e-6)
        runner.set(summed, Coefficients(1e-6 * C))
        assert runner.loss(tokens) == pytest.approx(plain, abs=ROUNDING_FLOAT32)
    with as_one(summed, C, wide, tmp_path / "one") as one:
        found = [one.logprobs(prompt, output, 0) for prompt, output in tokens]
    assert adapted == pytest.approx(-np.mean(np.concatenate(found)), abs=ROUNDING_FLOAT32)


def test_group_changes_by_a_common_factor(
    runner: LlamaCppRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_runner, "SEARCH_DIMENSIONS", 2)
    summed = mixture()
    runner.set(summed, Coefficients(C))
    runner.set(summed, Coefficients([9, -9, 0.5, 0.5] * C))
    with pytest.raises(ValueError, match="only the 2 largest coefficients can change"):
        runner.set(summed, Coefficients([1, 1, 1, 0.5] * C))


def test_nonlinear_update_is_written_again(
    runner: LlamaCppRunner,
) -> None:
    inner = mixture()

    class Squared:
        linear = False

        def pairs(self, c: Any) -> Any:
            return inner.pairs(Coefficients(float(c.shared[0]) ** 2 * C))

    tokens = runner.encode(ROWS)
    plain = runner.loss(tokens)
    runner.set(inner, Coefficients(C))
    whole = runner.loss(tokens)
    runner.set(Squared(), Coefficients(np.ones(1)))
    assert runner.loss(tokens) == pytest.approx(whole, abs=ROUNDING_4_BIT)
    runner.set(Squared(), Coefficients(np.full(1, 1e-3)))
    assert runner.loss(tokens) == pytest.approx(plain, abs=ROUNDING_4_BIT)
    found = validate(Squared(), runner, ROWS)
    assert (found.engine, found.rows) == ("llama.cpp", 4)
    assert found.base == pytest.approx(plain, abs=ROUNDING_4_BIT)


def test_search_lowers_the_loss(runner: LlamaCppRunner) -> None:
    start = np.array([0.3, 0.1, 0.05, 0.05])
    c, report = search(start, mixture(), ROWS, runner, steps=2)
    assert report.engine == "llama.cpp"
    assert report.end < report.start
    assert np.isfinite(c.shared).all()
    assert report.steps == 1 + 4 + 2


def test_log_odds_of_probabilities_near_one_are_finite(
    runner: LlamaCppRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    logprobs = iter([[0.0, -1e-9], [-0.6931471805599453]])
    monkeypatch.setattr(runner._engine, "logprobs", lambda *asked: next(logprobs))
    odds = runner.log_odds(runner.encode(ROWS[:2]))
    np.testing.assert_allclose(odds, [np.log(1e6), np.log(1e6), 0.0], atol=1e-5)
