"""Coordinates of the fit: their slopes, and the size of the changes they stand for."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_lorameta.refine.directions import Directions

Array = NDArray[np.float64]


def change_of(directions: Directions, u: Array) -> Array:
    """(3, 4) change of the coefficients of 4 adapters in 3 modules."""
    c = directions.coefficients(np.zeros(4), u)
    return np.stack([c.for_module(i) for i in range(3)])


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_slopes_by_u_agree_with_those_by_coefficients(scale: float) -> None:
    rng = np.random.default_rng(2)
    factors = rng.standard_normal((3, 4, 9))  # of three modules with four adapters
    directions = Directions.of(factors @ factors.transpose(0, 2, 1)).with_module_scale(scale)
    assert directions.dimensions == (16 if scale else 4)
    u, slopes = rng.standard_normal(directions.dimensions), rng.standard_normal((5, 3, 4))
    change = change_of(directions, u)
    along = directions.slopes(slopes) @ u
    np.testing.assert_allclose(along, np.einsum("rlk,lk->r", slopes, change))


def test_unit_steps_in_all_directions_have_updates_of_similar_size() -> None:
    rng = np.random.default_rng(2)
    factors = rng.standard_normal((3, 4, 400)) * rng.uniform(1, 5, (4, 1))
    grams = factors @ factors.transpose(0, 2, 1)
    directions = Directions.of(grams)
    length = np.trace(grams.sum(0)) / 4  # of one adapter, squared
    for index in range(16):
        change = change_of(directions, np.eye(16)[index])
        square = np.einsum("li,lij,lj->", change, grams, change) / length
        expected = 1 if index < 4 else 1 / 3  # in one module of three
        assert 0.5 * expected < square <= expected  # short adapters are not amplified
