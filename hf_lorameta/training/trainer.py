"""Train adapters for many tasks, several at once, each as if it were alone.

Every step takes a few rows of each task in training. Held-out rows decide when a task is finished
and which of its states is the result; its slot then passes to the next task. What a task's adapter
becomes depends on the task, the settings and the base model, not on the tasks trained with it,
except for the rounding of sums.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.engines.packing import Pass, passes, using
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.torch_forward import token_losses
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.checkpoint import CHECKPOINT_SECONDS, read_checkpoint, write_checkpoint
from hf_lorameta.training.lora_slots import LoraSlots
from hf_lorameta.training.progress import TaskProgress
from hf_lorameta.training.settings import Settings
from hf_lorameta.types import FactorPair


@dataclass(frozen=True)
class TaskRows:
    """The encoded rows of a task.

    Attributes:
        name: name of the task; the order of its rows depends on it.
        train: rows to train on, at least one.
        held_out: rows to measure the loss on, at least one.
        key: what else the result depends on; a checkpoint with another key is not used.
    """

    name: str
    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    key: str = ""


@dataclass(frozen=True)
class Trained:
    """The adapter of a task.

    Attributes:
        name: of the task.
        factors: A (r, in) and s·B (out, r) of every module, float32.
        base_loss: loss of the base model on the held-out rows, in nats per token.
        loss: loss with the adapter.
        steps: steps taken.
        best_step: the step after which the adapter is the result; 0 if none lowered the loss.
        seconds: the task's share of the time spent.
    """

    name: str
    factors: list[FactorPair]
    base_loss: float
    loss: float
    steps: int
    best_step: int
    seconds: float


class Trainer:
    """Trains adapters on a frozen base model.

    Args:
        model: a causal LM of transformers, after `hf_lorameta.engines.packing.use_row_attention`.
        layout: the adapted modules.
        settings: of the training.
        at_once: number of tasks in training at a time.
        workers: threads that compute passes, each with its share of the cores.
        pass_tokens: maximum tokens of a pass; sets the memory for activations.
        checkpoints: folder for the states of unfinished tasks; None writes none.
        general: adapter that every task starts from, as `Trained.factors`; None starts from zero.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        settings: Settings,
        *,
        at_once: int = 1,
        workers: int = 1,
        pass_tokens: int = 1024,
        checkpoints: Path | None = None,
        general: Sequence[FactorPair] | None = None,
    ) -> None:
        self._settings = settings
        self._slots = LoraSlots(
            model, layout, settings.rank, settings.scaling, at_once, settings.clip
        )
        self._general = general is not None
        self._initial = (
            self._slots.initial(settings.seed) if general is None else self._slots.vector(general)
        )
        self._runner = PassRunner(model, workers, pass_tokens)
        self._checkpoints = checkpoints
        self._runs: dict[int, _Run] = {}

    def train(
        self,
        tasks: Iterable[TaskRows],
        progress: Callable[[TaskProgress], None] = lambda progress: None,
    ) -> Iterator[Trained]:
        """Yield the adapters of tasks in the order in which they are finished.

        Args:
            tasks: read one by one, whenever a slot is free.
            progress: called for every task after each of its steps.
        """
        waiting = iter(tasks)
        saved = time.monotonic()
        with self._runner:
            while True:
                self._fill(waiting)
                if not self._runs:
                    return
                self._step()
                self._evaluate([s for s, run in self._runs.items() if self._is_due(run)])
                for run in self._runs.values():
                    progress(run.progress(self._is_finished(run)))
                for slot in [s for s, run in self._runs.items() if self._is_finished(run)]:
                    yield self._finish(slot)
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()

    # --- tasks and slots ---

    def _fill(self, waiting: Iterator[TaskRows]) -> None:
        """Give free slots to the next tasks, and measure the base model's loss on them."""
        new = []
        for slot in set(range(self._slots.count)) - set(self._runs):
            task = next(waiting, None)
            if task is None:
                break
            self._slots.start(slot, self._initial)
            self._runs[slot] = _Run(task, best=self._initial)
            if not self._restore(slot):
                new.append(slot)
        if self._general:
            for slot, loss in self._held_out_losses(new, adapters=False).items():
                self._runs[slot].base_loss = loss
        self._evaluate(new)

    def _is_due(self, run: "_Run") -> bool:
        settings = self._settings
        return run.step % settings.evaluate_every == 0 or run.step >= settings.steps

    def _is_finished(self, run: "_Run") -> bool:
        settings = self._settings
        return run.hopeless or run.step >= settings.steps or run.misses >= settings.patience

    def _finish(self, slot: int) -> Trained:
        run = self._runs.pop(slot)
        return Trained(
            run.task.name,
            self._slots.factors(run.best),
            run.base_loss,
            run.loss,
            run.step,
            run.best_step,
            run.seconds,
        )

    def discard_checkpoint(self, name: str) -> None:
        """Delete the state of a task, whose result was stored."""
        if self._checkpoints:
            self._checkpoint(name).unlink(missing_ok=True)

    # --- computation ---

    def _step(self) -> None:
        """Take one step of every task in training."""
        count = self._settings.rows
        rows = {slot: run.batch(run.step, count, self._settings.seed)
                for slot, run in self._runs.items()}  # fmt: skip
        totals = {slot: sum(len(row.output) for row in of) for slot, of in rows.items()}

        def backward(packed: Pass, losses: torch.Tensor) -> None:
            weights = [1 / totals[slot] for slot, n in packed.outputs.items() for _ in range(n)]
            weighted = losses * torch.tensor(weights, dtype=losses.dtype).to(losses.device)
            torch.autograd.backward(weighted.sum())

        with self._timed(rows):
            self._runner.run(rows, backward, gradients=True)
            for slot, run in self._runs.items():
                self._slots.update(slot, self._settings.learning_rate(run.step))
                run.step += 1

    def _evaluate(self, slots: Sequence[int]) -> None:
        """Measure the held-out loss of some slots and keep their best states."""
        for slot, loss in self._held_out_losses(slots).items():
            self._runs[slot].record(loss, self._slots.parameters[slot])

    def _held_out_losses(self, slots: Sequence[int], adapters: bool = True) -> dict[int, float]:
        rows = {slot: self._runs[slot].task.held_out for slot in slots}
        sums = dict.fromkeys(rows, 0.0)

        def add(packed: Pass, losses: torch.Tensor) -> None:
            parts = torch.split(losses.double(), list(packed.outputs.values()))
            for slot, part in zip(packed.outputs, parts, strict=True):
                sums[slot] += float(part.sum())

        with self._timed(rows):
            self._runner.run(rows, add, adapters=adapters)
        return {
            slot: sums[slot] / sum(len(row.output) for row in of_slot)
            for slot, of_slot in rows.items()
        }

    def _timed(self, rows: Mapping[int, Sequence[Tokens]]) -> "_Timer":
        return _Timer({self._runs[slot]: _tokens(of_slot) for slot, of_slot in rows.items()})

    # --- checkpoints ---

    def _checkpoint(self, name: str) -> Path:
        assert self._checkpoints is not None
        return self._checkpoints / f"{name}.unfinished.safetensors"

    def _save(self) -> None:
        """Write the states of all tasks in training."""
        if self._checkpoints is None:
            return
        for slot, run in self._runs.items():
            tensors = self._slots.state(slot) | {"best": run.best.cpu()}
            write_checkpoint(self._checkpoint(run.task.name), run.task.key, tensors, run.state())

    def _restore(self, slot: int) -> bool:
        """Continue a task from its checkpoint, if there is one of the same key."""
        run = self._runs[slot]
        if self._checkpoints is None:
            return False
        found = read_checkpoint(self._checkpoint(run.task.name), run.task.key)
        if found is None:
            return False
        tensors, state = found
        run.set_state(state)
        run.best = tensors.pop("best").to(self._initial.device)
        self._slots.restore(slot, tensors, run.step)
        return True


