"""Train an adapter on rows of a task: the one loop, for a bank's adapters and for generated ones.

Rows that a bank's adapter is not trained on decide which of its states is kept, by their right
answers and by the probability of their outputs. Their loss is not used: it rises when the adapter
gets too sure of a few wrong answers, while further training still raises the share of right ones.

A generated adapter is trained as long as there is time. Few rows are divided into folds if that
fits in: an adapter is trained on the rows outside of each fold, so that it can answer those of the
fold, and then one on all rows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from statistics import fmean, median_low
from typing import Any

import torch

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.errors import AdapterError, Advice
from hf_lorameta.tables import plural
from hf_lorameta.training.checkpoint import Checkpoint, State
from hf_lorameta.training.folds import LEAST, FoldPlan, divided, fold_plan
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trained import Fold, Gain, Trained, TrainingRows
from hf_lorameta.training.trainer import TrainedPart, Trainer, batches
from hf_lorameta.types import Progress, no_progress

_FIRST_STEPS = 3
"""Steps that show how long one takes; the first one takes longer."""
_LATEST = 3
"""Steps of whose durations the median is that of the next one."""

logger = logging.getLogger(__name__)


def no_seconds(step_seconds: float) -> float:
    """Keep no time for what follows a training: the default of `train`'s `reserved`."""
    return 0.0


def train(
    model: Any,
    part: TrainedPart,
    start: LoraWeights,
    rows: TrainingRows,
    settings: Callable[[int], Settings],
    *,
    steps: int | None = None,
    schedule: int | None = None,
    deadline: Deadline | None = None,
    reserved: Callable[[float], float] = no_seconds,
    checkpoint: Checkpoint | None = None,
    progress: Progress = no_progress,
    hint: Sequence[Advice] = (),
) -> Trained:
    """Train an adapter on rows of a task.

    An interruption (Ctrl-C) ends the training with the steps so far. Within a fold, it ends the
    folds, and the adapter is then trained: on all rows if one is finished, else on some.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: what of it is trained.
        start: the adapter that training starts from; without modules, they start from zero.
        rows: to train on, and others that decide which state is kept.
        settings: returns the settings of a training on so many rows.
        steps: how many to take; None lets time or other rows decide.
        schedule: steps after which the learning rate is zero; None is `steps`. Without these, it
            is as many as the settings have, or as there is time for.
        deadline: a training without held-out rows ends when no more time is left than a step takes.
        reserved: returns the seconds that are to be left then, if a step takes so many.
        checkpoint: where the state of a training with held-out rows is kept, and from where a later
            call continues; an interruption is then raised.
        progress: called after each step with (steps done, likely steps in all).
        hint: what to do if there is not enough memory.

    Raises:
        KeyboardInterrupt: the training was interrupted within its first steps, or has a checkpoint.
        UsageError: the model cannot be trained, or there is not enough memory.
        AdapterError: its numbers overflow.
    """
    every, own = [*(rows.few or rows.train), *rows.held_out], settings(len(rows.train))
    with Trainer(model, part, start, own, every, hint) as trainer:
        training = _Training(
            trainer, part, start, rows, deadline or Deadline(), reserved, checkpoint, progress,
            settings,
        )  # fmt: skip
        try:
            if steps is None:
                training.run()
            else:
                training.take(steps, schedule or steps)
        except KeyboardInterrupt:
            if checkpoint:
                raise
            training.interrupt()
            if not training.result.steps:
                raise
    return training.result


