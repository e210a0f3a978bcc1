"""Gains of a bank's datasets, each left out in turn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.engines.interfaces import RowScores
from hf_lorameta.method.metrics import between
from hf_lorameta.pipeline.measure_gains import _sum, leave_one_out
from hf_lorameta.recipe import Recipe
from tests.conftest import Built
from tests.method.oracles import update
from tests.support.plain_bank import plain_bank


class CountingRunner:
    """Has a loss of 2 without an adapter, and otherwise 1 less a hundredth for each rank."""

    def __init__(self) -> None:
        self.value = 0.0

    def encode(self, rows: Any) -> Any:
        return rows

    def clear(self) -> None:
        self.value = 2.0

    def apply(self, layout: Any, pairs: Any) -> None:
        self.value = 1.0 - len(pairs[0][0]) / 100

    def score(self, tokens: Any) -> RowScores:
        return RowScores(loss=self.value, right=0)


def test_each_dataset_is_scored_with_the_adapters_of_the_others(bank: Built) -> None:
    opened = Bank(bank.folder)
    done: list[int] = []
    runner: Any = CountingRunner()
    gains = leave_one_out(opened, lambda entry: [], runner, lambda i, total: done.append(i))
    distances = between(opened.profiles, opened.index.vocab_size, Recipe().metric)
    np.fill_diagonal(distances, np.inf)
    for i, gain in enumerate(gains.values()):
        profile = opened.profiles[i]
        assert gain.base == 2.0
        assert gain.generated == pytest.approx(0.94)  # three of rank 2
        assert gain.distance == pytest.approx(distances[i].min())
        assert gain.length == profile.output.total / profile.rows
    assert done == [1, 2, 3, 4]
    assert list(gains) == [entry.name for entry in opened.index.entries]


@pytest.mark.parametrize("used", [[2, 5, 11], [1]])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_a_sum_agrees_with_dense_updates(kind: str, used: list[int], tmp_path: Path) -> None:
    bank = plain_bank()
    bank = pack(bank, tmp_path / "pack", basis=12) if kind == "pack" else bank
    weights = np.array([0.5, -0.25, 2.0])[: len(used)]
    entries = [bank.index.entries[i] for i in used]
    files = bank.adapters(entries)
    for module, (A, B) in zip(bank.layout, _sum(bank, used, weights), strict=True):
        factors = [bank.expand(module.name, *file.factors(module.name)) for file in files]
        As, Bs = zip(*factors, strict=True)
        expected = update(As, Bs, weights, [entry.scaling for entry in entries])
        np.testing.assert_allclose(B @ A, expected, atol=1e-5)
        assert len(A) <= module.out_features
