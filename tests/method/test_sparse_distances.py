"""Distances from sparse counts are those that `hf_lorameta.method.distances` gives of distributions."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hf_lorameta.data.profile import Histogram, Profile, ProfileTable
from hf_lorameta.method import distances as metrics
from hf_lorameta.method.distances import DISTANCES, between, distances
from hf_lorameta.method.sparse_distances import BANDWIDTHS, QueryCounts, fast_length

Array = NDArray[np.float64]
METRICS = sorted(DISTANCES)


def profile(inputs: list[int], outputs: list[int]) -> Profile:
    both = (np.array(inputs, np.int64), np.array(outputs, np.int64))
    return Profile(*map(Histogram.from_dense, both), rows=1)


def profiles(sizes: st.SearchStrategy[int], number: int) -> st.SearchStrategy[list[Profile]]:
    """As many over one vocabulary, mostly of zeros, some without inputs or outputs."""
    count = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10**6))

    def some(size: int) -> st.SearchStrategy[list[Profile]]:
        half = st.lists(count, min_size=size, max_size=size)
        nothing = st.just([0] * size)
        two = st.tuples(half | nothing, half | nothing).filter(lambda x: any(x[0]) or any(x[1]))
        one = two.map(lambda x: profile(*x))
        return st.lists(one, min_size=number, max_size=number)

    return sizes.flatmap(some)


def size_of(drawn: list[Profile]) -> int:
    return 1 + max(int(h.ids.max(initial=0)) for p in drawn for h in (p.input, p.output))


def plainly(new: Profile, bank: list[Profile], size: int, metric: str) -> Array:
    """By the functions on whole distributions, part by part."""
    row, total = DISTANCES[metric], np.zeros(len(bank))
    for term in row.terms:
        p, *Q = ((c := of.counts(size, term.part)) / max(c.sum(), 1) for of in (new, *bank))
        total += term.function(p, np.stack(Q)) if p.any() else 0
    return total


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60)
@given(drawn=profiles(st.integers(1, 40), 5), blocks=st.sampled_from([1, 64 << 10, 48 << 20]))
def test_it_is_what_the_whole_distributions_give(
    metric: str, drawn: list[Profile], blocks: int
) -> None:
    size, table = size_of(drawn) + 2, ProfileTable.from_profiles(drawn)
    expected = [plainly(new, drawn, size, metric) for new in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK_BYTES", blocks)
        each = [distances(new, table, size, metric) for new in drawn]
        all_ = between(table, size, metric)
    np.testing.assert_allclose(each, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(all_, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_so_it_is_at_real_size(metric: str) -> None:
    drawn, size = [zipf(seed, 32_000) for seed in range(5)], 32_000
    table = ProfileTable.from_profiles(drawn)
    expected = plainly(drawn[0], drawn, size, metric)
    np.testing.assert_allclose(
        distances(drawn[0], table, size, metric), expected, rtol=1e-9, atol=1e-11
    )


def zipf(seed: int, size: int) -> Profile:
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    drawn = rng.zipf(1.2, 5_000)
    ids = order[drawn[drawn < size]]
    halves = (np.bincount(x, minlength=size) for x in np.array_split(ids, 2))
    return Profile(*map(Histogram.from_dense, halves), rows=1)


@pytest.mark.parametrize("metric", ["wd", "kl", "js"])
def test_the_same_tokens_are_at_no_distance_however_they_are_split(metric: str) -> None:
    one, other = profile([3, 0, 1, 7], [0, 2, 1, 0]), profile([0, 0, 2, 0], [3, 2, 0, 7])
    table = ProfileTable.from_profiles([one, other])
    assert distances(one, table, 4, metric).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 23, 100, 243])
def test_the_energy_agrees_with_the_double_sum(size: int) -> None:
    q = np.random.default_rng(0).integers(0, 9, (4, size)) + (np.arange(size) == 0)
    gap = np.subtract.outer(np.arange(size), np.arange(size)).astype(float)
    K = sum(a**2 / (a**2 + gap**2) for a in BANDWIDTHS)
    counts = QueryCounts([[Histogram.from_dense(row)] for row in q], size)
    shares = q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts.energy, [x @ K @ x for x in shares], rtol=1e-13)
    np.testing.assert_allclose(counts.potential, K @ shares[0], rtol=1e-12)


@given(st.integers(1, 10**6))
def test_fast_lengths(least: int) -> None:
    length = rest = fast_length(least)
    assert least <= length < 2 * least or length == least == 1
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


@pytest.mark.parametrize("metric", METRICS)
def test_memory_does_not_follow_the_bank(metric: str) -> None:
    table = ProfileTable.from_profiles([zipf(seed, 50_000) for seed in range(60)])
    tracemalloc.start()
    try:
        distances(table[0], table, 50_000, metric)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
