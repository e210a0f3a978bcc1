"""Fit the last down-projection on all labeled rows, without another pass through the base model.

Of each output token one pass (`hf_lorameta.training.further.readout_states`) keeps the input x of
the last down-projection and the sum z of all layers, which the final norm takes. A LoRA B·A of this
layer changes the sum alone, so its loss and its gradient need no layer below:

    L(A, B) = mean over tokens of −log softmax(E norm(z + B A x))[target].

E has a row for each token of the vocabulary, most of which no row has as its output. The fit
computes the logits of *candidates*: tokens that occur in outputs, and those that the model prefers
on average. All others stay in the denominator through an expansion of the second order; without
them, nothing would keep their logits low. Where the update is large, as without an adapter that
knows the task, the expansion can miss tokens that become likely: then those that the update prefers
are candidates as well, and the search starts again. What is reported is the loss over the whole
vocabulary.

The inputs of a down-projection differ in size by a factor of 100, so they are divided by their root
mean square before A, which starts with the directions of the loss's gradient (LoRA-One, arXiv
2502.01235). The number of AdamW's steps is decided on held-out rows; then all rows are fitted with
as many epochs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_lorameta.errors import EmptyDatasetError, UsageError
from hf_lorameta.training.further.readout_states import States
from hf_lorameta.training.further.significance import is_significant
from hf_lorameta.types import FactorPair, LossProgress, no_progress

_CHUNK = 256
"""Tokens whose logits over the whole vocabulary exist at once: 50 MB for 49,152."""
_BETAS = (0.9, 0.99)
_OVERSAMPLING, _POWER_STEPS = 8, 2
_SMALLEST_INPUT = 1e-3
_MISSED, _ROUNDS = 0.05, 4
"""Nats per token that the expansion may miss of the held-out rows' loss, and searches at most."""
_NOTHING = -1e30
"""A logit that adds nothing to a sum; infinity would make the expansion undefined."""

Update = tuple[torch.Tensor, torch.Tensor]
"""A (r, in) and B (d, r)."""


@dataclass(frozen=True)
class ReadoutSettings:
    """How the last down-projection is fitted; chosen on tasks that no table reports.

    Attributes:
        rank: of the result, that of the update which it continues included.
        lr: learning rate of AdamW.
        tokens: in a step.
        steps: largest number of steps.
        evaluate_every: steps between two measurements of the loss on held-out rows.
        patience: stop after this many measurements in a row without improvement.
        candidates: tokens with logits, besides those of the outputs; more after each new search.
        held_out_share: one row in so many is held out.
        most_held_out: largest number of held-out rows.
        seed: of the choice of held-out rows, of the start and of the order of the tokens.
    """

    rank: int = 16
    lr: float = 5e-3
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
        start: loss before the fit.
        end: loss with a fit of the other rows, or `start` if that did not help.
        steps: of the fit of all rows; 0 if none helped.
        rows: number of rows fitted on.
        held_out: how many of them decided the number of steps.
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

    The result is the start if the held-out rows' gain is within its standard error, if fewer of
    them are answered right, or if all rows together have a larger loss. The same states and
    settings give the same result.

    Memory besides the states: the output embeddings in float32, 113 MB for SmolLM2-135M and 524 MB
    for Mistral-7B, while the candidates are prepared.

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
    width, out = states.inputs.shape[1], states.sums.shape[1]
    before = start or (np.zeros((0, width), np.float32), np.zeros((out, 0), np.float32))
    used, free = _used_ranks(before), free_rank(start, settings)
    held_out = _held_out(states.sizes, settings)
    by_token = torch.from_numpy(np.repeat(held_out, states.sizes))
    train, deciding = torch.where(~by_token)[0], torch.where(by_token)[0]
    head, every = _Head(model), torch.arange(len(by_token))
    (losses, right), sizes = _by_row(head, states, None), np.array(states.sizes)[held_out]
    tried: list[Update] = []
    while True:
        fit = _Fit(head, states, settings, free, tried)
        update, steps, estimate = fit.search(train, deciding, progress)
        unseen, answers = (values[held_out] for values in _by_row(head, states, update))
        tried.append(update)
        if unseen.sum() / sizes.sum() - estimate <= _MISSED or len(tried) == _ROUNDS:
            break
    helped = is_significant(losses[held_out] - unseen, sizes.tolist())
    helped = helped and answers.sum() >= right[held_out].sum()
    if helped:
        steps = round(steps * len(every) / len(train))
        update = fit.after(every, steps)
        helped = bool(_by_row(head, states, update)[0].sum() < losses.sum())
    A, B = (factor.numpy() for factor in update)
    return Readout(
        factors=_joined(
            (before[0][used], before[1][:, used]),
            (A, B) if helped else (A[:0], B[:, :0]),
            settings.rank,
        ),
        start=float(losses[held_out].sum() / sizes.sum()),
        end=float((unseen if helped else losses[held_out]).sum() / sizes.sum()),
        steps=steps if helped else 0,
        rows=len(states.sizes),
        held_out=len(sizes),
    )


