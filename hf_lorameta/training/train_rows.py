"""Train a generated adapter on rows of a task, as long as there is time.

Few rows are divided into folds if that fits in: an adapter is trained on the rows outside of each
fold, so that it can answer those of the fold, and then one on all rows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean, median_low
from typing import Any

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.tables import plural
from hf_lorameta.training.context import TrainingContext
from hf_lorameta.training.folds import LEAST, FoldPlan, divided, fold_plan
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.steps import Steps
from hf_lorameta.training.trained import Fold, Trained, TrainingRows
from hf_lorameta.training.trainer import TrainedPart, Trainer, batches

_FIRST_STEPS = 3
"""Steps that show how long one takes; the first one takes longer."""
_LATEST = 3
"""Steps of whose durations the median is that of the next one."""

logger = logging.getLogger(__name__)


def train(
    model: Any,
    part: TrainedPart,
    start: LoraWeights,
    rows: TrainingRows,
    settings: Callable[[int], Settings],
    *,
    steps: int | None = None,
    schedule: int | None = None,
    context: TrainingContext,
) -> Trained:
    """Train an adapter on rows of a task.

    An interruption (Ctrl-C) ends the training with the steps so far. Within a fold, it ends the
    folds, and the adapter is then trained: on all rows if one is finished, else on some.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: what of it is trained.
        start: the adapter that training starts from; without modules, they start from zero.
        rows: to train on.
        settings: returns the settings of a training on so many rows.
        steps: how many to take; None lets time decide.
        schedule: steps after which the learning rate is zero; None is `steps`. Without these, it
            is as many as the settings have, or as there is time for.
        context: its time, and whom it tells.

    Raises:
        KeyboardInterrupt: the training was interrupted within its first steps.
        UsageError: the model cannot be trained, or there is not enough memory.
        AdapterError: its numbers overflow.
    """
    every = rows.foldable or rows.train
    with Trainer(model, part, start, settings(len(rows.train)), every, context.hint) as trainer:
        title = f"Training {part} on {len(every)} rows"
        training = _Training(trainer, settings, rows, context, title)
        try:
            if steps is None:
                training.run()
            else:
                training.take(steps, schedule or steps)
        except KeyboardInterrupt:
            training.interrupt()
            if not training.result.steps:
                raise
    return training.result


class _Training(Steps):
    """A training that ends with the time, or after its steps.

    The arguments are as for `train`; the title is that of its progress.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Callable[[int], Settings],
        rows: TrainingRows,
        context: TrainingContext,
        title: str,
    ) -> None:
        show, clock = partial(context.progress, title), context.deadline.clock
        super().__init__(trainer, settings(len(rows.train)), show, clock)
        self._settings_for, self._rows = settings, rows
        self._deadline, self._reserved = context.deadline, context.reserved
        self._on = 0
        """Rows of the training whose state is kept if it is interrupted; 0 within folds."""

    def take(self, steps: int, schedule: int) -> None:
        """Take so many steps, of a schedule."""
        self.settings = replace(self.settings, steps=schedule)
        order = batches(self._rows.train, self.settings)
        while self.trainer.taken < steps:
            self.step(next(order), steps)
        self._keep_now(len(self._rows.train))

    def run(self) -> None:
        """Train until the time is over, or all steps of the settings are taken."""
        trainer, rows = self.trainer, self._rows
        order = batches(rows.train, self.settings)
        if self._deadline.passed:  # preparing took all the time
            return
        while trainer.taken < _FIRST_STEPS and (not trainer.taken or self._has_time()):
            self.step(next(order), self._likely_steps())
        if rows.foldable and (plan := self._fold_plan()):
            self._train_in_folds(plan)
        else:
            self._train_in_time(order, len(rows.train))

    def interrupt(self) -> None:
        """Keep the adapter as it is now, unless it is that of a fold."""
        if self._on:
            self._keep_now(self._on)
        self.result.interrupted = "steps"

    def _keep_now(self, rows: int) -> None:
        """Make the present state the result of a training on so many rows."""
        self.keep(self.trainer.taken, rows)
        self.result.seen = min(self.trainer.rows_taken, rows)  # each epoch has each row once

    # --- time ---

    @property
    def _step_seconds(self) -> float:
        """How long a step takes, whatever delays one of them; 0 before the first."""
        return median_low(self.durations[-_LATEST:]) if self.durations else 0.0

    @property
    def _time(self) -> float:
        """Seconds that are left for steps."""
        return self._time_for(self._step_seconds)

    def _time_for(self, step: float) -> float:
        """Return the seconds left for training, if a step takes `step` seconds.

        What is reserved for later stages is not left, except for half a step: the last step may end
        that much later.
        """
        return self._deadline.left() - max(self._reserved(step) - step / 2, 0)

    def _likely_steps(self) -> int:
        """Return how many steps there will be, if they take as long as all so far: it is shown.

        The latest decide what is done, but their number would jump.
        """
        more: float = self.settings.steps - self.trainer.taken
        if self.durations:
            step = fmean(self.durations[1:] or self.durations)
            more = min(more, max(self._time_for(step) / step, 0))
        return self.done + int(more)

    def _has_time(self, kept: float = 0.0) -> bool:
        """Whether there is time for another step, besides the seconds that are kept."""
        return self._time > self._step_seconds + kept

    def _train_in_time(self, order: Iterator[list[Tokens]], rows: int) -> None:
        """Take all steps that there is time for, at a rate that falls to zero by then."""
        trainer, self._on = self.trainer, rows
        while trainer.taken < self.settings.steps and self._has_time():
            self.step(next(order), self._likely_steps())
            if self._deadline.limited:
                likely = trainer.taken + self._time / fmean(self.durations[1:])
                self.settings = self.settings.ending_after(trainer.taken, likely)
        if trainer.taken:
            self._keep_now(rows)
        else:  # folds took all the time: they say nothing of an adapter that is not trained
            self.result.folds = ()

    # --- folds ---

    def _fold_plan(self) -> FoldPlan | None:
        steps = self._settings_for(len(self._rows.foldable)).steps
        return fold_plan(steps, self._time / self._step_seconds)

    def _train_in_folds(self, plan: FoldPlan) -> None:
        """Train an adapter for each fold, and then one on all rows.

        If there is no time for even one fold, some rows are not trained on instead; so if the user
        ends the first one.
        """
        trainer, self.done = self.trainer, 0
        self.result.folds = self._finished_folds(plan)
        rows = self._rows.foldable if self.result.folds else self._rows.train
        self.settings = self._settings_for(len(rows))
        if self.result.interrupted:
            logger.warning(
                "The training was interrupted after %s. Training on %s for %s; interrupt again to "
                "end this, too",
                plural(len(self.result.folds), "fold"), plural(len(rows), "row"),
                plural(self.settings.steps, "step"),
            )  # fmt: skip
        trainer.restart()
        self._train_in_time(batches(rows, self.settings), len(rows))

    def _finished_folds(self, plan: FoldPlan) -> list[Fold]:
        """Train on folds until time runs out, or until the user ends it.

        If steps take longer than planned, those that fit in are shared by the folds that are left
        and the training on all rows.
        """
        finished = list[Fold]()
        try:
            for indices in divided(self._rows.foldable, plan.folds, self.settings.seed):
                parts = plan.folds - len(finished) + 1
                steps = int(min(plan.steps, self._time / self._step_seconds / parts))
                if steps < LEAST * plan.steps or not self._train_fold(indices, steps, plan):
                    break
                weights = self.trainer.weights(self.trainer.parameters())
                finished.append(Fold(indices, weights))
        except KeyboardInterrupt:
            self.result.interrupted = "folds"
        return finished

    def _train_fold(self, indices: Sequence[int], steps: int, plan: FoldPlan) -> bool:
        """Train on the rows outside of a fold; return False if time ran out.

        Time for the training on all rows is kept.
        """
        trainer, inside = self.trainer, set(indices)
        others = [row for i, row in enumerate(self._rows.foldable) if i not in inside]
        self.settings = replace(self._settings_for(len(self._rows.foldable)), steps=steps)
        order = batches(others, self.settings)
        trainer.restart()
        while trainer.taken < steps:
            if not self._has_time(LEAST * plan.steps * self._step_seconds):
                return False
            self.step(next(order), plan.total)
        return True
