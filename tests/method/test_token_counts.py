"""Quantities derived from token counts, against plain formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.data.counts.profile import Histogram
from hf_lorameta.method.token_counts import QueryCounts, fast_length
from tests.method.oracles import kernel


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 23, 100, 243])
def test_the_kernels_products_agree_with_the_double_sum(size: int) -> None:
    q = np.random.default_rng(0).integers(0, 9, (4, size)) + (np.arange(size) == 0)
    K = kernel(size)
    counts = QueryCounts([[Histogram.from_dense(row)] for row in q], size)
    shares = q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts.energy, [x @ K @ x for x in shares], rtol=1e-13)
    np.testing.assert_allclose(counts.potential, K @ shares[0], rtol=1e-12)


@given(st.integers(1, 10**6))
def test_fast_lengths_have_no_prime_factor_above_five(least: int) -> None:
    length = rest = fast_length(least)
    assert least <= length < 2 * least or length == least == 1
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