def free_rank(start: FactorPair | None, settings: ReadoutSettings) -> int:
    """Return how many ranks an update of the last down-projection leaves to the fit.

    Raises:
        UsageError: none.
    """
    free = settings.rank - (len(_used_ranks(start)) if start else 0)
    if free < 1:
        raise UsageError(
            f"the adapter uses all {settings.rank} ranks of the last layer, so none is left to fit",
            hint="train the adapter instead",
        )
    return free


def _used_ranks(update: FactorPair) -> np.ndarray:
    """Return the ranks of A (r, in) and B (d, r) that are not zero."""
    return np.flatnonzero(np.abs(update[0]).any(1) & np.abs(update[1]).any(0))


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
        self.size: int = self._output.weight.shape[0]

    def logits(self, sums: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, V) of sums (n, d), float32."""
        logits: torch.Tensor = self._output(self.norm(sums).to(self._output.weight.dtype)).float()
        return logits

    def vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the output embeddings (k, d) of tokens, float32."""
        vectors: torch.Tensor = self._output.weight[tokens].float()
        return vectors


def _updated(states: States, part: torch.Tensor, update: Update | None) -> torch.Tensor:
    """Return the sums (n, d) of some of the states' tokens, with an update."""
    if update is None:
        return states.sums[part]
    A, B = update
    return states.sums[part] + (states.inputs[part] @ A.T) @ B.T


