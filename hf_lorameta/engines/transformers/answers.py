"""The greedy answers of a base model in transformers.

Answers end at an end token, and after their first line if that is all that is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import may_be_right, stripped
from hf_lorameta.types import no_progress

if TYPE_CHECKING:
    import torch


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokenizer's end token and those of the model's own generation config."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


def greedy_config(model: Any, tokenizer: Any) -> Any:
    """Return plain greedy decoding, without the model's own sampling settings and penalties."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        eos_token_id=end_tokens(model, tokenizer),
        pad_token_id=tokenizer.eos_token_id,
    )


@dataclass(frozen=True)
class Answers:
    """Answers of a model with the adapter that is attached to it.

    Attributes:
        model: a causal LM of transformers, whose generation config is a `greedy_config`.
        tokenizer: of the model.
        batch_tokens: maximum number of tokens in a batch, padding included.
        first_line: whether answers end after their first line.
    """

    model: Any
    tokenizer: Any
    batch_tokens: int
    first_line: bool = False

    def shown(self, row: Tokens, likeliest: Sequence[int]) -> tuple[str, bool]:
        """Return the beginning of a row's greedy answer, and whether that is the whole answer.

        Greedy decoding gives the output's tokens as long as each is the likeliest after those
        before it, and then the likeliest one.

        Args:
            row: its prompt and output.
            likeliest: the most probable token in place of each output token, given those before it.
        """
        same = shared_length([row.output, likeliest])
        tokens, ends = likeliest[: same + 1], end_tokens(self.model, self.tokenizer)
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = self._decoded([tokens[:end]])[0]
        complete = end is not None or (self.first_line and "\n" in text.lstrip())
        return stripped(text, self.first_line), complete

    def generated(
        self,
        prompts: Sequence[list[int]],
        most: int,
        references: Sequence[str] | None = None,
        done: Callable[[int], None] = no_progress,
    ) -> list[str]:
        """Return the answers to prompts.

        Args:
            prompts: their tokens.
            most: tokens of an answer, at most.
            references: right answers; an answer ends as soon as it can no longer be right.
            done: called with the number of answers of each batch that is finished.
        """
        from hf_lorameta.engines.transformers.threads import fastest_threads

        answers = [""] * len(prompts)
        lengths = [len(prompt) + most for prompt in prompts]
        for batch in batches_within(lengths, self.batch_tokens):
            with fastest_threads(self.model):
                right = references and [references[i] for i in batch]
                texts = self._decoded(self.continued([prompts[i] for i in batch], most, right))
            for index, text in zip(batch, texts, strict=True):
                answers[index] = stripped(text, self.first_line)
            done(len(texts))
        return answers

    def continued(
        self, prompts: Sequence[list[int]], most: int, references: Sequence[str] | None = None
    ) -> list[list[int]]:
        """Continue prompts greedily; end tokens may follow an answer. As for `generated`."""
        from transformers import StoppingCriteriaList

        ids, mask = _left_padded(prompts, self.tokenizer.eos_token_id)
        width = ids.shape[1]
        ends = [self.end_criterion(width, references)] if self.first_line or references else []
        # of a strided input, torch 2.13 copies a bfloat16 weight for each prompt: 467 MB at 1.5B
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        try:
            tokens = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                stopping_criteria=StoppingCriteriaList(ends),
                max_new_tokens=most,
            )
        finally:
            hook.remove()
        answers: list[list[int]] = tokens[:, width:].tolist()
        return answers

    def end_criterion(self, width: int, references: Sequence[str] | None = None) -> Any:
        """End answers, the tokens after the first `width`, where no more of them is needed.

        For the first line, that is at a newline after text that is more than whitespace; with
        references, where an answer can no longer be right.
        """
        import torch

        def stop(ids: "torch.Tensor", scores: object, **_: object) -> "torch.Tensor":
            texts = self.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
            wrong = [False] * len(texts)
            if references:
                pairs = zip(texts, references, strict=True)
                wrong = [not may_be_right(text.lstrip(), right) for text, right in pairs]
            lines = [self.first_line and "\n" in text.lstrip() for text in texts]
            return torch.tensor([a or b for a, b in zip(lines, wrong, strict=True)])

        return stop

    def _decoded(self, answers: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts


def batches_within(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group indices into batches of similar length whose padded size is within the budget.

    Example:
        >>> list(batches_within([5, 2, 9, 2], budget=10))
        [[1, 3], [0], [2]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _left_padded(prompts: Sequence[list[int]], pad: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return token ids and mask, both (B, T) int64."""
    import torch

    rows = [torch.tensor(prompt) for prompt in prompts]
    pad_left = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    return pad_left(rows, padding_value=pad), pad_left([torch.ones_like(row) for row in rows])
