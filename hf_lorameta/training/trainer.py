"""Train adapters on a frozen base model, several at once.

A `Run` is one training: the rows of each of its steps, and held-out rows that decide when it ends
and which of its states is the result. Its slots then pass to the next run. The result of a run
depends on its rows, the settings and the base model, not on the runs next to it, except for the
rounding of sums.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.forward import PassRunner, RowLosses
from hf_lorameta.engines.transformers.joined_rows import JoinedRows
from hf_lorameta.engines.transformers.row_mode import rows_apart
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.device import DevicePlan
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainable_adapters import TrainableAdapters
from hf_lorameta.types import FactorPair

CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints."""
_CHECKPOINT_FIELDS = ("step", "best_step", "misses", "base_loss", "loss")
"""What a checkpoint stores of a run."""


@dataclass(eq=False)
class Run:
    """One training.

    Args:
        name: of the checkpoint.
        batches: yields the rows of one step after another, for each of the run's slots.
        held_out: rows to measure the loss on, for each of its slots; with none, the run takes all
            of its steps and ends with the last state.
        steps: number of steps, at most.
        copies: whether the slots hold copies of one adapter, which is trained on the rows of all
            slots with equal weights. Otherwise each slot holds an adapter of its own, trained on
            the mean loss of its output tokens.
        key: what the result depends on; a checkpoint with another key is not used.

    Attributes:
        step: steps taken.
        base_loss: loss of the base model on the held-out rows, in nats: the mean per token, or with
            `copies` the mean over rows of that.
        start: losses of the held-out rows before the first step.
        loss: their mean after the best step, as `base_loss`.
        best_step: the step after which it was lowest; 0 if none lowered it.
        best: parameters of the slots, (slots, P), after that step.
        misses: measurements since then.
    """

    name: str
    batches: Iterator[Sequence[Sequence[Tokens]]]
    held_out: Sequence[Sequence[Tokens]]
    steps: int
    copies: bool = False
    key: str = ""
    step: int = field(default=0, init=False)
    base_loss: float = field(default=math.nan, init=False)
    start: RowLosses = field(init=False)
    loss: float = field(default=math.nan, init=False)
    best_step: int = field(default=0, init=False)
    best: torch.Tensor = field(init=False)
    misses: int = field(default=0, init=False)

    def mean(self, losses: RowLosses) -> float:
        """Return the mean loss that decides; infinity, the worst value, if it is not a number."""
        mean = losses.per_row if self.copies else losses.per_token
        return math.inf if math.isnan(mean) else mean

    def record(self, losses: RowLosses, parameters: torch.Tensor) -> None:
        """Take the losses of the held-out rows after a step into account."""
        loss = self.mean(losses)
        if self.step and not loss < self.loss:
            self.misses += 1
            return
        self.loss, self.best_step, self.misses = loss, self.step, 0
        self.best = parameters.clone()
        if not self.step:
            self.start = losses

    def ends(self, patience: int) -> bool:
        """Whether the run has ended; one that cannot be measured ends after its first step."""
        hopeless = bool(self.held_out) and not math.isfinite(self.loss)
        return hopeless or self.step >= self.steps or self.misses >= patience


