"""Fit the neural coefficient rule on a bank and store it there."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.method.distances import METRICS, between
from hf_lorameta.method.neural import FitReport, fit_neural, gram


def fit_bank(
    bank: Bank,
    *,
    hidden: int = 256,
    steps: int = 40,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, FitReport]:
    """Train the neural rule for every metric, store it in a local bank, and return the losses.

    All adapters are read once, one module at a time. The paper's experiment uses 4,000 `hidden`
    units. `progress` is called with (stage, done, total).

    Raises:
        MissingExtraError: torch is not installed.
        BankError: the bank has fewer than 3 adapters, or was fetched from the Hub.
    """
    bank.require_local()
    progress("Gram matrix", 0, 1)
    G = gram(bank.blocks())
    progress("Gram matrix", 1, 1)
    arrays: dict[str, NDArray[np.float32]] = {}
    reports: dict[str, FitReport] = {}
    for metric, row in METRICS.items():
        D = between(bank.profiles, bank.index.vocab_size, metric)
        model, reports[metric] = fit_neural(
            D, G, hidden=hidden, steps=steps, seed=seed, progress=partial(progress, row.title)
        )
        arrays |= {f"{metric}.{name}": array for name, array in model.to_arrays().items()}
    bank.store_neural(arrays)
    return reports
