"""The training runs of a bank: one task, or the general adapter on all tasks together."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from hf_lorameta.bank.index import GENERAL
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.forward import even_shares
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import Run


@dataclass(frozen=True)
class TaskRows:
    """The encoded rows of a task.

    Attributes:
        name: name of the task; the order of its rows depends on it.
        train: rows to train on, at least one.
        held_out: rows to measure the loss on, at least one.
        key: everything else that the result depends on; a checkpoint with another key is not used.
    """

    name: str
    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    key: str = ""


def task_run(task: TaskRows, settings: Settings) -> Run:
    """Return the run that trains an adapter on one task."""
    size = min(settings.rows, len(task.train))
    batches = ([batch] for batch in _batches(_epochs(task, settings.seed), size))
    return Run(task.name, batches, [task.held_out], settings.steps, key=task.key)


def general_run(tasks: Sequence[TaskRows], settings: Settings, slots: int, key: str = "") -> Run:
    """Return the run that trains one adapter on all tasks together.

    Every row has the same weight, however long its output is, and every task has the same number of
    rows. The rows of a step are divided among slots with copies of the adapter, whose gradients are
    added up.

    Args:
        tasks: rows of all tasks.
        settings: see `Settings.of_general`.
        slots: number of copies.
        key: what the result depends on.
    """
    batches = (_divided(batch, slots) for batch in _batches(_turns(tasks, settings), settings.rows))
    held_out = _divided([row for task in tasks for row in task.held_out], slots)
    return Run(GENERAL, batches, held_out, settings.steps, copies=True, key=key)


def _batches(rows: Iterator[Tokens], size: int) -> Iterator[list[Tokens]]:
    """Yield the rows of one step after another."""
    while True:
        yield list(islice(rows, size))


def _epochs(task: TaskRows, seed: int) -> Iterator[Tokens]:
    """Yield a task's rows in random order, again and again."""
    for epoch in count():
        order = list(task.train)
        random.Random(f"{seed} {task.name} {epoch}").shuffle(order)
        yield from order


def _turns(tasks: Sequence[TaskRows], settings: Settings) -> Iterator[Tokens]:
    """Yield one row of every task in random order, then the next row of every task."""
    for turn in count():
        order = list(tasks)
        random.Random(f"{settings.seed} {GENERAL} {turn}").shuffle(order)
        yield from (task.train[turn % len(task.train)] for task in order)


def _divided(rows: Sequence[Tokens], slots: int) -> list[list[Tokens]]:
    """Divide rows among slots."""
    sizes = {index: len(row.prompt) + len(row.output) for index, row in enumerate(rows)}
    return [[rows[i] for i in share] for share in even_shares(sizes, slots)]
