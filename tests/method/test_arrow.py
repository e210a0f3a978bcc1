"""Prototypes, against the SVD of the dense update and PEFT's power iteration."""

import numpy as np
import pytest

from hf_lorameta.errors import AdapterError
from hf_lorameta.method.arrow import prototype


def random_factors(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(4, 24)), rng.normal(size=(16, 4))
    return A.astype(np.float32), B.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_prototype_is_the_direction_that_the_update_amplifies_most(seed: int) -> None:
    A, B = random_factors(seed)
    v = prototype(A, B)
    _, s, Vt = np.linalg.svd(B @ A)
    np.testing.assert_allclose(np.linalg.norm(B @ (A @ v)), s[0], rtol=1e-5)
    np.testing.assert_allclose(abs(v @ Vt[0]), 1, rtol=1e-5)
    assert v[np.abs(v).argmax()] > 0


def test_a_prototype_does_not_depend_on_how_the_update_is_factored() -> None:
    A, B = random_factors(0)
    R = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    np.testing.assert_allclose(prototype(R @ A, B @ np.linalg.inv(R)), prototype(A, B), atol=1e-4)
    padded = np.pad(A, ((0, 3), (0, 0))), np.pad(B, ((0, 0), (0, 3)))
    np.testing.assert_allclose(prototype(*padded), prototype(A, B), atol=1e-5)


def test_an_update_of_zero_has_a_prototype_of_zeros() -> None:
    A, B = random_factors(0)
    np.testing.assert_array_equal(prototype(A, 0 * B), np.zeros(24))


def test_values_that_are_not_finite_are_refused() -> None:
    A, B = random_factors(0)
    A[0, 0] = np.nan
    with pytest.raises(AdapterError, match="NaN"):
        prototype(A, B)
