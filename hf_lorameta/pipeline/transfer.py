"""Measure what each dataset of a bank gains from the adapters of the others."""

from collections.abc import Callable, Sequence

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import Gain, IndexEntry
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import BankError
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.method.distances import between
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array, Row

ROWS = 16
"""Rows of each dataset that are scored."""
_MIN_ADAPTERS = 3


def measure_gains(
    session: Session, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Gain, ...]:
    """Measure the gain of each dataset of the session's bank, and store it in the index.

    Args:
        session: its bank is a folder; some rows of each dataset are read from the Hub.
        progress: called after each dataset with (done, total).

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        BankError: fewer than 3 adapters, or a bank that was fetched from the Hub.
        HubError: a dataset or the base model cannot be fetched.
    """
    bank = session.bank
    bank.require_local()
    _check_size(bank)

    def rows(entry: IndexEntry) -> list[Row]:
        dataset = session.open_dataset(
            entry.dataset,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=entry.columns,
        )
        return dataset.head(ROWS)

    gains = leave_one_out(bank, rows, session.runner, progress)
    bank.update_index(gains=gains)
    return gains


def leave_one_out(
    bank: Bank,
    rows: Callable[[IndexEntry], Sequence[Row]],
    runner: BaseModelRunner,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Gain, ...]:
    """Leave out each dataset in turn, and score what the default recipe makes of the others.

    The sum of the adapters is scored without truncating it to a rank.

    Args:
        bank: N adapters, at least 3.
        rows: returns the rows of an entry's dataset to score on.
        runner: runs the base model.
        progress: called after each dataset with (done, N).

    Raises:
        BankError: fewer than 3 adapters.
    """
    _check_size(bank)
    recipe = Recipe()
    distances = between(bank.profiles, bank.index.vocab_size, recipe.metric)
    gains = []
    for i, entry in enumerate(bank.index.entries):
        others = [j for j in range(len(bank)) if j != i]
        coefficients = apply_rule(recipe.coefficients, _rule_inputs(distances, i, others))
        tokens = runner.encode(rows(entry))
        runner.clear()
        base = runner.loss(tokens)
        runner.set(WeightedSum(bank, others), coefficients)
        nearest = float(distances[i][others].min())
        gains.append(
            Gain(
                distance=nearest,
                base=base,
                generated=runner.loss(tokens),
                length=bank.profiles[i].output_length,
            )
        )
        progress(i + 1, len(bank))
    return tuple(gains)


def _check_size(bank: Bank) -> None:
    if len(bank) < _MIN_ADAPTERS:
        raise BankError(f"the bank holds {len(bank)} adapters, expected at least {_MIN_ADAPTERS}")


def _rule_inputs(distances: Array, index: int, others: list[int]) -> RuleInputs:
    inside = distances[np.ix_(others, others)]
    return RuleInputs(distances[index][others], bank_distances=lambda: inside)
