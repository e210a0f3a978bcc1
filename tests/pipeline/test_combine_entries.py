"""Combiners that choose among entries, on the packed bank with a general adapter."""

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.errors import RecipeError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.pipeline.combine_entries import check_time, combine_entries
from hf_lorameta.types import no_progress

RANK = 192  # of any matrix of the first module


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(TRAIN_FILE, Bank.embedded(), Recipe(top_k=3, combine="magnitude", rank=RANK))


def update(bank: Bank, index: int) -> np.ndarray:
    """The update of one adapter in the first module, in the base model's coordinates."""
    entry, module = bank.index.adapters[index], bank.layout[0].name
    file = bank.adapter(entry)
    V, U = bank.basis.module(module)
    return entry.scaling * (U @ file.tensor(module, "B")) @ (file.tensor(module, "A") @ V)


def test_differences_from_the_general_adapter_are_pruned_in_full_coordinates(planned: Plan) -> None:
    combined = combine_entries(planned, no_progress)
    A, B = next(combined)
    combined.close()
    bank, c = planned.bank, planned.coefficients.shared
    general = update(bank, len(bank))
    expected = c[: len(bank) + 1].sum() * general
    chosen = [i for i in planned.active_indices if i < len(bank)]
    for i in chosen:
        difference = update(bank, i) - general
        smallest = np.sort(np.abs(difference), axis=None)[-int(0.2 * difference.size)]
        expected += c[i] * np.where(np.abs(difference) >= smallest, difference, 0)
    assert len(chosen) == 3
    np.testing.assert_allclose(B @ A, expected, atol=1e-5 * np.abs(expected).max())


def test_what_would_take_hours_is_refused() -> None:
    mistral = tuple(Module(f"model.layers.{i}.mlp.down_proj", 14336, 4096) for i in range(32))
    with pytest.raises(RecipeError, match=r"ties forms the updates of 502 adapters .* hours"):
        check_time("ties", mistral, 502, 16, "--top-k 8")
    with pytest.raises(RecipeError, match=r"2 adapters in full, which takes about 2 hours"):
        check_time("ties", 2 * mistral, 2, 512, "--combine exact")  # by full SVDs
    check_time("ties", mistral, 8, 16, "--combine exact")