@torch.no_grad()
def _by_row(head: _Head, states: States, update: Update | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed losses (R,) of all rows over the whole vocabulary, with an update.

    Also whether greedy decoding answers them right, (R,) bool: each token is the likeliest.
    """
    losses, missed = [], []
    for part in torch.split(torch.arange(len(states.targets)), _CHUNK):
        logits, targets = head.logits(_updated(states, part, update)), states.targets[part]
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        missed.append(logits.argmax(1) != targets)
    starts = np.cumsum([0, *states.sizes[:-1]])
    by_row = np.add.reduceat(torch.cat(losses).double().numpy(), starts)
    return by_row, np.add.reduceat(torch.cat(missed).int().numpy(), starts) == 0


class _Candidates:
    """The loss by the logits of some tokens, and an expansion of the sum over all others.

    With h the hidden state that a token had in the pass and δ the change of it, the others' sum is
    that of the pass, its slope g there, and the second derivative C, as its mean over all tokens:

        log Σ_v exp(e_v · (h + δ)) ≈ log Σ_v exp(e_v · h) + g · δ + δᵀ C δ / 2.

    Attributes:
        tokens: (k,) the candidates, ascending.
    """

    @torch.no_grad()
    def __init__(
        self, head: _Head, states: States, count: int, tried: Sequence[Update] = ()
    ) -> None:
        every = torch.arange(head.size)
        parts = list(enumerate(torch.split(states.sums, _CHUNK)))
        chosen = [torch.from_numpy(np.unique(states.targets.numpy()))]
        for update in (None, *tried):
            preferred = torch.zeros(head.size)
            for part in torch.split(torch.arange(len(states.targets)), _CHUNK):
                preferred += head.logits(_updated(states, part, update)).softmax(1).sum(0)
            preferred[torch.cat(chosen)] = -1
            chosen.append(preferred.topk(min(count, int((preferred >= 0).sum()))).indices)
        self.tokens = torch.cat(chosen).sort().values
        vectors = head.vectors(every)
        self._vectors = vectors[self.tokens]
        self._sums, self._norm = states.sums, head.norm
        self._targets = torch.searchsorted(self.tokens, states.targets)
        self._others = torch.empty(len(states.targets))
        self._slopes, weights = states.like_sums("slopes"), torch.zeros(head.size)
        for index, part in parts:
            at = slice(index * _CHUNK, index * _CHUNK + len(part))
            logits = head.logits(part).index_fill(1, self.tokens, _NOTHING)
            self._others[at] = logits.logsumexp(1)
            shares = (logits - self._others[at, None]).exp()
            self._slopes[at] = shares @ vectors
            weights += shares.sum(0)
        moments = vectors.T @ (weights[:, None] * vectors)
        self._second = (moments - self._slopes.T @ self._slopes) / len(states.targets)

    def loss(self, hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of some of the states' tokens, given their (n, d) hidden states."""
        change = hidden - self._norm(self._sums[at])
        slopes = self._slopes[at] + change @ self._second / 2
        others = self._others[at] + (slopes * change).sum(1)
        logits = torch.cat([hidden @ self._vectors.T, others[:, None]], 1)
        return torch.nn.functional.cross_entropy(logits, self._targets[at])


class _Fit:
    """Fits of the same states, on all tokens or some of them.

    A is for inputs that are divided by their root mean square.
    """

    def __init__(
        self,
        head: _Head,
        states: States,
        settings: ReadoutSettings,
        rank: int,
        tried: Sequence[Update] = (),
    ) -> None:
        self._head, self._states, self._settings = head, states, settings
        self._rank = min(rank, states.sums.shape[1])
        self._candidates = _Candidates(head, states, settings.candidates, tried)
        total = torch.zeros(states.inputs.shape[1])
        for part in torch.split(states.inputs, _CHUNK):
            total += part.square().sum(0)
        self._scale = (total / len(states.inputs)).sqrt().clamp(min=_SMALLEST_INPUT).reciprocal()

    def search(
        self, train: torch.Tensor, held_out: torch.Tensor, progress: LossProgress
    ) -> tuple[Update, int, float]:
        """Fit some tokens; return the update that is best on others, its steps, and their loss."""
        settings, lowest, best_step = self._settings, math.inf, 0
        best: Update | None = None
        for step, update in enumerate(self._steps(train, settings.steps), 1):
            if step % settings.evaluate_every and step != settings.steps:
                continue
            with torch.no_grad():
                parts = torch.split(held_out, _CHUNK)
                total = sum(float(self._loss(part, update)) * len(part) for part in parts)
            loss = total / len(held_out)
            if best is None or loss < lowest:
                lowest, best_step, best = loss, step, self._for_inputs(update)
            progress(step, settings.steps, lowest)
            if step - best_step >= settings.patience * settings.evaluate_every:
                break
        assert best is not None
        return best, best_step, lowest

    def after(self, tokens: torch.Tensor, steps: int) -> Update:
        """Fit some tokens for a number of steps."""
        *_, update = self._steps(tokens, steps)
        return self._for_inputs(update)

    def _for_inputs(self, update: Update) -> Update:
        """Return a copy of an update, for inputs as they are."""
        A, B = update
        return A.detach() * self._scale, B.detach().clone()

    def _steps(self, tokens: torch.Tensor, count: int) -> Iterator[Update]:
        """Yield the update after each step; it is changed by the next one."""
        settings = self._settings
        generator = torch.Generator().manual_seed(settings.seed)
        A = self._directions(tokens, generator).requires_grad_(True)
        B = torch.zeros(self._states.sums.shape[1], len(A), requires_grad=True)
        optimizer = torch.optim.AdamW([A, B], lr=settings.lr, betas=_BETAS, weight_decay=0.0)
        for _, batch in zip(range(count), _batches(tokens, settings, generator), strict=False):
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(batch, (A, B)))
            optimizer.step()
            yield A, B

    def _loss(self, tokens: torch.Tensor, update: Update) -> torch.Tensor:
        """Return the mean loss of some tokens, by the candidates."""
        A, B = update
        x = self._states.inputs[tokens] * self._scale
        sums = self._states.sums[tokens] + (x @ A.T) @ B.T
        return self._candidates.loss(self._head.norm(sums), tokens)

    def _directions(self, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the start of A (rank, in): main directions of the gradient by B·A, (d, in).

        Randomized SVD (Halko, Martinsson, Tropp, SIAM Review 53, 2011, algorithm 4.4).
        """
        gradient = torch.zeros(self._states.sums.shape[1], self._states.inputs.shape[1])
        for part in torch.split(tokens, _CHUNK):
            sums = self._states.sums[part].requires_grad_(True)
            torch.autograd.backward(self._candidates.loss(self._head.norm(sums), part))
            assert sums.grad is not None
            gradient += len(part) * sums.grad.T @ (self._states.inputs[part] * self._scale)
        sketch = torch.randn(gradient.shape[1], self._rank + _OVERSAMPLING, generator=generator)
        basis = torch.linalg.qr(gradient @ sketch).Q
        for _ in range(_POWER_STEPS):
            basis = torch.linalg.qr(gradient @ (gradient.T @ basis)).Q
        directions: torch.Tensor = torch.linalg.svd(basis.T @ gradient, full_matrices=False).Vh
        return directions[: self._rank] / math.sqrt(3)  # rows as long as those of PEFT's start


def _batches(
    tokens: torch.Tensor, settings: ReadoutSettings, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield the tokens of step after step, from one shuffled epoch after another."""
    count, waiting = min(settings.tokens, len(tokens)), tokens[:0]
    while True:
        while len(waiting) < count:
            order = torch.randperm(len(tokens), generator=generator)
            waiting = torch.cat([waiting, tokens[order]])
        yield waiting[:count]
        waiting = waiting[count:]
