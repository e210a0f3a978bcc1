"""The length scale of coefficients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean

from hf_lorameta.method.coefficients import length_scale

LENGTHS = st.lists(st.floats(0.5, 1e4), min_size=1, max_size=20)


@given(st.floats(0.5, 1e5), LENGTHS)
def test_it_is_the_root_of_typical_over_actual_length(length: float, bank: list[float]) -> None:
    expected = min(1.0, (gmean(bank) / length) ** 0.5)
    assert length_scale(length, np.array(bank)) == pytest.approx(expected)


@given(st.floats(0.5, 1e5), st.floats(1, 10), LENGTHS)
def test_longer_outputs_never_get_more(length: float, factor: float, bank: list[float]) -> None:
    lengths = np.array(bank)
    assert 0 < length_scale(length * factor, lengths) <= length_scale(length, lengths) <= 1
