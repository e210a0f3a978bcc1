"""Quantities derived from token counts, against plain formulas."""

import numpy as np
import pytest

from hf_lorameta.data.counts.profile import Histogram
from hf_lorameta.method.token_counts import QueryCounts
from tests.method.oracles import kernel


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 23, 100, 243])
def test_the_kernels_products_agree_with_the_double_sum(size: int) -> None:
    q = np.random.default_rng(0).integers(0, 9, (4, size)) + (np.arange(size) == 0)
    K = kernel(size)
    counts = QueryCounts([[Histogram.from_dense(row)] for row in q], size)
    shares = q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts.energy, [x @ K @ x for x in shares], rtol=1e-13)
    np.testing.assert_allclose(counts.potential, K @ shares[0], rtol=1e-12)
