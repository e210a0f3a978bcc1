"""Gains of a bank's datasets, each left out in turn."""

from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.method.metrics import between
from hf_lorameta.pipeline.measure_gains import leave_one_out
from hf_lorameta.recipe import Recipe
from tests.conftest import Built


class CountingRunner:
    """Has a loss of 2 without an adapter, and otherwise 1 less a hundredth for each adapter."""

    def __init__(self) -> None:
        self.value = 0.0

    def encode(self, rows: Any) -> Any:
        return rows

    def clear(self) -> None:
        self.value = 2.0

    def set(self, update: WeightedSum, coefficients: Coefficients) -> None:
        self.value = 1.0 - len(coefficients) / 100

    def loss(self, tokens: Any) -> float:
        return self.value


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
        assert gain.generated == pytest.approx(0.97)
        assert gain.distance == pytest.approx(distances[i].min())
        assert gain.length == profile.output.total / profile.rows
    assert done == [1, 2, 3, 4]
    assert list(gains) == [entry.name for entry in opened.index.entries]
