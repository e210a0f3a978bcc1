"""Train an adapter of a bank: rows that it is not trained on decide which of its states is kept.

They decide by their right answers and by the probability of their outputs. Their loss is not used:
it rises when the adapter gets too sure of a few wrong answers, while further training still raises
the share of right ones.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.training.checkpoint import Checkpoint, State
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.steps import Steps
from hf_lorameta.training.trained import Gain, Trained
from hf_lorameta.training.trainer import TrainedPart, Trainer, batches
from hf_lorameta.types import Progress, no_progress


class TaskRows(NamedTuple):
    """Encoded rows of a task.

    Attributes:
        train: to train on.
        held_out: others, which decide which state is kept.
    """

    train: Sequence[Tokens]
    held_out: Sequence[Tokens]


def train_with_held_out(
    model: Any,
    part: TrainedPart,
    start: LoraWeights,
    rows: TaskRows,
    settings: Settings,
    checkpoint: Checkpoint,
    progress: Progress = no_progress,
) -> Trained:
    """Take all steps of the settings, and return the state that answers held-out rows best.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: what of it is trained.
        start: the adapter that training starts from; without modules, they start from zero.
        rows: to train on, and to hold out.
        settings: of the training.
        checkpoint: where its state is kept, and from where a later call continues.
        progress: called after each step with (steps done, all steps).

    Raises:
        UsageError: the model cannot be trained, or there is not enough memory.
        AdapterError: its numbers overflow.
    """
    with Trainer(model, part, start, settings, [*rows.train, *rows.held_out]) as trainer:
        training = _Training(trainer, settings, progress)
        training.run(rows, checkpoint)
    return training.result


class _Training(Steps):
    """A training whose best state is kept."""

    def run(self, rows: TaskRows, checkpoint: Checkpoint) -> None:
        """Take all steps that an earlier run has not taken."""
        trainer, count = self.trainer, len(rows.train)
        self._best = trainer.start
        start = trainer.score(rows.held_out, trainer.start)
        self.result.rows, self.result.gain = count, Gain(start, start)
        if stored := checkpoint.load():
            trainer.resume(stored.taken, stored.vectors)
            self.done = self.result.taken = stored.taken
        if stored and stored.steps:
            self._best = self.keep(stored.steps, count, stored.best.to(trainer.start))
            self.result.gain = Gain(start, trainer.score(rows.held_out, self._best))
        order = islice(batches(rows.train, self.settings), trainer.taken, None)
        while trainer.taken < self.settings.steps:
            self.step(next(order), self.settings.steps)
            if trainer.taken in self.settings.measured:
                self._keep_if_best(count)
            checkpoint.save(self._state)

    def _keep_if_best(self, rows: int) -> None:
        """Keep the adapter as it is now if no state so far answers held-out rows better."""
        assert self.result.gain
        start, best = self.result.gain
        now = self.trainer.score(start.rows)
        if now.by_row.mean() > best.by_row.mean():
            self._best = self.keep(self.trainer.taken, rows)
            self.result.gain = Gain(start, now)

    def _state(self) -> State:
        trainer = self.trainer
        return State(trainer.taken, trainer.adapter.vectors, self.result.steps, self._best)
