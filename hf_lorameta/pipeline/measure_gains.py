"""Measure what each dataset of a bank gains from the adapters of the others."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import Gain, IndexEntry
from hf_lorameta.data.counts.output_counts import OutputCounter
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import BankError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.method.metrics import between
from hf_lorameta.pipeline.coefficients import scale_for
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array, FactorPair, Progress, Row, no_progress

ROWS = 16
"""Rows of each dataset that are scored."""
COUNTED_ROWS = 2048
"""Rows of each dataset whose output tokens are counted, those that are scored left out."""
_MIN_ADAPTERS = 3


def measure_gains(session: Session, progress: Progress = no_progress) -> dict[str, Gain]:
    """Measure the gains of datasets of the session's bank, and store them in the index.

    Args:
        session: its bank is a folder; some rows of each dataset are read from the Hub.
        progress: called after each dataset with (done, total).

    Returns:
        As `leave_one_out`.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        BankError: fewer than 3 adapters, a bank that was fetched from the Hub, or one whose general
            adapter was trained on all datasets.
        HubError: a dataset or the base model cannot be fetched.
    """
    bank = session.bank
    bank.require_local()
    _new_to_general(bank)

    def rows(entry: IndexEntry) -> list[Row]:
        dataset = session.open_dataset(
            entry.dataset,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=entry.columns,
        )
        return dataset.head(ROWS + COUNTED_ROWS)

    gains = leave_one_out(bank, rows, session.runner, progress)
    bank.update_index(gains=tuple(gains.values()))
    return gains


def leave_one_out(
    bank: Bank,
    rows: Callable[[IndexEntry], Sequence[Row]],
    runner: BaseModelRunner,
    progress: Progress = no_progress,
) -> dict[str, Gain]:
    """Leave out each dataset in turn, and score what the default recipe makes of the others.

    The general adapter and the output prior take part as they do for a new dataset. Those that the
    general adapter was trained on are not new to it and therefore not measured, nor are others of
    the same source. The sum of the adapters is scored without truncating it to a rank.

    Args:
        bank: N adapters, at least 3.
        rows: returns rows of an entry's dataset: `ROWS` to score on, and those whose output tokens
            are counted, which are the same ones if there are no others.
        runner: runs the base model.
        progress: called after each dataset with (done, total).

    Returns:
        The gains by the names of the bank's entries, in their order.

    Raises:
        BankError: fewer than 3 adapters, or the general adapter was trained on all datasets.
    """
    chosen = _new_to_general(bank)
    recipe = Recipe()
    distances = between(bank.profiles, bank.index.vocab_size, recipe.metric)
    gains = {}
    for done, i in enumerate(chosen, 1):
        entry = bank.index.entries[i]
        others = [j for j in range(len(bank)) if j != i]
        of_entry = rows(entry)
        scored, counted = of_entry[:ROWS], of_entry[ROWS:] or of_entry
        tokens = runner.encode(scored)
        runner.clear()
        base = runner.score(tokens).loss
        runner.apply(*_default_sum(bank, recipe, distances, i, counted))
        nearest = float(distances[i][others].min())
        gains[entry.name] = Gain(
            distance=nearest,
            base=base,
            generated=runner.score(tokens).loss,
            length=bank.profiles[i].output_length,
        )
        progress(done, len(chosen))
    return gains


def _new_to_general(bank: Bank) -> list[int]:
    """Return the entries on which the gain of a new dataset can be measured."""
    if len(bank) < _MIN_ADAPTERS:
        raise BankError(f"the bank holds {len(bank)} adapters, expected at least {_MIN_ADAPTERS}")
    tasks = bank.index.general.tasks if bank.index.general else ()
    names, sources = {task.name for task in tasks}, {task.source for task in tasks} - {None}
    new = [
        i
        for i, entry in enumerate(bank.index.entries)
        if entry.name not in names and entry.source not in sources
    ]
    if not new:
        raise BankError(
            "the bank's general adapter was trained on all of its datasets, so that none can stand "
            "for a new one",
            hint="train it without some of them: hf-lorameta bank train … --general-without FILE",
        )
    return new


def _default_sum(
    bank: Bank, recipe: Recipe, distances: Array, left_out: int, rows: Sequence[Row]
) -> tuple[Layout, list[FactorPair]]:
    """Return what a recipe makes of the bank without one of its datasets, for rows of that one.

    Distances are (N, N), those among the datasets of the bank.
    """
    others = [j for j in range(len(bank)) if j != left_out]
    inside = distances[np.ix_(others, others)]
    general = bank.index.general is not None
    inputs = RuleInputs(distances[left_out][others], bank_distances=lambda: inside, general=general)
    scale = scale_for(bank, recipe, bank.profiles[left_out])
    weights = scale * apply_rule(recipe.coefficients, inputs).shared
    pairs = list(_sum(bank, others + [len(bank)] * general, weights))
    prior = _output_prior(bank, rows)
    if prior is None:
        return bank.layout, pairs
    strength = np.float32(scale * recipe.output_prior)
    return bank.adapted_layout, [*pairs, (prior[0], strength * prior[1])]


def _sum(bank: Bank, indices: Sequence[int], weights: Array) -> Iterator[FactorPair]:
    """Yield factors of the weighted sum of adapters, module by module, with its full rank."""
    stack = AdapterStack(bank, [bank.index.adapters[i] for i in indices])
    by_rank = np.repeat(weights * stack.scalings, stack.ranks).astype(np.float32)
    for module, stored in zip(bank.layout, bank.stored_layout, strict=True):
        A, B = stack.read(stored)
        A, B = bank.expand(module.name, A, B * by_rank)
        if len(A) > module.out_features:  # needs less memory in full
            A, B = B @ A, np.eye(module.out_features, dtype=np.float32)
        yield A, B


def _output_prior(bank: Bank, rows: Sequence[Row]) -> FactorPair | None:
    """Return the factors of the output prior for rows; None if the bank has none."""
    if bank.output_prior is None or bank.index.output_prior is None:
        return None
    counter = OutputCounter(bank.encode, bank.index.vocab_size, bank.index.output_prior.end)
    counter.add(rows)
    return bank.output_prior.factors(counter.counts)
