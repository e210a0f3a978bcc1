"""Train an adapter on rows of a task: the one loop, for a bank's adapters and for generated ones.

Rows that an adapter was not trained on decide whether it is kept, by their right answers and by the
probability of their outputs. Their loss is not used: it rises when the adapter gets too sure
of a few wrong answers, while further training still raises the share of right ones.

Of many rows, some are held out; if the gain on these is within its standard error, a generated
adapter stays as it was. Few rows are divided into folds if there is time: an adapter is
trained on the rows outside of each fold, and answers those of the fold. If these answers are
better, one is then trained on all rows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import Any, NamedTuple

import torch

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.errors import Advice
from hf_lorameta.tables import plural
from hf_lorameta.training.checkpoint import Checkpoint, State
from hf_lorameta.training.folds import FoldPlan, divided, fold_plan
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trained import Fold, Gain, Trained, TrainingRows
from hf_lorameta.training.trainer import (
    HeldOutLosses,
    TrainedPart,
    Trainer,
    batches,
    is_significant,
    joined,
)
from hf_lorameta.types import Progress, no_progress

_FIRST_STEPS = 3
"""Steps that show how long one takes; the first one takes longer."""
_SCORING_SHARE = 0.1
"""Share of the time of a training that scoring held-out rows may take."""
_FIRST_HELD_OUT = 8
"""Held-out rows that are scored whatever time it takes."""

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
    deadline: Deadline | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = no_progress,
    hint: Sequence[Advice] = (),
) -> Trained:
    """Train an adapter on rows of a task; keep the best state.

    An interruption (Ctrl-C) ends the training with the best state so far, if steps have helped.
    Within a fold, it ends the folds: the adapter is trained on all rows if one is finished.

    Args:
        model: a causal LM of transformers with frozen weights.
        part: what of it is trained.
        start: the adapter that training starts from; without modules, they start from zero.
        rows: to train on, and others that decide.
        settings: returns the settings of a training on so many rows.
        steps: how many to take, whatever other rows say; None lets other rows decide.
        schedule: steps after which the learning rate is zero; None is `steps`. Without these, it
            is as many as the settings have, or as there is time for.
        deadline: the training ends when less time is left than a step and scoring took.
        checkpoint: where the state of a training with held-out rows is kept, which goes on from
            there; an interruption is then raised.
        progress: called after each step with (steps done, likely steps in all).
        hint: what to do if there is not enough memory.

    Raises:
        KeyboardInterrupt: the training was interrupted before rows showed that a step helps, or
            has a checkpoint.
        UsageError: the model cannot be trained, or there is not enough memory.
    """
    every, own = [*rows.train, *rows.held_out], settings(len(rows.train))
    with Trainer(model, part, start, own, every, hint) as trainer:
        training = _Training(
            trainer, part, start, rows, deadline or Deadline(), checkpoint, progress, settings
        )
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


class _TrainedFold(NamedTuple):
    """A fold, an adapter that was trained on the other rows, (P,), and its scores of this fold."""

    indices: Sequence[int]
    scores: HeldOutLosses
    parameters: torch.Tensor


class _Training:
    """A training on rows.

    Attributes:
        result: the best adapter so far.

    The arguments are as for `train`.
    """

    def __init__(
        self,
        trainer: Trainer,
        part: TrainedPart,
        start: LoraWeights,
        rows: TrainingRows,
        deadline: Deadline,
        checkpoint: Checkpoint | None,
        progress: Progress,
        settings: Callable[[int], Settings],
    ) -> None:
        self.result = Trained(start)
        self._trainer, self._part, self._rows = trainer, part, rows
        self._deadline, self._checkpoint, self._progress = deadline, checkpoint, progress
        self._settings_for, self._settings = settings, settings(len(rows.train))
        self._best = trainer.start
        self._done, self._score_seconds = 0, 0.0
        self._durations = list[float]()

    def take(self, steps: int, schedule: int) -> None:
        """Take so many steps, of a schedule."""
        self._settings = replace(self._settings, steps=schedule)
        order = batches(self._rows.train, self._settings)
        while self._trainer.taken < steps:
            self._step(next(order), steps)
        self._keep(steps, len(self._rows.train))

    def run(self) -> None:
        """Take all steps that there is time for, and keep them if other rows gain."""
        trainer, rows = self._trainer, self._rows
        stored = self._checkpoint.load() if self._checkpoint else None
        if stored:
            trainer.resume(stored.taken, stored.vectors)
            self._done = self.result.taken = stored.taken
        order = islice(batches(rows.train, self._settings), trainer.taken, None)
        while trainer.taken < _FIRST_STEPS and not self._deadline.passed:
            self._step(next(order), self._likely_steps())
        if not trainer.taken:  # preparing took all the time
            return
        if rows.few and (plan := self._fold_plan()):
            self._train_in_folds(plan)
        else:
            self._train_with_held_out(order, stored)

    def interrupt(self) -> None:
        """Keep the adapter as it is now, if it was found to be better."""
        result, taken = self.result, self._trainer.taken
        if result.folds and taken:
            self._keep(taken, len(self._rows.few))
        elif result.gain and not result.folds:
            self._keep_if_better(result.gain)
        result.interrupted = True

    # --- steps ---

    def _step(self, batch: Sequence[Tokens], likely: int) -> None:
        """Take a step, and show which of how many it probably was."""
        clock, trainer = self._deadline.clock, self._trainer
        started = clock()
        trainer.step(batch, self._settings.learning_rate(trainer.taken))
        self._durations.append(max(clock() - started, 1e-9))
        self.result.seconds += self._step_seconds
        self.result.taken = trainer.taken
        self._done += 1
        self._progress(self._done, max(likely, self._done))

    @property
    def _step_seconds(self) -> float:
        """How long the latest step took; 0 before the first."""
        return self._durations[-1] if self._durations else 0.0

    def _likely_steps(self) -> int:
        """Return how many steps there will be, if each takes as long as the latest."""
        if not self._step_seconds:
            return self._settings.steps
        more = (self._deadline.left() - self._score_seconds) / self._step_seconds
        return int(min(self._settings.steps, self._trainer.taken + max(more, 0)))

    def _has_time(self, reserved: float = 0.0) -> bool:
        """Whether there is time for another step, besides the seconds that are reserved."""
        return self._deadline.left() > self._step_seconds + reserved

    def _keep(self, steps: int, rows: int, parameters: torch.Tensor | None = None) -> None:
        """Make the present state the result, or other parameters, after steps on so many rows."""
        result, trainer = self.result, self._trainer
        self._best = trainer.parameters() if parameters is None else parameters
        result.weights = trainer.weights(self._best)
        result.steps, result.schedule, result.rows = steps, self._settings.steps, rows
        result.layers = self._part.layers - self._part.first if self._part.first else 0

    # --- held-out rows ---

    def _train_with_held_out(
        self, order: Iterator[list[Tokens]], stored: State | None = None
    ) -> None:
        trainer, rows = self._trainer, self._rows
        self.result.rows, scored = len(rows.train), 0
        start = self._score_start()
        gain = self.result.gain = Gain(start, start)
        if stored and stored.steps:
            self._keep(stored.steps, len(rows.train), stored.best.to(trainer.start))
            gain = self.result.gain = Gain(start, trainer.score(start.rows, self._best))
        while trainer.taken < self._settings.steps and self._has_time(self._score_seconds):
            self._step(next(order), self._likely_steps())
            if self._deadline.limited:
                self._end_in_time()
            if trainer.taken in self._settings.measured:
                gain, scored = self._keep_if_better(gain), trainer.taken
            if self._checkpoint:
                self._checkpoint.save(self._state)
        if trainer.taken > scored:
            self._keep_if_better(gain)

    def _end_in_time(self) -> None:
        """Let the learning rate fall to zero when the time is over, if not all steps fit in."""
        taken, left = self._trainer.taken, self._deadline.left() - self._score_seconds
        likely = taken + left / fmean(self._durations[1:])
        self._settings = self._settings.ending_after(taken, likely)

    def _state(self) -> State:
        trainer = self._trainer
        return State(trainer.taken, trainer.adapter.vectors, self.result.steps, self._best)

    def _score_start(self) -> HeldOutLosses:
        """Score the adapter before training, on as many rows as a share of the time allows.

        Without a time limit, these are all, so that the same rows give the same adapter.
        """
        trainer, rows, clock = self._trainer, self._rows.held_out, self._deadline.clock
        parts, done, planned = list[HeldOutLosses](), 0, self._likely_steps()
        stop = _FIRST_HELD_OUT if self._deadline.limited else len(rows)
        seconds = _SCORING_SHARE * planned * self._step_seconds
        measurements = 1 + self._settings.measurements
        while part := rows[done:stop]:  # what a row takes is measured again: the first take longer
            started = clock()
            parts.append(trainer.score(part, trainer.start))
            of_row = max(clock() - started, 1e-9) / len(part)
            done += len(part)
            self._score_seconds = of_row * done
            stop = min(int(seconds / measurements / of_row), 2 * done)
        return joined(parts)

    def _keep_if_better(self, gain: Gain) -> Gain:
        """Keep the adapter if it is the best so far, and significantly, if the settings say so.

        Args:
            gain: of the best so far.

        Returns:
            The gain of the adapter if it is kept, else the one that was given.
        """
        clock, (before, best) = self._deadline.clock, gain
        started = clock()
        now = self._trainer.score(before.rows)
        self._score_seconds = clock() - started
        gains = now.by_row - before.by_row
        certain = not self._settings.significant or is_significant(gains)
        if certain and now.by_row.mean() > best.by_row.mean():
            self._keep(self._trainer.taken, len(self._rows.train))
            gain = self.result.gain = Gain(before, now)
        return gain

    # --- folds ---

    def _fold_plan(self) -> FoldPlan | None:
        steps = self._settings_for(len(self._rows.few)).steps
        return fold_plan(steps, self._deadline.left() / self._step_seconds)

    def _train_in_folds(self, plan: FoldPlan) -> None:
        """Train on all rows if the adapters of folds are better than the start.

        If time does not suffice for one fold, rows are held out instead.
        """
        rows, trainer = self._rows.few, self._trainer
        self._settings, self._done = replace(self._settings_for(len(rows)), steps=plan.steps), 0
        finished = self._finished_folds(plan)
        trainer.restart()
        if not finished:
            self._settings, self._done = self._settings_for(len(self._rows.train)), 0
            self._train_with_held_out(batches(self._rows.train, self._settings))
            return
        steps = plan.steps if self._record_folds(finished) else 0
        self.result.rows = len(rows)
        if self.result.interrupted and steps:
            logger.warning(
                "The training was interrupted after %s. Training on all rows for %s; Ctrl-C ends "
                "this, too",
                plural(len(finished), "fold"), plural(steps, "step"),
            )  # fmt: skip
        order = batches(rows, self._settings)
        while trainer.taken < steps and self._has_time():
            self._step(next(order), self._done + steps - trainer.taken)
        if trainer.taken:
            self._keep(trainer.taken, len(rows))

    def _finished_folds(self, plan: FoldPlan) -> list[_TrainedFold]:
        """Train on folds until time runs out, or until the user ends it after the first."""
        finished = list[_TrainedFold]()
        try:
            for indices in divided(self._rows.few, plan.folds, self._settings.seed):
                fold = self._train_fold(indices, plan)
                if fold is None:
                    break
                finished.append(fold)
        except KeyboardInterrupt:
            if not finished:
                raise
            self.result.interrupted = True
        return finished

    def _train_fold(self, indices: Sequence[int], plan: FoldPlan) -> _TrainedFold | None:
        """Train on the rows outside of a fold, and score those of it; None if time ran out.

        Time for the training on all rows is kept.
        """
        trainer, rows, inside = self._trainer, self._rows.few, set(indices)
        order = batches([r for i, r in enumerate(rows) if i not in inside], self._settings)
        trainer.restart()
        while trainer.taken < plan.steps:
            if not self._has_time(plan.steps * self._step_seconds):
                return None
            self._step(next(order), plan.total)
        scores = trainer.score([rows[i] for i in indices])
        return _TrainedFold(indices, scores, trainer.parameters())

    def _record_folds(self, folds: Sequence[_TrainedFold]) -> bool:
        """Record folds and their gain; return whether their adapters are better than the start.

        The gain may be due to chance: few rows show little, and training helps more often than not.
        """
        trainer, result = self._trainer, self.result
        rows = [self._rows.few[i] for fold in folds for i in fold.indices]
        before, after = trainer.score(rows, trainer.start), joined([fold.scores for fold in folds])
        helps = bool(after.by_row.mean() > before.by_row.mean())
        result.gain = Gain(before, after if helps else before)
        result.folds = [
            Fold(fold.indices, trainer.weights(fold.parameters if helps else trainer.start))
            for fold in folds
        ]
        return helps
