"""Combining adapters of the packed bank, which has a general adapter."""

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.bank import adapter_stack
from hf_lorameta.bank.executors import in_modules
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.method.merging import SPARSE_DENSITY
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import no_progress

RANK = 192  # of any matrix of the first module


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(TRAIN_FILE, Bank.embedded(), Recipe(top_k=3, combine="sparse", rank=RANK))


def update(bank: Bank, index: int) -> np.ndarray:
    """The update of one adapter in the first module, in the base model's coordinates."""
    entry, module = bank.index.adapters[index], bank.layout[0].name
    file = bank.adapter(entry)
    basis = bank.basis
    assert basis is not None
    V, U = basis.module(module)
    return entry.scaling * (U @ file.tensor(module, "B")) @ (file.tensor(module, "A") @ V)


def test_differences_from_the_general_adapter_are_pruned_in_full_coordinates(
    planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        adapter_stack, "in_modules", lambda work, _, threads: in_modules(work, 1, threads)
    )
    (A, B), *_ = combine_adapters(planned, no_progress)
    bank, c = planned.bank, planned.coefficients
    general = update(bank, len(bank))
    chosen = [i for i in planned.active_indices if i < len(bank)]
    differences = {i: update(bank, i) - general for i in chosen}
    total, counts = np.zeros((2, *general.shape))
    for i, difference in differences.items():
        smallest = np.sort(np.abs(difference), axis=None)[-int(SPARSE_DENSITY * difference.size)]
        kept = np.abs(difference) >= smallest
        total += c[i] * kept * difference
        counts += abs(c[i]) * kept
    expected = c[: len(bank) + 1].sum() * general
    expected += sum(abs(c[i]) for i in chosen) * total / np.where(counts, counts, 1)
    assert len(chosen) == 3
    np.testing.assert_allclose(B @ A, expected, atol=1e-5 * np.abs(expected).max())


def test_modules_come_in_their_order_and_few_wait() -> None:
    started: list[int] = []

    def work(module: int) -> int:
        started.append(module)
        return module

    results = in_modules(work, 20, threads=2)
    assert next(results) == 0
    assert len(started) <= 3  # two threads, and the one whose result was taken
    assert list(results) == list(range(1, 20))
