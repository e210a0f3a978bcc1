"""Shrinking an adapter until it is not worse than its base model."""

import numpy as np
import pytest

from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.results import Validation
from hf_lorameta.refine.shrink import backtrack_scale, validate
from tests.refine.models import ROWS, Slope


def test_the_scale_is_zero_if_every_share_is_worse_than_the_base_model() -> None:
    model = Slope(base=0.01)
    rows = model.encode(ROWS)
    assert backtrack_scale(Coefficients(np.ones(1)), 8.0, 0.01, model, model, rows) == (0.0, 0.01)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (9.0, Validation(16, 9.0, 8.0, 8.0, 1.0, "none")),
        (5.0, Validation(16, 5.0, 8.0, 2.0, 0.5, "none")),
        (1.5, Validation(16, 1.5, 8.0, 0.5, 0.25, "none")),
        (0.1, Validation(16, 0.1, 8.0, 0.1, 0.0, "none")),
    ],
)
def test_an_adapter_is_halved_until_it_is_not_worse(base: float, expected: Validation) -> None:
    model = Slope(base)
    assert validate(model, model, model.encode(ROWS)) == expected
