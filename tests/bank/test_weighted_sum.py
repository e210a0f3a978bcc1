"""Weighted sums of a real bank against dense updates."""

from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.method.coefficients import Coefficients
from tests.method.oracles import update
from tests.plain_bank import plain_bank


def dense_updates(bank: Bank, used: list[int]) -> list[list[Any]]:
    """Update s·B·A of each module and adapter."""
    entries = [bank.index.entries[i] for i in used]
    files = bank.adapters(entries)

    def dense(file: Any, entry: Any, name: str) -> Any:
        A, B = bank.expand(name, *file.factors(name))
        return update([A], [B], [1.0], [entry.scaling])

    pairs = list(zip(files, entries, strict=True))
    return [[dense(file, entry, m.name) for file, entry in pairs] for m in bank.layout]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return pack(plain_bank(), tmp_path_factory.mktemp("pack") / "pack", basis=12)


@pytest.mark.parametrize("max_cached", [0, 1 << 30], ids=["read each time", "cached"])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_pairs_and_grams_agree_with_dense_updates(
    kind: str, max_cached: int, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", max_cached)
    bank = plain_bank() if kind == "bank" else packed
    used, c = [2, 5, 11], np.array([0.5, -0.25, 2.0])
    weighted_sum, updates = WeightedSum(bank, used), dense_updates(bank, used)
    for each, (A, B) in zip(updates, weighted_sum.pairs(Coefficients(c)), strict=True):
        np.testing.assert_allclose(B @ A, np.tensordot(c, each, 1), atol=1e-5)
    rows = np.random.default_rng(1).standard_normal((len(updates), 3))
    for row, each, (A, B) in zip(
        rows, updates, weighted_sum.pairs(Coefficients.by_module(rows)), strict=True
    ):
        np.testing.assert_allclose(B @ A, np.tensordot(row, each, 1), atol=1e-5)
    products = [[[float((a * b).sum()) for a in each] for b in each] for each in updates]
    rtol = 1e-4 if kind == "bank" else 1e-2  # the bases are orthonormal to bfloat16's precision
    atol = rtol * np.abs(products).max()
    np.testing.assert_allclose(weighted_sum.grams(), products, rtol=rtol, atol=atol)
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum._GRAM_BATCH", 2)
    np.testing.assert_allclose(weighted_sum.grams(), products, rtol=rtol, atol=atol)
    some = np.array(products)[:, [2, 0]][:, :, [2, 0]]
    np.testing.assert_allclose(weighted_sum.grams([2, 0]), some, rtol=rtol, atol=atol)


@pytest.mark.parametrize("max_cached", [0, 1 << 30], ids=["read each time", "cached"])
@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_adapters_without_weight_are_left_out(
    kind: str, max_cached: int, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = plain_bank() if kind == "bank" else packed
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", max_cached)
    weighted_sum = WeightedSum(bank, [2, 5, 11])
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", 1 << 30)
    c = np.array([0.0, -0.5, 0.0])
    rows = list(weighted_sum.pairs(Coefficients.by_module(np.tile(c, (len(bank.layout), 1)))))
    some = list(weighted_sum.pairs(Coefficients(c)))
    for (A, B), (C, D) in zip(some, rows, strict=True):
        np.testing.assert_array_equal(A, C)
        np.testing.assert_array_equal(B, D)
    assert {len(A) for A, _ in some} == {bank.index.entries[5].rank}
    alone = WeightedSum(bank, [5]).pairs(Coefficients(np.array([-0.5])))
    for (A, B), (C, D) in zip(some, alone, strict=True):
        np.testing.assert_allclose(B @ A, D @ C, atol=1e-6)


def test_cached_factors_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = plain_bank()
    name = bank.layout[0].name
    cached = WeightedSum(bank, [0, 1])
    assert cached.factors(name) is cached.factors(name)
    monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", 0)
    uncached = WeightedSum(bank, [0, 1])
    assert uncached.factors(name) is not uncached.factors(name)
    np.testing.assert_array_equal(uncached.factors(name).B, cached.factors(name).B)


def test_sums_by_adapter_are_over_its_ranks() -> None:
    weighted_sum = WeightedSum(plain_bank(), [3, 1])
    ranks = [weighted_sum._bank.index.entries[i].rank for i in (3, 1)]
    assert weighted_sum.rank == sum(ranks)
    assert weighted_sum.by_adapter(np.ones(weighted_sum.rank)).tolist() == ranks
    assert weighted_sum.by_adapter(np.ones((2, weighted_sum.rank))).tolist() == [ranks, ranks]
