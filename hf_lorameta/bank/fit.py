"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.method.distances import METRICS, between
from hf_lorameta.method.neural import FitReport, fit_neural, gram


def fit_bank(
    opened: Bank,
    *,
    hidden: int = 256,
    steps: int = 40,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, FitReport]:
    """Train the neural rule for every metric and store it in the bank.

    Args:
        opened: a bank folder; all its adapters are read once, one module at a time.
        hidden: width of the network; the paper's experiment has 4,000.
        steps: of the optimizer.
        seed: of the split and the network's start.
        progress: called with what is done next.

    Returns:
        Per metric, how the fit went.

    Raises:
        MissingExtraError: torch is not installed.
        BankError: fewer than 3 adapters.
    """
    opened.require_local()
    progress("Gram matrix")
    G = gram(opened.blocks())
    arrays: dict[str, NDArray[np.float32]] = {}
    reports: dict[str, FitReport] = {}
    for metric, row in METRICS.items():
        progress(row.title)
        D = between(opened.profiles, opened.index.vocab_size, metric)
        model, reports[metric] = fit_neural(D, G, hidden=hidden, steps=steps, seed=seed)
        arrays |= {f"{metric}.{name}": array for name, array in model.to_arrays().items()}
    opened.store_neural(arrays)
    return reports
