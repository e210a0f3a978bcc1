"""Loss and answers of a base model in transformers, with or without a PEFT adapter.

Needs the extra ``eval``; torch, transformers and peft are imported when a `TorchEvaluator` is
created.

A row is the input, a space unless the input ends in whitespace or is empty, the output, and the
tokenizer's end token. The loss covers the tokens of all outputs, end tokens included. Answers are
decoded greedily, and end after their first line unless a reference has several.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy, deepcopy
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.data.chat_form import ChatForm, ChatMode
from hf_lorameta.data.chat_template import form_of
from hf_lorameta.data.prompt import PROMPT, shared_length
from hf_lorameta.engines import scoring
from hf_lorameta.engines.row_tokens import Tokens, row_text
from hf_lorameta.engines.scoring import Adapter, LoraWeights, Scores
from hf_lorameta.engines.transformers.dtype import require_memory, suited_dtype
from hf_lorameta.engines.transformers.peft_adapter import attached_by_peft
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import NotFoundError, UsageError, first_line
from hf_lorameta.hub.packaged_model import loading_model, quiet_transformers
from hf_lorameta.types import Row, no_progress

logger = logging.getLogger(__name__)

_OTHER_WEIGHTS = (
    "name a causal language model with all weights in bfloat16, float16 or float32; if it is "
    "quantized, the model that it was quantized from"
)

_MORE_TOKENS = 8
"""How many more tokens the answer to a row may have than the longest output, if these are texts."""

if TYPE_CHECKING:
    import torch

    from hf_lorameta.engines.transformers.forward import RowLosses


def require_eval() -> None:
    """Raise `MissingExtraError` unless the extra ``eval`` is installed, without importing it."""
    require_extra("torch", "transformers", "peft", "rouge_score", "psutil")


class TorchEvaluator(scoring.Evaluator):
    """A base model of transformers in memory, to which adapters are attached one at a time.

    All results are deterministic.

    Args:
        model: a causal LM of transformers with frozen weights, in evaluation mode.
        tokenizer: of the model.
        batch_tokens: maximum number of tokens in a batch, padding included.
        max_length: maximum tokens of prompt and answer together, if the model takes so many; longer
            prompts lose their beginning, outputs only what is beyond the model's positions.
        max_new_tokens: maximum tokens of an answer.

    Raises:
        UsageError: the tokenizer has no end token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_tokens: int = 4096,
        max_length: int = scoring.MAX_LENGTH,
        max_new_tokens: int = scoring.MAX_NEW_TOKENS,
    ) -> None:
        self.model, self._tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._positions: int | None = context or None
        self.max_length, self.max_new_tokens = (
            min(max_length, context or max_length),
            max_new_tokens,
        )
        end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
        if end is None:
            name = tokenizer.name_or_path
            raise UsageError(f"the tokenizer in {name} has no end-of-sequence token")
        self.end_token: int = end
        """Ends an output."""
        self.start_tokens = [start] if start in tokenizer("").input_ids else []
        """What the tokenizer prepends to a text, possibly nothing."""
        self._first = [end if start is None else start]
        model.generation_config = self._greedy_config()

    @classmethod
    def from_folder(
        cls, folder: Path | str, dtype: str = "auto", **options: int
    ) -> "TorchEvaluator":
        """Load a model.

        Args:
            folder: of model and tokenizer, see `hf_lorameta.hub.base_model.locate`.
            dtype: torch name of the weights' dtype; ``auto`` is `suited_dtype`.
            options: the numeric arguments of the class.

        Raises:
            MissingExtraError: the extra ``eval`` is not installed.
            NotFoundError: the folder holds no loadable model.
            UsageError: the weights do not fit into memory, or the tokenizer has no end token.
        """
        require_eval()
        suited = suited_dtype(Path(folder)) if dtype == "auto" else dtype
        require_memory(Path(folder), suited)
        logger.info("Loading the base model")
        with loading_model():
            evaluator = cls(*_load(Path(folder), suited), **options)
        if dtype == "auto":
            evaluator.prefer_float32()
        return evaluator

    @classmethod
    @contextmanager
    def of_model(cls, model: Any, tokenizer: Any) -> Iterator["TorchEvaluator"]:
        """Use a model that is already on the CPU; it is restored after the context.

        Raises:
            UsageError: no tokenizer, one without an end token, or a model on another device.
        """
        require_eval()
        if tokenizer is None:
            raise UsageError(
                "a loaded model needs its tokenizer", hint="give a pair: (model, tokenizer)"
            )
        if model.device.type != "cpu":
            raise UsageError(
                f"the model is on {model.device}, expected cpu", hint="model.to('cpu')"
            )
        config, training = model.generation_config, model.training
        trained = [p for p in model.parameters() if p.requires_grad]
        with ExitStack() as undo:
            undo.callback(lambda: [p.requires_grad_(True) for p in trained])
            undo.callback(model.train, training)
            undo.callback(setattr, model, "generation_config", config)
            evaluator = cls(model.eval().requires_grad_(False), tokenizer)
            undo.callback(evaluator.prefer_float32())
            yield evaluator

    def prefer_float32(self) -> Callable[[], None]:
        """Call `prefer_float32` of `float32_products.py` for the model, which is on the CPU."""
        from hf_lorameta.engines.transformers.float32_products import prefer_float32

        return prefer_float32(self.model)

    def twin(self) -> "TorchEvaluator":
        """Return another evaluator on the same weights in memory, for another thread.

        Adapters that are attached to one later do not change the other.
        """
        shared = {id(t): t for t in chain(self.model.parameters(), self.model.buffers())}
        other = copy(self)
        other.model = deepcopy(self.model, shared)
        other._tokenizer = deepcopy(self._tokenizer)  # usable by one thread at a time
        return other

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Adapter | None = None,
        generate: bool = True,
        done: Callable[[int], None] = no_progress,
    ) -> tuple[Scores, list[str]]:
        """See `hf_lorameta.engines.scoring.Evaluator.evaluate`.

        The passes that compute the losses also show the answers, up to the first token that differs
        from the output. Only the rest is generated; of texts, up to a few tokens more than the
        longest output has. If not all answers are to be complete, one ends as soon as it is wrong.
        """
        first_line = scoring.single_line(rows)
        with quiet_transformers(), self._with(adapter):
            encoded = self.encode(rows)
            losses = self.row_losses(encoded, done=done)
            prompts = [self._prompt(row) for row in rows]
            answers, unfinished = [], []
            for index, (row, best) in enumerate(zip(encoded, losses.likeliest, strict=True)):
                text, complete = self._shown_answer(row, best, first_line)
                answers.append(text)
                open_end = generate or scoring.may_be_right(text, rows[index][1])
                if row.prompt != prompts[index] or (open_end and not complete):
                    unfinished.append(index)
            done(len(rows) - len(unfinished))
            most = max(len(row.output) for row in encoded) + _MORE_TOKENS
            texts = self._generated(
                [prompts[i] for i in unfinished],
                first_line,
                done,
                most=most if scoring.are_texts(rows) else None,
                references=None if generate else [rows[i][1] for i in unfinished],
            )
        for index, text in zip(unfinished, texts, strict=True):
            answers[index] = text
        tokens = sum(losses.sizes)
        return scoring.score(losses.per_token, rows, answers, generate, tokens), answers

    @contextmanager
    def _with(self, adapter: Adapter | None) -> Iterator[None]:
        """Run the model with an adapter."""
        if not isinstance(adapter, LoraWeights):
            with attached_by_peft(self.model, adapter):
                yield
            return
        from hf_lorameta.engines.transformers.joined_rows import WHOLE, set_boundaries
        from hf_lorameta.engines.transformers.lora_layer import adapter_applied

        with adapter_applied(self.model, *adapter), set_boundaries(WHOLE):
            yield

    def _encode(self, row: Row) -> Tokens:
        mode, prompt_end, end = self._chat
        in_chat = bool(prompt_end.strip()) and row[0].endswith(prompt_end)
        end = end if in_chat else self.end_token
        texts = [row[0], "".join(row) if in_chat and mode.unspaced else row_text(*row)]
        prompt_ids, ids = self._tokenizer(texts, add_special_tokens=False).input_ids
        if row[0].endswith("\n") and ids[: len(prompt_ids)] != prompt_ids:
            # a server encodes a prompt without its answer: blank lines at its end may be one token
            lines = ["\n", f"\n{row[1]}"]
            line, answer = self._tokenizer(lines, add_special_tokens=False).input_ids
            if answer[: len(line)] == line:
                ids = prompt_ids + answer[len(line) :]
        return Tokens.split(
            prompt_ids, ids, self.start_tokens, self._first, end if in_chat else self.end_token
        )

    def _greedy_config(self) -> Any:
        """Plain greedy decoding, without the model's own sampling settings and penalties."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self._end_tokens(),
            pad_token_id=self.end_token,
        )

    def _end_tokens(self) -> list[int]:
        """The tokenizer's end token and those of the model's own generation config."""
        own = self.model.generation_config.eos_token_id
        return sorted({self.end_token, *(own if isinstance(own, list) else [own])} - {None})

    @cached_property
    def chat_form(self) -> ChatForm | None:
        """The form of the tokenizer's chat template; None if it has none.

        Raises:
            UsageError: the chat template fails on a message.
        """
        texts = self._tokenizer.special_tokens_map
        config = {**texts, "chat_template": self._tokenizer.chat_template}
        return form_of(config, "the base model", starts=bool(self.start_tokens))

    @property
    def scored_form(self) -> ChatForm | None:
        """See `hf_lorameta.engines.scoring.Evaluator.scored_form`."""
        with suppress(UsageError):
            return self.chat_form
        return None

    @cached_property
    def _chat(self) -> tuple[ChatMode, str, int]:
        """How chats are written, what prompts in them end in, and the token that ends answers."""
        with suppress(UsageError):
            if self.chat_form and (mode := self.chat_form.chat):
                ids = self._tokenizer(mode.end, add_special_tokens=False).input_ids
                stops = ids[:1] and ids[0] in self._end_tokens()
                prompt_end = self.chat_form.template.partition(PROMPT)[2]
                return mode, prompt_end, ids[0] if stops else self.end_token
        return ChatMode(), "", self.end_token

    # --- loss ---

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Return rows as token ids, long prompts truncated from the left."""
        most = self._positions and self._positions - len(self.start_tokens)
        whole = map(self._encode, rows)
        cut = (row._replace(output=row.output[:most]) for row in whole)
        return [row.truncated(self.max_length, self.start_tokens) for row in cut]

    def row_losses(
        self, rows: Sequence[Tokens], done: Callable[[int], None] = no_progress
    ) -> "RowLosses":
        """Compute the losses of rows.

        Args:
            rows: to score.
            done: called with the number of rows of each pass that is finished.
        """
        from hf_lorameta.engines.transformers.forward import PassRunner
        from hf_lorameta.engines.transformers.row_mode import rows_apart, suited_tokens
        from hf_lorameta.engines.transformers.threads import cores

        budget = min(self.batch_tokens, suited_tokens(self.model))
        workers = min(cores(), self.batch_tokens // budget)
        with rows_apart(self.model):
            runner = PassRunner(self.model, workers, budget)
            return runner.losses({0: rows}, done=done)[0]

    # --- answers ---

    def answer(self, prompt: str, adapter: Path | None = None) -> str:
        """Return the greedy answer to a prompt, of the base model or with a PEFT adapter.

        Raises:
            AdapterError: the adapter is broken, or does not fit the base model.
        """
        with quiet_transformers(), self._with(adapter):
            return self._generated([self._prompt((prompt, ""))], first_line=False)[0]

    def _prompt(self, row: Row) -> list[int]:
        """Return a prompt's tokens, truncated so that an answer fits."""
        length = self.max_length - self.max_new_tokens
        return self._encode(row).truncated_prompt(length, self.start_tokens)

    def _shown_answer(
        self, row: Tokens, likeliest: Sequence[int], first_line: bool
    ) -> tuple[str, bool]:
        """Return the beginning of a row's greedy answer, and whether that is the whole answer.

        Greedy decoding gives the output's tokens as long as each is the likeliest after those
        before it, and then the likeliest one.

        Args:
            row: its prompt and output.
            likeliest: the most probable token in place of each output token, given those before it.
            first_line: whether answers end after their first line.
        """
        same = shared_length([row.output, likeliest])
        tokens, ends = likeliest[: same + 1], self._end_tokens()
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = self._decode([tokens[:end]])[0]
        complete = end is not None or (first_line and "\n" in text.lstrip())
        return scoring.stripped(text, first_line), complete

    def _decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _generated(
        self,
        prompts: Sequence[list[int]],
        first_line: bool,
        done: Callable[[int], None] = no_progress,
        *,
        most: int | None = None,
        references: Sequence[str] | None = None,
    ) -> list[str]:
        """Return the answers to prompts.

        Args:
            prompts: their tokens.
            first_line: whether answers end after their first line.
            done: called with the number of answers of each batch that is finished.
            most: tokens of an answer, at most, if less than `max_new_tokens`.
            references: right answers; an answer ends as soon as it can no longer be right.
        """
        from hf_lorameta.engines.transformers.threads import fastest_threads

        answers = [""] * len(prompts)
        tokens = min(most or self.max_new_tokens, self.max_new_tokens)
        lengths = [len(prompt) + tokens for prompt in prompts]
        for batch in _batches(lengths, self.batch_tokens):
            with fastest_threads(self.model):
                right = references and [references[i] for i in batch]
                given = self._generate([prompts[i] for i in batch], first_line, tokens, right)
                texts = self._decode(given)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = scoring.stripped(text, first_line)
            done(len(texts))
        return answers

    def _generate(
        self,
        prompts: Sequence[list[int]],
        first_line: bool,
        most: int,
        references: Sequence[str] | None,
    ) -> list[list[int]]:
        """Continue prompts greedily; end tokens may follow an answer."""
        from transformers import StoppingCriteriaList

        ids, mask = _left_padded(prompts, self.end_token)
        width = ids.shape[1]
        stop = first_line or references
        ends = [self._end_criterion(width, first_line, references)] if stop else []
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

    def _end_criterion(
        self, width: int, first_line: bool, references: Sequence[str] | None = None
    ) -> Any:
        """End answers, the tokens behind the first `width`, where no more of them is needed.

        For the first line, that is at a newline behind text that is more than whitespace; with
        references, where an answer can no longer be right.
        """
        import torch

        def stop(ids: "torch.Tensor", scores: object, **_: object) -> "torch.Tensor":
            texts = self._tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
            wrong = [False] * len(texts)
            if references:
                pairs = zip(texts, references, strict=True)
                wrong = [not scoring.may_be_right(text.lstrip(), right) for text, right in pairs]
            lines = [first_line and "\n" in text.lstrip() for text in texts]
            return torch.tensor([a or b for a, b in zip(lines, wrong, strict=True)])

        return stop


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group indices into batches of similar length whose padded size is within the budget.

    Example:
        >>> list(_batches([5, 2, 9, 2], budget=10))
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


def _load(folder: Path, dtype: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load_model, load_tokenizer = AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained
    # without trust_remote_code, transformers asks on the terminal whether to run a repo's code
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, found = load_model(folder, dtype=dtype, output_loading_info=True, **safely)
        tokenizer = load_tokenizer(folder, **safely)
    except (OSError, ValueError, SafetensorError, ImportError, RuntimeError) as error:
        # ImportError: a quantization package is missing; RuntimeError: shapes differ
        if "custom code" in str(error):
            raise UsageError(
                f"the model in {folder} needs code of its own repo, which is never run here",
                hint="name a model whose architecture is part of transformers",
            ) from None
        raise NotFoundError(
            f"transformers cannot load a model from {folder}: {first_line(error)[:300]}",
            hint=_OTHER_WEIGHTS,
        ) from error
    if missing := sorted(found["missing_keys"]):  # they would be random
        raise NotFoundError(
            f"{len(missing)} weights of {type(model).__name__} are missing in {folder}, such as "
            f"{missing[0]}",
            hint=_OTHER_WEIGHTS,
        )
    return model.eval().requires_grad_(False), tokenizer