class Trainer:
    """Trains adapters on a frozen base model. A context manager: it changes the model's layers.

    Args:
        model: a causal LM of transformers.
        layout: the adapted modules.
        settings: of the training.
        plan: how it uses the machine.
        slots: number of adapters in training at a time.
        start: A (r, in) and s·B (out, r) of every module, from which every run starts; without it,
            all start from updates of zero.
        checkpoints: folder for the states of unfinished runs; None writes none.

    Raises:
        UsageError: the architecture cannot be trained here.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        settings: Settings,
        plan: DevicePlan,
        slots: int,
        start: Sequence[FactorPair] = (),
        checkpoints: Path | None = None,
    ) -> None:
        rank, scaling = settings.rank, settings.scaling
        self.slots = TrainableAdapters(model, layout, rank, scaling, slots, settings.clip)
        self._model, self._settings, self._checkpoints = model, settings, checkpoints
        self._runner = PassRunner(model, plan.workers, plan.pass_tokens)
        self._started = bool(start)
        self.initial = self.slots.vector(start) if start else self.slots.initial(settings.seed)
        self._runs: dict[Run, range] = {}
        self._context = ExitStack()

    def __enter__(self) -> Self:
        self._context.enter_context(rows_apart(self._model))
        self._context.enter_context(self.slots.attached())
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def train(self, runs: Iterable[Run]) -> Iterator[tuple[Run, bool]]:
        """Train; yield each run after each of its steps, with whether it has ended.

        Args:
            runs: read one by one, whenever slots are free.
        """
        waiting, settings = iter(runs), self._settings
        saved = time.monotonic()
        while self._fill(waiting):
            self._step()
            due = [run for run in self._runs if run.held_out and self._is_due(run)]
            for run, losses in self._measure(due).items():
                run.record(losses, self._parameters(run))
            for run in list(self._runs):
                ended = run.ends(settings.patience)
                if ended and not run.held_out:
                    run.best, run.best_step = self._parameters(run).clone(), run.step
                if ended:
                    del self._runs[run]
                yield run, ended
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    # --- runs and slots ---

    def _fill(self, waiting: Iterator[Run]) -> bool:
        """Give free slots to the next runs, and measure the loss that they start from."""
        new = []
        free = set(range(self.slots.count)) - {s for slots in self._runs.values() for s in slots}
        while free and (run := next(waiting, None)):
            width = self.slots.count if run.copies else max(len(run.held_out), 1)
            first = min(free)
            self._runs[run] = range(first, first + width)
            free -= set(self._runs[run])
            for slot in self._runs[run]:
                self.slots.start(slot, self.initial)
            if not self._restore(run) and run.held_out:
                new.append(run)
        measured = self._measure(new)
        bases = self._measure(new, adapters=False) if self._started else measured
        for run in new:
            run.base_loss = run.mean(bases[run])
            run.record(measured[run], self._parameters(run))
        return bool(self._runs)

    def _is_due(self, run: Run) -> bool:
        return run.step % self._settings.evaluate_every == 0 or run.step >= run.steps

    def _parameters(self, run: Run) -> torch.Tensor:
        """Return the parameters of a run's slots, (slots, P); for copies, those of one slot."""
        slots = self._runs[run]
        return self.slots.parameters[slots.start : slots.start + 1 if run.copies else slots.stop]

    # --- computation ---

    def _step(self) -> None:
        """Take one step of every run."""
        rows = self._by_slot({run: next(run.batches) for run in self._runs})
        totals = {slot: sum(len(row.output) for row in of) for slot, of in rows.items()}
        copies = any(run.copies for run in self._runs)
        count = sum(map(len, rows.values()))

        def weights(joined: JoinedRows) -> list[float]:
            if copies:
                return [1 / (count * size) for size in joined.by_row for _ in range(size)]
            sizes = zip(joined.slots, joined.by_row, strict=True)
            return [1 / totals[slot] for slot, size in sizes for _ in range(size)]

        self._runner.backward(rows, weights)
        for run, slots in self._runs.items():
            lr = self._settings.learning_rate(run.step)
            if run.copies:
                self.slots.update_together(lr)
            else:
                for slot in slots:
                    self.slots.update(slot, lr)
            run.step += 1

    def _measure(self, runs: Sequence[Run], adapters: bool = True) -> dict[Run, RowLosses]:
        """Return the losses of the held-out rows of runs."""
        rows = self._by_slot({run: run.held_out for run in runs})
        found = self._runner.losses(rows, adapters)
        return {run: _joined(found[s] for s in self._runs[run] if s in found) for run in runs}

    def _by_slot(
        self, rows: Mapping[Run, Sequence[Sequence[Tokens]]]
    ) -> dict[int, Sequence[Tokens]]:
        return {
            slot: of_slot
            for run, by_slot in rows.items()
            for slot, of_slot in zip(self._runs[run], by_slot, strict=False)
            if of_slot
        }

    # --- checkpoints ---

    def _path(self, run: Run) -> Path | None:
        return self._checkpoints and self._checkpoints / f"{run.name}.unfinished.safetensors"

    def discard_checkpoint(self, run: Run) -> None:
        """Delete the state of a run whose result was stored."""
        if path := self._path(run):
            path.unlink(missing_ok=True)

    def _save(self) -> None:
        """Write the states of all runs of a single adapter."""
        from safetensors.torch import save

        for run, slots in self._runs.items():
            if path := self._path(run):
                vectors = self.slots.vectors[:, slots[0]].contiguous()
                tensors = {"vectors": vectors, "best": run.best}
                state = {name: getattr(run, name) for name in _CHECKPOINT_FIELDS}
                content = save(tensors, {"key": run.key, "run": json.dumps(state)})
                write_atomically(path, content)

    def _restore(self, run: Run) -> bool:
        """Continue a run from its checkpoint, if there is one of the same key."""
        from safetensors import SafetensorError, safe_open

        if (path := self._path(run)) is None:
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                vectors, best = (file.get_tensor(name) for name in ("vectors", "best"))
        except (OSError, SafetensorError):
            return False
        if metadata["key"] != run.key:
            return False
        for name, value in json.loads(metadata["run"]).items():
            setattr(run, name, value)
        run.best = best.to(self.initial.device)
        for slot in self._runs[run]:
            self.slots.vectors[:, slot] = vectors
            self.slots.steps[slot] = run.step
        for _ in range(run.step):
            next(run.batches)
        return True


def _joined(parts: Iterable[RowLosses]) -> RowLosses:
    """Return the losses of the rows of several slots."""
    return RowLosses(*(list(chain.from_iterable(field)) for field in zip(*parts, strict=True)))
