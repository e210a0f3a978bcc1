"""Weighted sums of a real bank against dense updates."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.method.coefficients import Coefficients
from tests.method.oracles import update
from tests.plain_bank import plain_bank


def dense_updates(bank: Bank, used: list[int]) -> Iterator[list[Any]]:
    """Yield the updates s·B·A of the adapters, module by module."""
    entries = [bank.index.entries[i] for i in used]
    pairs = list(zip(bank.adapters(entries), entries, strict=True))
    for module in bank.layout:
        factors = [bank.expand(module.name, *file.factors(module.name)) for file, _ in pairs]
        yield [
            update([A], [B], [1.0], [entry.scaling])
            for (A, B), (_, entry) in zip(factors, pairs, strict=True)
        ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return pack(plain_bank(), tmp_path_factory.mktemp("pack") / "pack", basis=12)


@pytest.mark.parametrize("kind", ["bank", "pack"])
def test_pairs_and_grams_agree_with_dense_updates(
    kind: str, packed: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = plain_bank() if kind == "bank" else packed
    used, c = [2, 5, 11], np.array([0.5, -0.25, 2.0])
    rows = np.random.default_rng(1).standard_normal((len(bank.layout), 3))
    sums = []
    for max_cached in (0, 1 << 30):  # read each time, and cached
        monkeypatch.setattr("hf_lorameta.bank.weighted_sum.MAX_CACHED", max_cached)
        sums.append(WeightedSum(bank, used))
    shared = [each.pairs(Coefficients(c)) for each in sums]
    by_module = [each.pairs(Coefficients.by_module(rows)) for each in sums]
    products = []
    for row, updates in zip(rows, dense_updates(bank, used), strict=True):
        flat = np.stack(updates).reshape(3, -1)
        products.append(flat @ flat.T)
        for weights, iterators in ((c, shared), (row, by_module)):
            for A, B in map(next, iterators):
                assert np.abs((B @ A).reshape(-1) - weights @ flat).max() < 1e-5
    assert [next(pairs, None) for pairs in (*shared, *by_module)] == [None] * 4
    rtol = 1e-4 if kind == "bank" else 1e-2  # the bases are orthonormal to bfloat16's precision
    atol = rtol * np.abs(products).max()
    some = np.array(products)[:, [2, 0]][:, :, [2, 0]]
    for batch in (64, 2):
        monkeypatch.setattr("hf_lorameta.bank.weighted_sum._GRAM_BATCH", batch)
        for each in sums:
            np.testing.assert_allclose(each.grams(), products, rtol=rtol, atol=atol)
            np.testing.assert_allclose(each.grams([2, 0]), some, rtol=rtol, atol=atol)


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
