"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import Gain
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.engines.torch_runner import TorchRunner
from hf_lorameta.errors import BankError
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.method import distances
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row


def measure_gains(
    opened: Bank,
    *,
    token: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Gain, ...]:
    """Measure what each dataset of a bank gains from the others, and store it in the index.

    Args:
        opened: a bank folder; its datasets are read from the Hub, some rows each.
        token: None uses the saved one.
        progress: called after each dataset with (done, total).

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        BankError: fewer than 3 adapters, or a bank that was fetched from the Hub.
        HubError: a dataset or the base model is out of reach.
    """
    opened.require_local()
    connection, index = Hub(token), opened.index

    def rows(i: int) -> list[Row]:
        entry = index.entries[i]
        return open_dataset(
            entry.dataset,
            connection,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=entry.columns,
        ).head(ROWS)

    evaluator = TorchEvaluator(locate(index.base_model), base_model=index.base_model)
    between = distances.between(opened.profiles, index.vocab_size, Recipe().metric)
    probe = TorchRunner(evaluator, opened.layout)
    gains = leave_one_out(opened, between, rows, probe, progress)
    opened.update_index(gains=gains)
    return gains


ROWS = 16
"""Rows of each dataset that are scored."""


def leave_one_out(
    bank: Bank,
    between: NDArray[np.float64],
    rows: Callable[[int], Sequence[Row]],
    scored: BaseModelRunner,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Gain, ...]:
    """Leave every dataset out once, and score what the default recipe makes of the others.

    The sum of the adapters is scored whole, not cut to a rank.

    Args:
        bank: N adapters, at least 3.
        between: (N, N) distances inside the bank in the default recipe's metric.
        rows: the first rows of dataset i.
        scored: holds the base model.
        progress: called after each with (done, N).

    Raises:
        BankError: fewer than 3 adapters.
    """
    if len(bank) < 3:
        raise BankError(f"the bank holds {len(bank)} adapters, expected at least 3")
    found = []
    for i in range(len(bank)):
        others = [j for j in range(len(bank)) if j != i]
        c = _default_coefficients(between[i][others], between[np.ix_(others, others)])
        tokens = scored.encode(rows(i))
        scored.clear()
        base = scored.loss(tokens)
        scored.set(WeightedSum(bank, others), c)
        nearest = float(between[i][others].min())
        found.append(Gain(distance=nearest, base=base, generated=scored.loss(tokens)))
        progress(i + 1, len(bank))
    return tuple(found)


def _default_coefficients(
    distances: NDArray[np.float64], inside: NDArray[np.float64]
) -> Coefficients:
    """Coefficients by the default recipe's rule, given the distances inside the bank."""
    inputs = RuleInputs(distances, bank_distances=lambda: inside)
    return apply_rule(Recipe().coefficients, inputs)
