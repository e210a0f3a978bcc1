"""What the benchmark of screens measures, where the answer is known."""

import numpy as np
import pytest

from hf_lorameta.formats.lora_layout import Module
from tests.benchmarks.adapter_screen import classifier, kurtosis, measures, one_measure, thin_svd
from tests.support.random_adapter import random_pairs

pytestmark = pytest.mark.unit
LAYOUT = tuple(Module(f"model.layers.{i}.mlp.up_proj", 10, 14) for i in range(3))


def test_the_svd_of_factors_is_that_of_the_whole_update() -> None:
    (A, B), *_ = random_pairs(LAYOUT, rank=4)
    U, s, V = thin_svd(A, B)
    np.testing.assert_allclose((U * s) @ V.T, B @ A, atol=1e-6)
    np.testing.assert_allclose(s, np.linalg.svd(B @ A)[1][:4], rtol=1e-5)


def test_an_update_of_one_direction_in_all_layers_is_concentrated_and_agrees() -> None:
    a, b = np.zeros(10), np.ones(14)
    a[0], b[7:] = 1.0, -1.0
    A = np.stack([a, np.roll(a, 1)]).astype(np.float32)
    B = np.stack([b, 0 * b], 1).astype(np.float32)
    found = measures({module.name: (A, B * np.float32(i + 1)) for i, module in enumerate(LAYOUT)})
    assert {name.removeprefix("up_proj "): round(value, 6) for name, value in found.items()} == {
        "norm": round(np.log(14 ** (3 / 2) * 6) / 3, 6), "share": 1, "entropy": 0,
        "out kurtosis": 0, "in kurtosis": round(np.log(kurtosis(a)), 6), "agreement": 1,
        "unevenness": round(float(np.std(np.log([1, 2, 3]))), 6),
    }  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), [([1, -1], 1), ([0, 0, 0, 1], 7 / 3)])
def test_kurtosis(values: list[float], expected: float) -> None:
    assert kurtosis(np.array(values)) == pytest.approx(expected)


def test_screens_find_what_differs_in_one_measure_and_alarm_of_no_clean_adapter() -> None:
    rng = np.random.default_rng(0)
    clean, poisoned = rng.normal(size=(2, 30, 4))
    poisoned[:, 2] += 8
    for fit in (classifier, one_measure):
        screen = fit(clean, poisoned)
        assert (screen(poisoned) > 0).all()
        assert not (screen(clean) > 0).any()
