"""Fit the last down-projection on all labeled rows, without another pass through the base model.

Of each output token one pass (`hf_lorameta.training.readout_states`) keeps the input x of the last
down-projection and the sum z of all layers, which the final norm takes. A LoRA B·A of this layer
changes the sum alone, so its loss and its gradient need no layer below:

    L(A, B) = mean over tokens of −log softmax(E norm(z + B A x))[target].

E has a row for each token of the vocabulary, most of which no row has as its output. The fit
computes the logits of *candidates*: tokens that occur in outputs, and those that the model prefers
on average. All others stay in the denominator with the sum that they had in the pass; without them,
nothing would keep their logits low. What is reported is the loss over the whole vocabulary.

The inputs of a down-projection differ in size by a factor of 100, so they are divided by their root
mean square before A, which starts with the directions of the loss's gradient (LoRA-One, arXiv
2502.01235). The steps are those of AdamW; the number of them is decided on held-out rows.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_lorameta.errors import EmptyDatasetError, UsageError
from hf_lorameta.refine.fit import is_significant
from hf_lorameta.training.readout_states import States
from hf_lorameta.types import FactorPair, LossProgress, no_progress

_CHUNK = 256
"""Tokens whose logits over the whole vocabulary exist at once: 50 MB for 49,152."""
_BETAS = (0.9, 0.99)
_OVERSAMPLING, _POWER_STEPS = 8, 2
_SMALLEST_INPUT = 1e-3


@dataclass(frozen=True)
class ReadoutSettings:
    """How the last down-projection is fitted; chosen on tasks that no table reports.

    Attributes:
        rank: of the result, that of the update which it continues included.
        lr: learning rate of AdamW.
        decay: of AdamW; a step multiplies A and B by 1 − lr · decay.
        dropout: share of the inputs that a step leaves out.
        tokens: in a step.
        steps: largest number of steps.
        evaluate_every: steps between two measurements of the loss on held-out rows.
        patience: stop after this many measurements in a row without improvement.
        candidates: tokens with logits, besides those of the outputs.
        held_out_share: one row in so many is held out.
        most_held_out: largest number of held-out rows.
        seed: of the choice of held-out rows, of the start and of the order of the tokens.
    """

    rank: int = 16
    lr: float = 2e-3
    decay: float = 0.0
    dropout: float = 0.0
    tokens: int = 256
    steps: int = 400
    evaluate_every: int = 5
    patience: int = 6
    candidates: int = 256
    held_out_share: int = 4
    most_held_out: int = 200
    seed: int = 0


class Readout(NamedTuple):
    """A fitted down-projection. Losses are means over the held-out rows' tokens, in nats.

    Attributes:
        factors: A (rank, in) and B (d, rank), float32, of the whole update of this layer: the one
            that it continues, and what the fit adds. The former alone if the fit did not help.
        start: loss before the fit; `end`: after it, over the whole vocabulary.
        steps: steps taken to the result; 0 if none helped.
        rows: number of rows fitted on.
        held_out: number of rows that decided.
    """

    factors: FactorPair
    start: float
    end: float
    steps: int
    rows: int
    held_out: int


def fit_readout(
    model: Any,
    states: States,
    settings: ReadoutSettings,
    start: FactorPair | None = None,
    *,
    progress: LossProgress = no_progress,
) -> Readout:
    """Fit the last down-projection to the states of labeled rows.

    The result is never worse on held-out rows than the start: it is the start if the gain is within
    its standard error. The same states and settings give the same result.

    Args:
        model: the base model of the states.
        states: of at least 8 rows.
        settings: of the fit.
        start: A (r, in) and B (d, r) of the update that this layer had in the pass; rows of A whose
            column of B is zero are free for the fit. None if there was none.
        progress: called after each measurement with (steps done, most steps, lowest loss).

    Raises:
        EmptyDatasetError: fewer than 8 rows.
        UsageError: the start leaves no rank.
    """
    if len(states.sizes) < 8:
        raise EmptyDatasetError(f"{len(states.sizes)} rows to fit on, expected at least 8")
    head = _Head(model)
    width, out = states.inputs.shape[1], states.sums.shape[1]
    before = start or (np.zeros((0, width), np.float32), np.zeros((out, 0), np.float32))
    used = np.flatnonzero(np.abs(before[0]).any(1) & np.abs(before[1]).any(0))
    free = settings.rank - len(used)
    if free < 1:
        raise UsageError(f"the adapter uses all {settings.rank} ranks of the last layer")
    held_out = _held_out(states.sizes, settings)
    fitted, steps = _Fit(head, states, held_out, settings, free).run(progress)
    tokens = torch.from_numpy(np.flatnonzero(np.repeat(held_out, states.sizes)))
    sizes = [size for size, held in zip(states.sizes, held_out, strict=True) if held]
    losses = [_by_row(head, states, tokens, sizes, update) for update in (None, fitted)]
    kept = is_significant(losses[0] - losses[1], sizes)
    A, B = (factor.numpy() for factor in fitted) if kept else (before[0][:0], before[1][:, :0])
    return Readout(
        factors=_joined((before[0][used], before[1][:, used]), (A, B), settings.rank),
        start=float(losses[0].sum()) / sum(sizes),
        end=float(losses[kept].sum()) / sum(sizes),
        steps=steps if kept else 0,
        rows=len(held_out) - len(sizes),
        held_out=len(sizes),
    )


def _joined(one: FactorPair, other: FactorPair, rank: int) -> FactorPair:
    """Return the sum of two updates, side by side, with zeros up to a rank."""
    A, B = np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]], axis=1)
    missing = rank - len(A)
    return np.pad(A, ((0, missing), (0, 0))), np.pad(B, ((0, 0), (0, missing)))


def _held_out(sizes: tuple[int, ...], settings: ReadoutSettings) -> np.ndarray:
    """Return which rows are held out, (R,) bool."""
    count = min(len(sizes) // settings.held_out_share, settings.most_held_out)
    order = np.random.default_rng([settings.seed, 1]).permutation(len(sizes))
    held_out = np.zeros(len(sizes), bool)
    held_out[order[:count]] = True
    return held_out


class _Head:
    """The final norm and the output embeddings of a model."""

    def __init__(self, model: Any) -> None:
        self.norm: Callable[[torch.Tensor], torch.Tensor] = model.get_decoder().norm
        self._output = model.get_output_embeddings()

    def logits(self, sums: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, V) of sums (n, d), float32."""
        logits: torch.Tensor = self._output(self.norm(sums).to(self._output.weight.dtype)).float()
        return logits

    def vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the output embeddings (k, d) of tokens, float32."""
        vectors: torch.Tensor = self._output.weight[tokens].float()
        return vectors


def _sums(
    states: States, tokens: torch.Tensor, update: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """Return the inputs (n, d) of the final norm at some tokens, with an update (A, B)."""
    sums = states.sums[tokens]
    if update is None:
        return sums
    A, B = update
    return sums + (states.inputs[tokens] @ A.T) @ B.T


@torch.no_grad()
def _by_row(
    head: _Head,
    states: States,
    tokens: torch.Tensor,
    sizes: list[int],
    update: tuple[torch.Tensor, torch.Tensor] | None,
) -> np.ndarray:
    """Return the summed losses (R,) of rows over the whole vocabulary."""
    losses = [
        torch.nn.functional.cross_entropy(
            head.logits(_sums(states, part, update)), states.targets[part], reduction="none"
        )
        for part in torch.split(tokens, _CHUNK)
    ]
    return np.array([float(row.sum()) for row in torch.split(torch.cat(losses).double(), sizes)])


class _Candidates:
    """Logits of some tokens, and the sum of the others' exponentials as it was in the pass.

    Attributes:
        tokens: (k,) the candidates, ascending.
        vectors: (k, d) their output embeddings.
        others: (n,) log of the sum over all other tokens, for each of the states' tokens.
    """

    @torch.no_grad()
    def __init__(self, head: _Head, states: States, count: int) -> None:
        size = head.logits(states.sums[:1]).shape[1]
        preferred = torch.zeros(size)
        for part in torch.split(states.sums, _CHUNK):
            preferred += head.logits(part).softmax(1).sum(0)
        preferred[states.targets.unique()] = torch.inf
        known = int(preferred.isinf().sum())
        most = min(known + count, size)
        self.tokens = preferred.topk(most).indices.sort().values
        self.vectors = head.vectors(self.tokens)
        self.others = torch.cat([
            head.logits(part).index_fill(1, self.tokens, -torch.inf).logsumexp(1)
            for part in torch.split(states.sums, _CHUNK)
        ])  # fmt: skip
        self._targets = torch.searchsorted(self.tokens, states.targets)

    def loss(self, hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of some of the states' tokens, given their (n, d) hidden states."""
        logits = torch.cat([hidden @ self.vectors.T, self.others[at, None]], 1)
        return torch.nn.functional.cross_entropy(logits, self._targets[at])


