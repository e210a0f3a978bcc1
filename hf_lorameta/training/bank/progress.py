"""What a training reports while it runs, and the log of a finished task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_lorameta.bank.index import IndexEntry, Skipped
    from hf_lorameta.training.bank.tasks import Task


@dataclass(frozen=True)
class Log:
    """What training a task took and brought.

    Attributes:
        task: its name.
        rows: rows with an output.
        held_out: number of held-out rows.
        base_loss: mean cross entropy of the base model on the held-out rows, in nats per token.
        loss: the same with the adapter.
        steps: steps taken.
        best_step: the step whose state is the adapter.
        seconds: the task's share of the time.
    """

    task: str
    rows: int
    held_out: int
    base_loss: float
    loss: float
    steps: int
    best_step: int
    seconds: float


class Reporter:
    """Receives the progress of a training; the methods do nothing."""

    def stage(self, title: str, done: int, total: int) -> None:
        """So many tasks are read, or measured, for the general adapter."""

    def start_general(self, steps: int) -> None:
        """The training of the general adapter begins."""

    def general(self, log: Log) -> None:
        """The general adapter is finished."""

    def start(self, tasks: int, finished: int) -> None:
        """Training begins: the number of tasks, and how many an earlier run has finished."""

    def step(self, name: str, step: int, ended: bool) -> None:
        """A task, or the general adapter, has taken a step, perhaps its last."""

    def task(self, task: "Task", outcome: "IndexEntry | Skipped", log: Log | None) -> None:
        """A task is finished or skipped."""
