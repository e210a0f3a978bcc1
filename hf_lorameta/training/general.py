"""Train one adapter on all tasks together: the general adapter of a bank.

It is what a new dataset gets if none of the bank's is near, and where the adapters of single tasks
start. Every row weighs alike, however long its output is, and every task has as many rows.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.bank.index import GENERAL
from hf_lorameta.engines.packing import Pass
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.checkpoint import CHECKPOINT_SECONDS, read_checkpoint, write_checkpoint
from hf_lorameta.training.lora_slots import LoraSlots
from hf_lorameta.training.progress import TaskProgress
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import PassRunner, TaskRows, Trained, divide

_MEASUREMENTS = 8


def train_general(
    model: Any,
    layout: Layout,
    settings: Settings,
    tasks: Sequence[TaskRows],
    *,
    workers: int = 1,
    pass_tokens: int = 1024,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Callable[[TaskProgress], None] = lambda progress: None,
) -> Trained:
    """Train the general adapter.

    The rows of a step are divided among threads, each with a copy of the adapter, whose gradients
    are added up.

    Args:
        model: a causal LM of transformers, after `hf_lorameta.engines.packing.use_row_attention`.
        layout: the adapted modules.
        settings: of the training.
        tasks: rows of all tasks.
        workers: threads that compute passes.
        pass_tokens: maximum tokens of a pass.
        checkpoint: file for the state of the unfinished training; None writes none.
        key: what the result depends on; a checkpoint with another key is not used.
        progress: called after each step.

    Returns:
        The adapter. Its losses are means over rows of all tasks of the loss per token.
    """
    slots = LoraSlots(model, layout, settings.rank, settings.scaling, workers, settings.clip)
    try:
        training = _Training(slots, PassRunner(model, workers, pass_tokens), settings, tasks)
        return training.run(checkpoint, key, progress)
    finally:
        slots.detach()


class _Training:
    def __init__(
        self, slots: LoraSlots, runner: PassRunner, settings: Settings, tasks: Sequence[TaskRows]
    ) -> None:
        self._slots, self._runner, self._settings = slots, runner, settings
        self._steps = settings.general_steps_for(len(tasks))
        self._tasks = tasks
        self._held_out = [row for task in tasks for row in task.held_out]
        self._best = slots.initial(settings.seed)
        for slot in range(slots.count):
            slots.start(slot, self._best)
        self._state: dict[str, Any] = {
            "step": 0, "best_step": 0, "base_loss": math.nan, "loss": math.inf, "seconds": 0.0,
        }  # fmt: skip

    def run(
        self, checkpoint: Path | None, key: str, progress: Callable[[TaskProgress], None]
    ) -> Trained:
        """Train to the end; return the state of the lowest held-out loss."""
        if checkpoint and (found := read_checkpoint(checkpoint, key)):
            self._restore(*found)
        state, saved = self._state, time.monotonic()
        batches = _batches(self._tasks, self._settings)
        for _ in range(state["step"]):
            next(batches)
        every = max(self._steps // _MEASUREMENTS, 1)
        with self._runner:
            if not state["step"]:
                state["base_loss"] = state["loss"] = self._measure()
            while state["step"] < self._steps:
                start = time.perf_counter()
                self._step(next(batches))
                if state["step"] % every == 0 or state["step"] == self._steps:
                    self._keep_best()
                state["seconds"] += time.perf_counter() - start
                progress(
                    TaskProgress(
                        GENERAL, state["step"], state["base_loss"], state["loss"],
                        state["step"] == self._steps,
                    )
                )  # fmt: skip
                if checkpoint and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    tensors = self._slots.state(0) | {"best": self._best.cpu()}
                    write_checkpoint(checkpoint, key, tensors, state)
                    saved = time.monotonic()
        return Trained(
            GENERAL, self._slots.factors(self._best), state["base_loss"], state["loss"],
            state["step"], state["best_step"], state["seconds"],
        )  # fmt: skip

    def _step(self, rows: Sequence[Tokens]) -> None:
        """Take a step on the mean loss of some rows."""

        def backward(packed: Pass, losses: torch.Tensor) -> None:
            torch.autograd.backward(_row_means(packed, losses).sum() / len(rows))

        self._runner.run(self._shared(rows), backward, gradients=True)
        slots = self._slots
        slots.gradients[0] = slots.gradients.sum(0)
        slots.gradients[1:] = 0
        slots.update(0, self._settings.general_learning_rate(self._state["step"], self._steps))
        slots.parameters[1:] = slots.parameters[0]
        self._state["step"] += 1

    def _measure(self) -> float:
        """Return the mean loss of the held-out rows."""
        sums: list[float] = []
        self._runner.run(
            self._shared(self._held_out),
            lambda packed, losses: sums.append(float(_row_means(packed, losses).sum())),
        )
        return math.fsum(sums) / len(self._held_out)

    def _keep_best(self) -> None:
        loss = self._measure()
        if loss < self._state["loss"]:
            self._state |= {"loss": loss, "best_step": self._state["step"]}
            self._best = self._slots.parameters[0].clone()

    def _shared(self, rows: Sequence[Tokens]) -> dict[int, list[Tokens]]:
        """Divide rows among the slots."""
        sizes = {index: len(row.prompt) + len(row.output) for index, row in enumerate(rows)}
        shares = divide(sizes, self._slots.count)
        return {slot: [rows[i] for i in share] for slot, share in enumerate(shares)}

    def _restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        self._state = state
        self._best = tensors.pop("best").to(self._slots.parameters.device)
        self._slots.restore(0, tensors, state["step"])
        self._slots.parameters[1:] = self._slots.parameters[0]


def _batches(tasks: Sequence[TaskRows], settings: Settings) -> Iterator[list[Tokens]]:
    """Yield the rows of step after step: one of every task in random order, then the next."""
    batch: list[Tokens] = []
    for turn in count():
        order = list(tasks)
        random.Random(f"{settings.seed} {GENERAL} {turn}").shuffle(order)
        for task in order:
            batch.append(task.train[turn % len(task.train)])
            if len(batch) == settings.general_rows:
                yield batch
                batch = []


def _row_means(packed: Pass, losses: torch.Tensor) -> torch.Tensor:
    """Return the mean loss per token of each row of a pass: (n,) of tokens → (rows,)."""
    return torch.stack([row.mean() for row in torch.split(losses, list(packed.by_row))])