class PassRunner:
    """Computes passes in threads; those of a slot are in one thread, in order.

    Args:
        model: as for `Trainer`.
        workers: number of threads, each with its share of the cores.
        pass_tokens: maximum tokens of a pass.
    """

    def __init__(self, model: Any, workers: int, pass_tokens: int) -> None:
        self._model, self._workers, self._pass_tokens = model, workers, pass_tokens
        self._threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> None:
        self._pool = ThreadPoolExecutor(self._workers) if self._workers > 1 else None

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()
            torch.set_num_threads(self._threads)

    def run(
        self,
        rows: Mapping[int, Sequence[Tokens]],
        use: Callable[[Pass, torch.Tensor], None],
        *,
        gradients: bool = False,
        adapters: bool = True,
    ) -> None:
        """Compute the losses of rows by slot.

        Args:
            rows: rows of each slot.
            use: called with each pass and the losses of its output tokens.
            gradients: record what a backward pass needs.
            adapters: apply the slots' adapters, or the base model alone.
        """

        def compute(slots: Sequence[int], threads: int) -> None:
            if self._workers > 1:
                torch.set_num_threads(threads)  # of this thread, and of threads that start later
            for packed in passes({slot: rows[slot] for slot in slots}, self._pass_tokens):
                slices = packed.slices if adapters else ()
                with torch.set_grad_enabled(gradients), using(slices):
                    use(packed, token_losses(self._model, packed))

        shares = divide({slot: _tokens(of_slot) for slot, of_slot in rows.items()}, self._workers)
        if self._pool is None:
            for share in shares:
                compute(share, self._threads)
            return
        threads = max(self._threads // max(len(shares), 1), 1)
        for future in [self._pool.submit(compute, share, threads) for share in shares]:
            future.result()


class _Run:
    """A task in training."""

    def __init__(self, task: TaskRows, best: torch.Tensor) -> None:
        self.task, self.best = task, best
        self.step = self.best_step = self.misses = 0
        self.base_loss = self.loss = math.nan
        self.hopeless = False
        self.seconds = 0.0
        self._epoch: tuple[int, list[int]] = (-1, [])

    def batch(self, step: int, count: int, seed: int) -> list[Tokens]:
        """Return the rows of a step: `count` of them, from one shuffled epoch after another."""
        rows = self.task.train
        count = min(count, len(rows))
        chosen = []
        for position in range(step * count, (step + 1) * count):
            epoch, index = divmod(position, len(rows))
            if self._epoch[0] != epoch:
                order = list(range(len(rows)))
                random.Random(f"{seed} {self.task.name} {epoch}").shuffle(order)
                self._epoch = epoch, order
            chosen.append(rows[self._epoch[1][index]])
        return chosen

    def record(self, loss: float, parameters: torch.Tensor) -> None:
        """Take a measured held-out loss into account."""
        if self.step == 0:
            self.loss = loss
            self.base_loss = loss if math.isnan(self.base_loss) else self.base_loss
            self.hopeless = not math.isfinite(loss)
        elif loss < self.loss:
            self.loss, self.best_step, self.misses = loss, self.step, 0
            self.best = parameters.clone()
        else:
            self.misses += 1

    def progress(self, finished: bool) -> TaskProgress:
        return TaskProgress(self.task.name, self.step, self.base_loss, self.loss, finished)

    def state(self) -> dict[str, Any]:
        names = ("step", "best_step", "misses", "base_loss", "loss", "seconds")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class _Timer:
    """Divides the time of a computation among tasks by their tokens."""

    def __init__(self, tokens: Mapping[_Run, int]) -> None:
        self._tokens = tokens

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._start
        for run, tokens in self._tokens.items():
            run.seconds += seconds * tokens / sum(self._tokens.values())


def _tokens(rows: Sequence[Tokens]) -> int:
    return sum(len(row.prompt) + len(row.output) for row in rows)


def divide(sizes: Mapping[int, int], workers: int) -> list[list[int]]:
    """Divide slots among workers so that the largest share is small; no share is empty.

    Example:
        >>> divide({0: 5, 1: 9, 2: 3}, 2)
        [[1], [0, 2]]
    """
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for slot in sorted(sizes, key=lambda slot: (-sizes[slot], slot)):
        least = loads.index(min(loads))
        shares[least].append(slot)
        loads[least] += sizes[slot]
    return [share for share in shares if share]
