"""Take the steps of a training one by one, and keep its result."""

import time
from collections.abc import Callable, Sequence

import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.errors import AdapterError
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trained import Trained
from hf_lorameta.training.trainer import Trainer
from hf_lorameta.types import Progress


class Steps:
    """The steps of a training. Who decides which, and when they end, is a subclass.

    Args:
        trainer: of the adapter.
        settings: of the steps that come next.
        progress: called after each step with (steps done, likely steps in all).
        clock: returns seconds; it never goes back.

    Attributes:
        result: the adapter so far.
        trainer: as given.
        settings: as given, until others take their place.
        done: number of steps so far, those of folds too.
        durations: seconds of each step that was taken here.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.result = Trained(trainer.given, threads=trainer.threads)
        self.trainer, self.settings = trainer, settings
        self._progress, self._clock = progress, clock
        self.done, self.durations = 0, list[float]()

    def step(self, batch: Sequence[Tokens], likely: int) -> None:
        """Take a step, and show which of how many it probably was."""
        started, used = self._clock(), time.process_time()
        self.trainer.step(batch, self.settings.learning_rate(self.trainer.taken))
        self.durations.append(max(self._clock() - started, 1e-9))
        self.result.seconds += self.durations[-1]
        self.result.cpu_seconds += time.process_time() - used
        self.result.taken = self.trainer.taken
        self.done += 1
        self.result.all_steps += 1
        self._progress(self.done, max(likely, self.done))

    def keep(self, steps: int, rows: int, parameters: torch.Tensor | None = None) -> torch.Tensor:
        """Make the present state the result, or other parameters, after steps on so many rows.

        Returns:
            The parameters, (P,).

        Raises:
            AdapterError: parameters are infinite or not a number.
        """
        result, trainer, part = self.result, self.trainer, self.trainer.part
        kept = trainer.parameters() if parameters is None else parameters
        if not bool(kept.isfinite().all()):
            overflow = "the base model's numbers overflow in training"
            raise AdapterError(overflow, code="training.overflow", hint="name another base model")
        result.weights = trainer.weights(kept)
        result.steps, result.schedule, result.rows = steps, self.settings.steps, rows
        result.layers = part.layers - part.first if part.first else 0
        return kept
