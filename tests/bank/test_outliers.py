"""Which adapters look odd beside others, by the norms of their updates."""

from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.bank.outliers import Norms, outliers
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.lora_layout import Module
from tests.support.random_adapter import random_pairs, write_adapter

LAYOUT = tuple(
    Module(f"model.layers.{i}.self_attn.{name}", 12, out)
    for i in range(5)
    for name, out in (("q_proj", 16), ("v_proj", 4))
)


def test_norms_are_those_of_the_dense_updates(tmp_path: Path) -> None:
    pairs = random_pairs(LAYOUT, rank=3)
    pairs[4] = (pairs[4][0], pairs[4][1] * 10)  # of the third layer's q_proj
    file = AdapterFile(write_adapter(tmp_path / "a", LAYOUT, pairs) / WEIGHTS_FILE)
    dense = [np.square(np.linalg.svd(-2.0 * B @ A)[1]).sum() for A, B in pairs]
    found = Norms.of(file, -2.0)
    assert found.whole == pytest.approx(np.sqrt(sum(dense)), rel=1e-5)
    assert found.largest == pytest.approx(np.sqrt(dense[4] / np.median(dense[::2])), rel=1e-5)


ORDINARY = {"a": Norms(1.0, 1.5), "b": Norms(1.2, 2.0), "c": Norms(0.9, 1.8)}
UNEVEN = {name: Norms(norm.whole, 4 * norm.largest) for name, norm in ORDINARY.items()}


@pytest.mark.parametrize(
    ("bank", "odd", "words"),
    [
        (ORDINARY, Norms(1.1, 2.5), None),
        (ORDINARY, Norms(3.0, 2.0), None),
        (ORDINARY, Norms(30.0, 2.0), "27 times the median"),
        (ORDINARY, Norms(1.1, 9.0), "a module of its update has 9 times the norm"),
        (ORDINARY, Norms(0.0), None),
        ({"a": Norms(1.0, 1.5)}, Norms(1.0, 9.0), "a module"),
        (UNEVEN, Norms(1.1, 9.0), None),  # usual for this base model
        (UNEVEN, Norms(1.1, 60.0), "a module"),
        ({"a": Norms(1.0), "b": Norms(1.1)}, Norms(30.0), "times the median"),  # earlier indexes
    ],
)
def test_an_adapter_far_larger_than_others_is_named_with_what_is_odd(
    bank: dict[str, Norms], odd: Norms, words: str | None
) -> None:
    found = outliers(bank | {"odd": odd})
    assert list(found) == (["odd"] if words else [])
    assert words is None or words in found["odd"]
