"""Losses of many rows in few forward passes of a causal LM, with or without gradients.

Rows run together in the mode that `hf_lorameta.engines.transformers.row_mode` finds, so that each
has the loss that it has on its own. Logits are computed for output tokens only. Needs the extra
``eval``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.joined_rows import JoinedRows
from hf_lorameta.engines.transformers.one_pass import (
    by_row,
    cross_entropies,
    output_logits,
    token_losses,
)
from hf_lorameta.engines.transformers.row_mode import keeps_states, passes
from hf_lorameta.engines.transformers.threads import cores, fastest_threads, restoring_threads
from hf_lorameta.types import Array

T = TypeVar("T")


class RowLosses(NamedTuple):
    """Losses of rows.

    Attributes:
        sums: of each row, over its output tokens, in nats.
        sizes: of each row, its number of output tokens.
        likeliest: of each row, the most probable token in the place of each output token.
    """

    sums: list[float]
    sizes: list[int]
    likeliest: Sequence[list[int]] = ()

    @property
    def per_token(self) -> float:
        """Mean over all output tokens.

        Example:
            >>> RowLosses([1.0, 5.0], [1, 2]).per_token
            2.0
        """
        return math.fsum(self.sums) / sum(self.sizes)

    @property
    def probabilities(self) -> Array:
        """Of each row, the geometric mean of the probabilities of its output tokens, (R,).

        Example:
            >>> RowLosses([math.log(2), 2 * math.log(4)], [1, 2]).probabilities.round(6).tolist()
            [0.5, 0.25]
        """
        probabilities: Array = np.exp(-np.divide(self.sums, self.sizes))
        return probabilities


class PassRunner:
    """Computes passes in threads, each with its share of the cores.

    Args:
        model: a causal LM of transformers, inside `rows_apart` of `row_mode`.
        workers: number of threads; each has the memory of its own pass. A model whose layers keep
            states gets one.
        pass_tokens: maximum tokens of a pass.
    """

    def __init__(self, model: Any, workers: int, pass_tokens: int) -> None:
        self._model, self._pass_tokens = model, pass_tokens
        self._workers = 1 if keeps_states(model) else workers

    def losses(
        self,
        rows: Mapping[int, Sequence[Tokens]],
        adapters: bool = True,
        done: Callable[[int], None] = lambda rows: None,
    ) -> dict[int, RowLosses]:
        """Compute the losses of the rows of each slot.

        Args:
            rows: of each slot.
            adapters: apply the slots' adapters, or the base model alone.
            done: called with the number of rows of each pass that is finished.
        """
        sums = {slot: [0.0] * len(of_slot) for slot, of_slot in rows.items()}
        found: dict[int, list[list[int]]] = {slot: [[] for _ in of] for slot, of in rows.items()}

        def compute(joined: JoinedRows) -> list[tuple[float, list[int]]]:
            with torch.no_grad():  # what is cached, such as masks, may also be used for gradients
                logits, targets = output_logits(self._model, joined, adapters)
                losses = by_row(joined, cross_entropies(logits, targets).double())
                of_rows = zip(losses, by_row(joined, logits.argmax(-1)), strict=True)
                return [(float(loss.sum()), best.tolist()) for loss, best in of_rows]

        def add(joined: JoinedRows, results: list[tuple[float, list[int]]]) -> None:
            places = zip(joined.slots, joined.indices, strict=True)
            for (slot, index), (loss, best) in zip(places, results, strict=True):
                sums[slot][index], found[slot][index] = loss, best
            done(len(results))

        jobs = [[one] for of_share in self._shared(rows) for one in of_share]
        alone = self.threads(len(jobs)) == 1
        with fastest_threads(self._model) if alone else nullcontext():
            self._run(jobs, compute, add)
        sizes = {slot: [len(row.output) for row in rows[slot]] for slot in rows}
        return {slot: RowLosses(sums[slot], sizes[slot], found[slot]) for slot in rows}

    def backward(
        self,
        rows: Mapping[int, Sequence[Tokens]],
        weights: Callable[[JoinedRows], Sequence[float]],
    ) -> None:
        """Add the gradients of weighted losses to those of the slots.

        All passes of a slot are computed in one thread, in order.

        Args:
            rows: of each slot.
            weights: returns the factor of the loss of each output token of a pass.
        """

        def compute(joined: JoinedRows) -> None:
            with torch.enable_grad():
                losses = token_losses(self._model, joined)
                factors = torch.tensor(weights(joined), dtype=losses.dtype, device=losses.device)
                torch.autograd.backward((losses * factors).sum())

        self._run(self._shared(rows), compute, lambda joined, nothing: None)

    def results(
        self, jobs: Sequence[JoinedRows], compute: Callable[[torch.Tensor, JoinedRows], T]
    ) -> list[T]:
        """Return what is computed of the logits (n, V) of each pass, without gradients."""
        found: list[T] = []

        def of_pass(joined: JoinedRows) -> T:
            with torch.no_grad():
                return compute(output_logits(self._model, joined)[0], joined)

        with fastest_threads(self._model) if len(jobs) == 1 else nullcontext():
            self._run([[job] for job in jobs], of_pass, lambda _, result: found.append(result))
        return found

    def run(self, parts: Sequence[Sequence[Tokens]], compute: Callable[[JoinedRows], None]) -> None:
        """Compute something else from rows of slot 0, each part in a thread of its own."""
        jobs = [[*passes(self._model, {0: part}, self._pass_tokens)] for part in parts]
        self._run(jobs, compute, lambda joined, nothing: None)

    def _shared(self, rows: Mapping[int, Sequence[Tokens]]) -> list[list[JoinedRows]]:
        """Return the passes of each worker's share of the slots.

        Slots are spread over threads, since the threads that torch uses within an operation wait
        for each other when other programs use the cores.
        """
        sizes = {slot: count_tokens(of_slot) for slot, of_slot in rows.items()}
        shares = even_shares(sizes, self._workers)
        of_shares = [{slot: rows[slot] for slot in share} for share in shares]
        return [[*passes(self._model, share, self._pass_tokens)] for share in of_shares]

    def threads(self, jobs: int) -> int:
        """Return how many threads compute so many shares."""
        return max(min(self._workers, jobs), 1)

    def _run(
        self,
        jobs: Sequence[Sequence[JoinedRows]],
        compute: Callable[[JoinedRows], T],
        use: Callable[[JoinedRows, T], None],
    ) -> None:
        """Compute the passes of each job in a thread; use their results here, in order."""
        workers = self.threads(len(jobs))
        if workers == 1:
            for joined in (one for job in jobs for one in job):
                use(joined, compute(joined))
            return

        with restoring_threads():
            of_each = max(cores() // workers, 1)

            def work(job: Sequence[JoinedRows]) -> list[T]:
                torch.set_num_threads(of_each)
                return [compute(joined) for joined in job]

            with ThreadPoolExecutor(workers) as pool:
                for job, results in zip(jobs, pool.map(work, jobs), strict=True):
                    for joined, result in zip(job, results, strict=True):
                        use(joined, result)


def count_tokens(rows: Sequence[Tokens]) -> int:
    """Return the number of tokens of rows."""
    return sum(len(row.prompt) + len(row.output) for row in rows)


def even_shares(sizes: Mapping[int, int], workers: int) -> list[list[int]]:
    """Divide slots among workers so that the largest share is small; no share is empty.

    Example:
        >>> even_shares({0: 5, 1: 9, 2: 3}, 2)
        [[1], [0, 2]]
    """
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for slot in sorted(sizes, key=lambda slot: (-sizes[slot], slot)):
        least = loads.index(min(loads))
        shares[least].append(slot)
        loads[least] += sizes[slot]
    return [share for share in shares if share]
