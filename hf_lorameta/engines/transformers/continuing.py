"""Greedy answers to many prompts with the probability of their tokens. Needs the extra ``eval``.

What all prompts begin with is read once, rows of similar length form a batch, and a row leaves it
when its answer ends.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import stripped
from hf_lorameta.engines.transformers.answers import Answers, batches_within, end_tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.row_mode import RowMode, row_mode
from hf_lorameta.engines.transformers.threads import fastest_threads
from hf_lorameta.types import no_progress


class Continuation(NamedTuple):
    """An answer, and the geometric mean of the probabilities of its tokens, end token included."""

    text: str
    probability: float


def continuations(
    evaluator: TorchEvaluator,
    prompts: Sequence[str],
    first_line: bool = False,
    done: Callable[[int], None] = no_progress,
) -> list[Continuation]:
    """Return the greedy answers to prompts.

    Args:
        evaluator: with the adapter attached.
        prompts: of the rows, in the form that the adapter was made for.
        first_line: whether answers end after their first line.
        done: called with the number of answers of each batch that is finished.
    """
    most = evaluator.max_new_tokens
    encoded = evaluator.encode([(prompt, "") for prompt in prompts])
    room = evaluator.max_length - most
    ids = [row.truncated_prompt(room, evaluator.start_tokens) for row in encoded]
    if row_mode(evaluator.model) is not RowMode.JOINED:
        return _one_after_the_other(evaluator, ids, first_line, done)
    shared = min(shared_length(ids), *(len(row) - 1 for row in ids), len(ids[0]))
    found: list[Continuation | None] = [None] * len(ids)
    with torch.no_grad(), fastest_threads(evaluator.model):
        for batch in batches_within([len(row) + most for row in ids], evaluator.batch_tokens):
            greedy = _Greedy(evaluator, first_line, most)
            answers = greedy.run([ids[index] for index in batch], shared)
            for index, answer in zip(batch, answers, strict=True):
                found[index] = answer
            done(len(batch))
    return [answer for answer in found if answer]


def _one_after_the_other(
    evaluator: TorchEvaluator,
    prompts: Sequence[list[int]],
    first_line: bool,
    done: Callable[[int], None],
) -> list[Continuation]:
    """Answer as `Answers` does, and read the answers again for their probabilities."""
    answers = Answers(evaluator.model, evaluator.tokenizer, evaluator.batch_tokens, first_line)
    texts = answers.generated(prompts, evaluator.max_new_tokens, done=done)
    encode = evaluator.tokenizer
    outputs = [encode(text, add_special_tokens=False).input_ids for text in texts]
    rows = [
        Tokens(prompt, [*output, evaluator.end_token])
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    losses = evaluator.row_losses(rows)
    return [Continuation(*pair) for pair in zip(texts, losses.probabilities.tolist(), strict=True)]


class _Row:
    """A row of a batch: its answer so far, and the sum of the log probabilities of its tokens."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.total = 0.0


class _Greedy:
    """Answers a batch of prompts."""

    def __init__(self, evaluator: TorchEvaluator, first_line: bool, most: int) -> None:
        self._model, self._tokenizer = evaluator.model, evaluator.tokenizer
        self._ends = set(end_tokens(self._model, self._tokenizer))
        self._pad, self._first_line, self._most = evaluator.end_token, first_line, most

    def run(self, prompts: Sequence[list[int]], shared: int) -> list[Continuation]:
        """Answer prompts, of which the first `shared` tokens are the same."""
        head = self._model.get_output_embeddings()
        # as in `Answers.continued`: of a strided input, torch copies a bfloat16 weight
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        try:
            rows = [_Row() for _ in prompts]
            self._decode(prompts, shared, rows)
        finally:
            hook.remove()
        return [self._answer(row) for row in rows]

    def _decode(self, prompts: Sequence[list[int]], shared: int, rows: Sequence[_Row]) -> None:
        from transformers import DynamicCache

        cache: Any = DynamicCache(config=self._model.config)
        own = [prompt[shared:] for prompt in prompts]
        width = max(map(len, own))
        ids = torch.tensor([[self._pad] * (width - len(row)) + row for row in own])
        mask = torch.tensor(
            [[1] * shared + [0] * (width - len(row)) + [1] * len(row) for row in own]
        )
        if shared:
            self._next(cache, input_ids=torch.tensor([prompts[0][:shared]]))
            cache.batch_repeat_interleave(len(prompts))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        open_rows = list(range(len(prompts)))
        while True:
            logits = self._next(cache, input_ids=ids, attention_mask=mask, position_ids=positions)
            best, token = logits.max(-1)
            chances = best - logits.logsumexp(-1)
            for row, one, chance in zip(open_rows, token.tolist(), chances.tolist(), strict=True):
                rows[row].tokens.append(one)
                rows[row].total += chance
            staying = [i for i, row in enumerate(open_rows) if not self._ended(rows[row].tokens)]
            if not staying:
                return
            if len(staying) < len(open_rows):
                kept = torch.tensor(staying)
                open_rows = [open_rows[i] for i in staying]
                cache.batch_select_indices(kept)
                mask, token, positions = mask[kept], token[kept], positions[kept]
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], 1)

    def _next(self, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        """Read tokens (B, T) behind those in the cache; return the logits of the next, (B, V)."""
        # transformers 5.24 renamed the argument
        known = inspect.signature(self._model.forward).parameters
        held = {"cache" if "cache" in known else "past_key_values": cache}
        logits: torch.Tensor = self._model(**inputs, **held, logits_to_keep=1).logits
        return logits[:, -1].float()

    def _ended(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self._ends or len(tokens) >= self._most:
            return True
        return self._first_line and "\n" in self._text(tokens).lstrip()

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _answer(self, row: _Row) -> Continuation:
        probability = math.exp(row.total / len(row.tokens))
        return Continuation(stripped(self._text(row.tokens), self._first_line), probability)
