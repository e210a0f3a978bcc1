"""Score rows with a base model in transformers, with or without a PEFT adapter.

Needs the extra ``eval``; torch, transformers and peft are imported when a `TorchEvaluator` is
created.

`hf_lorameta.engines.transformers.encoding` says what a row is. The loss covers the tokens of all
outputs, end tokens included. Answers are decoded greedily, see `answers.py`, and end after their
first line unless a reference has several.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy, deepcopy
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.engines import scoring
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import Adapter, LoraWeights, Scores
from hf_lorameta.engines.transformers.answers import Answers, end_tokens, greedy_config
from hf_lorameta.engines.transformers.dtype import require_memory, suited_dtype
from hf_lorameta.engines.transformers.encoding import RowEncoder
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

_SAMPLES = (
    "Classify the message as a question, a complaint or a request.\n\nMessage: My card has not "
    "arrived yet, although I ordered it 2 weeks ago. When will it come?\nClass:",
    "def total(prices: list[float]) -> float:\n    return sum(prices)\n\nThe capital of France is "
    "Paris, and that of Italy is Rome. Translate: \u201eGuten Morgen!\u201c Good morning!",
)
"""Texts on which rounded layers are tried."""

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
        max_length: int = scoring.MAX_SCORED_TOKENS,
        max_new_tokens: int = scoring.MAX_NEW_TOKENS,
    ) -> None:
        self.model, self.batch_tokens = model, batch_tokens
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._positions: int | None = context or None
        self.max_length = min(max_length, context or max_length)
        self.max_new_tokens = max_new_tokens
        self._encoder = RowEncoder(tokenizer, end_tokens(model, tokenizer))
        model.generation_config = greedy_config(model, tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return self._encoder.tokenizer

    @property
    def end_token(self) -> int:
        """Ends an output."""
        return self._encoder.end_token

    @property
    def start_tokens(self) -> list[int]:
        """What the tokenizer prepends to a text, possibly nothing."""
        return self._encoder.start_tokens

    @classmethod
    def from_folder(
        cls, folder: Path | str, dtype: str = "auto", *, rounds: bool = True, **options: int
    ) -> "TorchEvaluator":
        """Load a model.

        Args:
            folder: of model and tokenizer, see `hf_lorameta.hub.base_model.locate`.
            dtype: torch name of the weights' dtype; ``auto`` is what is fastest here, see
                `suited_layers.py`.
            rounds: whether layers may be rounded to 8 bits, which pays off after a few answers.
            options: the numeric arguments of the class.

        Raises:
            MissingExtraError: the extra ``eval`` is not installed.
            NotFoundError: the folder holds no loadable model.
            UsageError: the weights do not fit into memory, or the tokenizer has no end token.
        """
        require_eval()
        from hf_lorameta.engines.transformers.products import Arithmetic, fastest_arithmetic

        rounds = rounds and dtype == "auto" and fastest_arithmetic() is Arithmetic.INT8
        suited = suited_dtype(Path(folder)) if dtype == "auto" and not rounds else dtype
        require_memory(Path(folder), "int8" if rounds else suited)
        logger.info("Loading the base model")
        with loading_model():
            evaluator = cls(*_load(Path(folder), "bfloat16" if rounds else suited), **options)
        if dtype == "auto":
            evaluator.suit(rounds=rounds)
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
                "a loaded model needs its tokenizer",
                code="base.no-tokenizer",
                hint="give a pair: (model, tokenizer)",
            )
        if model.device.type != "cpu":
            raise UsageError(
                f"the model is on {model.device}, expected cpu",
                code="base.not-on-cpu",
                hint="model.to('cpu')",
            )
        config, training = model.generation_config, model.training
        trained = [p for p in model.parameters() if p.requires_grad]
        with ExitStack() as undo:
            undo.callback(lambda: [p.requires_grad_(True) for p in trained])
            undo.callback(model.train, training)
            undo.callback(setattr, model, "generation_config", config)
            evaluator = cls(model.eval().requires_grad_(False), tokenizer)
            undo.callback(evaluator.suit(keep=True))
            yield evaluator

    def suit(self, *, keep: bool = False, rounds: bool = True) -> Callable[[], None]:
        """Call `suit` of `suited_layers.py` for the model, which is on the CPU."""
        from hf_lorameta.engines.transformers.suited_layers import suit

        return suit(self.model, self._sample_ids() if rounds else None, keep=keep)

    @property
    def arithmetic(self) -> str:
        """What large products are computed in: int8, or the torch name of a dtype."""
        from hf_lorameta.engines.transformers.suited_layers import arithmetic_of

        return arithmetic_of(self.model)

    def _sample_ids(self) -> "torch.Tensor":
        """Return tokens of two texts, equally many, (2, T)."""
        import torch

        rows = [row.prompt for row in self.encode([(text, "") for text in _SAMPLES])]
        length = min(map(len, rows))
        return torch.tensor([row[:length] for row in rows])

    def twin(self) -> "TorchEvaluator":
        """Return another evaluator on the same weights in memory, for another thread.

        Adapters that are attached to one later do not change the other.
        """
        shared = {id(t): t for t in chain(self.model.parameters(), self.model.buffers())}
        other = copy(self)
        other.model = deepcopy(self.model, shared)
        other._encoder = deepcopy(self._encoder)  # a tokenizer is usable by one thread at a time
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
        answers = self._answers(scoring.single_line(rows))
        with quiet_transformers(), self.attached(adapter):
            encoded = self.encode(rows)
            losses = self.row_losses(encoded, done=done)
            prompts = [self._prompt(row) for row in rows]
            texts, unfinished = [], []
            for index, (row, best) in enumerate(zip(encoded, losses.likeliest, strict=True)):
                text, complete = answers.shown(row, best)
                texts.append(text)
                open_end = generate or scoring.may_be_right(text, rows[index][1])
                if row.prompt != prompts[index] or (open_end and not complete):
                    unfinished.append(index)
            done(len(rows) - len(unfinished))
            most = self._likely_tokens(encoded) if scoring.are_texts(rows) else self.max_new_tokens
            others = [prompts[i] for i in unfinished]
            references = None if generate else [rows[i][1] for i in unfinished]
            generated = answers.generated(others, most, references, done)
        for index, text in zip(unfinished, generated, strict=True):
            texts[index] = text
        tokens = sum(losses.sizes)
        return scoring.score(losses.per_token, rows, texts, generate, tokens), texts

    def answer_seconds(self, rows: Sequence[Row], clock: Callable[[], float]) -> float:
        """See `hf_lorameta.engines.scoring.Evaluator.answer_seconds`."""
        answers, durations = self._answers(), list[float]()
        for _ in range(2):  # the first pass of a kind may take longer
            started = clock()
            answers.generated([[self.end_token]] * len(rows), 1)
            durations.append(clock() - started)
        return min(durations) * self._likely_tokens(self.encode(rows))

    def _likely_tokens(self, rows: Sequence[Tokens]) -> int:
        """Return a few tokens more than the longest output of rows has, as far as allowed."""
        return min(self.max_new_tokens, max(len(row.output) for row in rows) + _MORE_TOKENS)

    @contextmanager
    def attached(self, adapter: Adapter | None) -> Iterator[None]:
        """Run the model with an adapter; None is the model alone."""
        if not isinstance(adapter, LoraWeights):
            with attached_by_peft(self.model, adapter):
                yield
            return
        from hf_lorameta.engines.transformers.joined_rows import WHOLE, set_boundaries
        from hf_lorameta.engines.transformers.lora_layer import adapter_applied

        with adapter_applied(self.model, *adapter), set_boundaries(WHOLE):
            yield

    @property
    def chat_form(self) -> ChatForm | None:
        """The form of the tokenizer's chat template; None if it has none.

        Raises:
            UsageError: the chat template fails on a message.
        """
        return self._encoder.chat_form

    @property
    def scored_form(self) -> ChatForm | None:
        """See `hf_lorameta.engines.scoring.Evaluator.scored_form`."""
        with suppress(UsageError):
            return self.chat_form
        return None

    # --- loss ---

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Return rows as token ids, long prompts truncated from the left."""
        most = self._positions and self._positions - len(self.start_tokens)
        whole = map(self._encoder.encode, rows)
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

    def answer(self, prompt: str, adapter: Adapter | None = None) -> str:
        """Return the greedy answer to a prompt, of the base model or with an adapter.

        Raises:
            AdapterError: the adapter is broken, or does not fit the base model.
        """
        with quiet_transformers(), self.attached(adapter):
            prompts = [self._prompt((prompt, ""))]
            return self._answers().generated(prompts, self.max_new_tokens)[0]

    def _answers(self, first_line: bool = False) -> Answers:
        return Answers(self.model, self.tokenizer, self.batch_tokens, first_line)

    def _prompt(self, row: Row) -> list[int]:
        """Return a prompt's tokens, truncated so that an answer fits."""
        length = self.max_length - self.max_new_tokens
        return self._encoder.encode(row).truncated_prompt(length, self.start_tokens)


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
                code="base.needs-code",
                hint="name a model whose architecture is part of transformers",
            ) from None
        raise NotFoundError(
            f"transformers cannot load a model from {folder}: {first_line(error)[:300]}",
            code="base.not-loadable",
            hint=_OTHER_WEIGHTS,
        ) from error
    if missing := sorted(found["missing_keys"]):  # they would be random
        raise NotFoundError(
            f"{len(missing)} weights of {type(model).__name__} are missing in {folder}, such as "
            f"{missing[0]}",
            code="base.weights-missing",
            hint=_OTHER_WEIGHTS,
        )
    return model.eval().requires_grad_(False), tokenizer
