"""Combining adapters of the packed bank, which has a general adapter."""

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.bank import adapter_stack
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.executors import in_modules
from hf_lorameta.bank.index import GeneralEntry
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import no_progress

RANK = 192  # of any matrix of the first module


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(TRAIN_FILE, embedded_bank(), Recipe(top_k=3, rank=RANK))


def update(bank: Bank, entry: IndexEntry | GeneralEntry) -> np.ndarray:
    """The update of one adapter in the first module, in the base model's coordinates."""
    module = bank.layout[0].name
    file = bank.adapter(entry)
    basis = bank.basis
    assert basis is not None
    V, U = basis.module(module)
    return entry.scaling * (U @ file.tensor(module, "B")) @ (file.tensor(module, "A") @ V)


def test_the_sum_is_that_of_the_updates_in_full_coordinates(
    planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        adapter_stack, "in_modules", lambda work, _, threads: in_modules(work, 1, threads)
    )
    (A, B), *_ = combine_adapters(planned, no_progress)
    assert len(planned.combined) == 4  # and the general adapter
    expected = sum(c * update(planned.bank, entry) for entry, c in planned.combined)
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