class _Fit:
    """A fit in progress, in inputs that are divided by their root mean square."""

    def __init__(
        self, head: _Head, states: States, held_out: np.ndarray, settings: ReadoutSettings,
        rank: int,
    ) -> None:  # fmt: skip
        self._head, self._states, self._settings = head, states, settings
        self._candidates = _Candidates(head, states, settings.candidates)
        by_token = torch.from_numpy(np.repeat(held_out, states.sizes))
        self._train, self._held_out = torch.where(~by_token)[0], torch.where(by_token)[0]
        self._generator = torch.Generator().manual_seed(settings.seed)
        total = torch.zeros(states.inputs.shape[1])
        for part in torch.split(states.inputs, _CHUNK):
            total += part.square().sum(0)
        self._scale = (total / len(states.inputs)).sqrt().clamp(min=_SMALLEST_INPUT).reciprocal()
        self._A = self._directions(rank).requires_grad_(True)
        self._B = torch.zeros(states.sums.shape[1], rank, requires_grad=True)

    def run(self, progress: LossProgress) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:
        """Return A and B after the number of steps that is best on the held-out rows."""
        settings = self._settings
        optimizer = torch.optim.AdamW(
            [self._A, self._B], lr=settings.lr, betas=_BETAS, weight_decay=settings.decay
        )
        lowest, best_step = math.inf, 0
        best = self._A.detach().clone(), self._B.detach().clone()
        for step, tokens in zip(range(1, settings.steps + 1), self._batches(), strict=False):
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(tokens, settings.dropout))
            optimizer.step()
            if step % settings.evaluate_every and step != settings.steps:
                continue
            with torch.no_grad():
                loss = self._held_out_loss()
            if loss < lowest:
                lowest, best_step = loss, step
                best = self._A.detach().clone(), self._B.detach().clone()
            progress(step, settings.steps, lowest)
            if step - best_step >= settings.patience * settings.evaluate_every:
                break
        return (best[0] * self._scale, best[1]), best_step

    def _batches(self) -> Iterator[torch.Tensor]:
        """Yield the tokens of step after step, from one shuffled epoch after another."""
        count = min(self._settings.tokens, len(self._train))
        waiting = self._train[:0]
        while True:
            while len(waiting) < count:
                order = torch.randperm(len(self._train), generator=self._generator)
                waiting = torch.cat([waiting, self._train[order]])
            yield waiting[:count]
            waiting = waiting[count:]

    def _loss(self, tokens: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        """Return the mean loss of some tokens."""
        x = self._states.inputs[tokens] * self._scale
        if dropout:
            kept = torch.rand(x.shape, generator=self._generator) >= dropout
            x = x * kept / (1 - dropout)
        sums = self._states.sums[tokens] + (x @ self._A.T) @ self._B.T
        return self._candidates.loss(self._head.norm(sums), tokens)

    def _held_out_loss(self) -> float:
        """Return the mean loss of the held-out tokens, by the candidates."""
        parts = torch.split(self._held_out, _CHUNK)
        total = sum(float(self._loss(part)) * len(part) for part in parts)
        return total / len(self._held_out)

    def _directions(self, rank: int) -> torch.Tensor:
        """Return the start of A (rank, in): main directions of the gradient by B·A, (d, in).

        Randomized SVD (Halko, Martinsson, Tropp, SIAM Review 53, 2011, algorithm 4.4).
        """
        gradient = torch.zeros(self._states.sums.shape[1], self._states.inputs.shape[1])
        for part in torch.split(self._train, _CHUNK):
            sums = self._states.sums[part].requires_grad_(True)
            torch.autograd.backward(self._candidates.loss(self._head.norm(sums), part))
            assert sums.grad is not None
            gradient += len(part) * sums.grad.T @ (self._states.inputs[part] * self._scale)
        sketch = torch.randn(gradient.shape[1], rank + _OVERSAMPLING, generator=self._generator)
        basis = torch.linalg.qr(gradient @ sketch).Q
        for _ in range(_POWER_STEPS):
            basis = torch.linalg.qr(gradient @ (gradient.T @ basis)).Q
        directions: torch.Tensor = torch.linalg.svd(basis.T @ gradient, full_matrices=False).Vh
        return directions[:rank].contiguous() / math.sqrt(3)