class _Training:
    """A training on rows.

    Attributes:
        result: the adapter so far.

    The arguments are as for `train`.
    """

    def __init__(
        self,
        trainer: Trainer,
        part: TrainedPart,
        start: LoraWeights,
        rows: TrainingRows,
        deadline: Deadline,
        reserved: Callable[[float], float],
        checkpoint: Checkpoint | None,
        progress: Progress,
        settings: Callable[[int], Settings],
    ) -> None:
        self.result = Trained(start)
        self._trainer, self._part, self._rows = trainer, part, rows
        self._deadline, self._reserved = deadline, reserved
        self._checkpoint, self._progress = checkpoint, progress
        self._settings_for, self._settings = settings, settings(len(rows.train))
        self._best = trainer.start
        self._done = 0
        """Steps so far, those of folds too."""
        self._on = 0
        """Rows of the training whose state is kept if it is interrupted; 0 within folds."""
        self._durations = list[float]()

    def take(self, steps: int, schedule: int) -> None:
        """Take so many steps, of a schedule."""
        self._settings = replace(self._settings, steps=schedule)
        order = batches(self._rows.train, self._settings)
        while self._trainer.taken < steps:
            self._step(next(order), steps)
        self._keep(steps, len(self._rows.train))

    def run(self) -> None:
        """Train until the end: of the time, of the steps of the settings, or by interruption."""
        trainer, rows = self._trainer, self._rows
        if rows.held_out:
            self._train_with_held_out()
            return
        order = batches(rows.train, self._settings)
        if self._deadline.passed:  # preparing took all the time
            return
        while trainer.taken < _FIRST_STEPS and (not trainer.taken or self._has_time()):
            self._step(next(order), self._likely_steps())
        if rows.few and (plan := self._fold_plan()):
            self._train_in_folds(plan)
        else:
            self._train_in_time(order, len(rows.train))

    def interrupt(self) -> None:
        """Keep the adapter as it is now, unless it is that of a fold."""
        if self._on:
            self._keep(self._trainer.taken, self._on)
        self.result.interrupted = True

    # --- steps ---

    def _step(self, batch: Sequence[Tokens], likely: int) -> None:
        """Take a step, and show which of how many it probably was."""
        clock, trainer = self._deadline.clock, self._trainer
        started = clock()
        trainer.step(batch, self._settings.learning_rate(trainer.taken))
        self._durations.append(max(clock() - started, 1e-9))
        self.result.seconds += self._durations[-1]
        self.result.taken = trainer.taken
        self._done += 1
        self._progress(self._done, max(likely, self._done))

    @property
    def _step_seconds(self) -> float:
        """How long a step takes, whatever delays one of them; 0 before the first."""
        return median_low(self._durations[-_LATEST:]) if self._durations else 0.0

    @property
    def _time(self) -> float:
        """Seconds that are left for steps: up to half of the last one may be reserved ones."""
        step = self._step_seconds
        return self._deadline.left() - max(self._reserved(step) - step / 2, 0)

    def _likely_steps(self) -> int:
        """Return how many steps there will be, if they take as long as the latest."""
        more: float = self._settings.steps - self._trainer.taken
        if self._step_seconds:
            more = min(more, max(self._time / self._step_seconds, 0))
        return self._done + int(more)

    def _has_time(self, kept: float = 0.0) -> bool:
        """Whether there is time for another step, besides the seconds that are kept."""
        return self._time > self._step_seconds + kept

    def _train_in_time(self, order: Iterator[list[Tokens]], rows: int) -> None:
        """Take all steps that there is time for, at a rate that falls to zero by then."""
        trainer, self._on = self._trainer, rows
        while trainer.taken < self._settings.steps and self._has_time():
            self._step(next(order), self._likely_steps())
            if self._deadline.limited:
                likely = trainer.taken + self._time / fmean(self._durations[1:])
                self._settings = self._settings.ending_after(trainer.taken, likely)
        if trainer.taken:
            self._keep(trainer.taken, rows)
        else:  # folds took all the time: they say nothing of an adapter that is not trained
            self.result.folds = ()

    def _keep(self, steps: int, rows: int, parameters: torch.Tensor | None = None) -> None:
        """Make the present state the result, or other parameters, after steps on so many rows.

        Raises:
            AdapterError: parameters are infinite or not a number.
        """
        result, trainer = self.result, self._trainer
        self._best = trainer.parameters() if parameters is None else parameters
        if not bool(self._best.isfinite().all()):
            overflow = "the base model's numbers overflow in training"
            raise AdapterError(overflow, hint="name another base model")
        result.weights = trainer.weights(self._best)
        result.steps, result.schedule, result.rows = steps, self._settings.steps, rows
        result.layers = self._part.layers - self._part.first if self._part.first else 0

    # --- held-out rows ---

    def _train_with_held_out(self) -> None:
        """Take all steps of the settings, and keep the state that answers held-out rows best."""
        trainer, rows = self._trainer, self._rows
        start = trainer.score(rows.held_out, trainer.start)
        self.result.rows, self.result.gain = len(rows.train), Gain(start, start)
        if stored := self._checkpoint.load() if self._checkpoint else None:
            trainer.resume(stored.taken, stored.vectors)
            self._done = self.result.taken = stored.taken
        if stored and stored.steps:
            self._keep(stored.steps, len(rows.train), stored.best.to(trainer.start))
            self.result.gain = Gain(start, trainer.score(rows.held_out, self._best))
        order = islice(batches(rows.train, self._settings), trainer.taken, None)
        while trainer.taken < self._settings.steps:
            self._step(next(order), self._likely_steps())
            if trainer.taken in self._settings.measured:
                self._keep_if_best()
            if self._checkpoint:
                self._checkpoint.save(self._state)

    def _state(self) -> State:
        trainer = self._trainer
        return State(trainer.taken, trainer.adapter.vectors, self.result.steps, self._best)

    def _keep_if_best(self) -> None:
        """Keep the adapter as it is now if no state so far answers held-out rows better."""
        assert self.result.gain
        before, best = self.result.gain
        now = self._trainer.score(before.rows)
        if now.by_row.mean() > best.by_row.mean():
            self._keep(self._trainer.taken, len(self._rows.train))
            self.result.gain = Gain(before, now)

    # --- folds ---

    def _fold_plan(self) -> FoldPlan | None:
        steps = self._settings_for(len(self._rows.few)).steps
        return fold_plan(steps, self._time / self._step_seconds)

    def _train_in_folds(self, plan: FoldPlan) -> None:
        """Train an adapter for each fold, and then one on all rows.

        If there is no time for even one fold, some rows are not trained on instead; so if the user
        ends the first one.
        """
        trainer, self._done = self._trainer, 0
        self.result.folds = self._finished_folds(plan)
        rows = self._rows.few if self.result.folds else self._rows.train
        self._settings = self._settings_for(len(rows))
        if self.result.interrupted:
            logger.warning(
                "The training was interrupted after %s. Training on %s for %s; Ctrl-C ends this, "
                "too",
                plural(len(self.result.folds), "fold"), plural(len(rows), "row"),
                plural(self._settings.steps, "step"),
            )  # fmt: skip
        trainer.restart()
        self._train_in_time(batches(rows, self._settings), len(rows))

    def _finished_folds(self, plan: FoldPlan) -> list[Fold]:
        """Train on folds until time runs out, or until the user ends it.

        If steps take longer than planned, those that fit in are shared by the folds that are left
        and the training on all rows.
        """
        finished = list[Fold]()
        try:
            for indices in divided(self._rows.few, plan.folds, self._settings.seed):
                parts = plan.folds - len(finished) + 1
                steps = int(min(plan.steps, self._time / self._step_seconds / parts))
                if steps < LEAST * plan.steps or not self._train_fold(indices, steps, plan):
                    break
                weights = self._trainer.weights(self._trainer.parameters())
                finished.append(Fold(indices, weights))
        except KeyboardInterrupt:
            self.result.interrupted = True
        return finished

    def _train_fold(self, indices: Sequence[int], steps: int, plan: FoldPlan) -> bool:
        """Train on the rows outside of a fold; return False if time ran out.

        Time for the training on all rows is kept.
        """
        trainer, inside = self._trainer, set(indices)
        others = [row for i, row in enumerate(self._rows.few) if i not in inside]
        self._settings = replace(self._settings_for(len(self._rows.few)), steps=steps)
        order = batches(others, self._settings)
        trainer.restart()
        while trainer.taken < steps:
            if not self._has_time(LEAST * plan.steps * self._step_seconds):
                return False
            self._step(next(order), plan.total)
        return True
