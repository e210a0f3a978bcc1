"""What one command or one call needs: a Hub client, a bank and a base model, each opened once."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import TOKENIZER_FILE
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.data.chat_form import CHAT, ChatForm
from hf_lorameta.data.chat_template import find_chat_form, require_chat_form
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.data.prompt import PROMPT
from hf_lorameta.data.reading import Reading, reading_of
from hf_lorameta.data.sources.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import MAX_SCORED_TOKENS
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
from hf_lorameta.errors import HubError, UsageError
from hf_lorameta.hub.base_model import LOCAL_HINT, locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.bank_prompts import prompts_like
from hf_lorameta.pipeline.progress import with_progress
from hf_lorameta.quoting import shell_word
from hf_lorameta.types import StageProgress, no_progress

_CPU_SECONDS_TO_SAVE = 1.0
"""To save an adapter, read it back, print what was done, and end the process."""

LoadedModel: TypeAlias = tuple[Any, Any]
"""A causal LM of transformers, on the CPU, and its tokenizer."""


@dataclass(frozen=True)
class Opening:
    """How a dataset is opened. It can be pickled.

    Attributes:
        reading: what is read, and how.
        prompts: gives prompts the form that they lack; None if a template is asked for.
    """

    reading: Reading
    prompts: Callable[[Dataset], Dataset] | None

    def open(self, dataset: Any, hub: Hub, limits: ReadingLimits = DEFAULT_LIMITS) -> Dataset:
        """Open a dataset; arguments and errors are those of `hf_lorameta.open_dataset`."""
        opened = open_dataset(dataset, hub, limits=limits, **self.reading.options)
        return self.prompts(opened) if self.prompts else opened


class Session:
    """A Hub client, a bank and a base model, opened when first used and then shared.

    All reads of one session see one commit of the bank. Use it as a context manager, or call
    `close`, to restore a model that was given.

    Args:
        bank: an opened bank, a folder, a Hub id or ``none``; None is the default bank.
        base: the base model: Hub id, folder or GGUF file; None is that of the bank. See
            `hf_lorameta.bank.open_bank.open_bank` for which bank is opened for it.
        base_revision: branch, tag or commit of the base model, if no bank is used.
        bank_revision: branch, tag or commit of a bank repo.
        token: of the Hub; None uses the saved one, False sends none.
        model: the base model and its tokenizer; None loads it if it is needed.
        progress: called by all steps with (stage, done, total), where total is 0 if unknown.
        clock: measures time limits, in seconds.

    Attributes:
        began: by the clock: time limits count from then.

    Raises:
        UsageError: a model without its tokenizer.

    Example:
        >>> with Session() as session:
        ...     session.bank.index.base_model
        'HuggingFaceTB/SmolLM2-135M-Instruct'
    """

    def __init__(
        self,
        bank: Bank | str | Path | None = None,
        *,
        base: str | Path | None = None,
        base_revision: str | None = None,
        bank_revision: str | None = None,
        token: str | Literal[False] | None = None,
        model: LoadedModel | None = None,
        progress: StageProgress = no_progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if model is not None and not isinstance(model, tuple):
            raise UsageError(
                "a loaded model needs its tokenizer",
                code="base.no-tokenizer",
                hint="give a pair: (model, tokenizer)",
            )
        if not isinstance(bank, Bank | str | Path | None):
            kind = type(bank).__name__
            raise UsageError(
                f"a {kind} was given as the bank, expected an opened bank, a folder or a Hub id",
                code="bank.not-a-bank",
                hint=f"name the argument: {kind.lower()}=…",
            )
        self._bank, self._base = bank, base
        self._revisions = {"revision": bank_revision, "base_revision": base_revision}
        self._token, self._model, self.progress = token, model, progress
        self._closing, self._clock = ExitStack(), clock
        self.began = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the model that was given, if there is one."""
        self._closing.close()

    def with_progress(self, progress: StageProgress) -> "Session":
        """Return a copy of this session, with the same bank and base model, that reports elsewhere.

        What is not open yet is opened once for each copy.
        """
        other = copy(self)
        other.progress = progress
        return other

    def deadline(self, seconds: float) -> Deadline:
        """Return the end of a time limit that began with this session; 0 seconds are no limit.

        Of the time left, saving is kept out.
        """
        return Deadline(seconds or None, self._clock, began=self.began, kept=_CPU_SECONDS_TO_SAVE)

    @cached_property
    def hub(self) -> Hub:
        """The Hub client."""
        return Hub(self._token)

    @cached_property
    def bank(self) -> Bank:
        """The bank; an empty one if there is none for the base model.

        Raises:
            BankError: not a bank, or one for another base model.
            UsageError: the base model cannot be used.
            HubError: a repo is missing or cannot be reached.
        """
        return open_bank(self._bank, self._base, **self._revisions, hub=self.hub)

    @property
    def has_model(self) -> bool:
        """Whether a loaded base model was given."""
        return self._model is not None

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        """The bank's base model in transformers, at the revision that the bank states.

        Raises:
            MissingExtraError: the extra ``eval`` is not installed.
            HubError: the base model is missing, or cannot be fetched.
        """
        require_eval()
        if self._model is not None:
            return self._closing.enter_context(TorchEvaluator.of_model(*self._model))
        return TorchEvaluator.from_folder(self._base_folder)

    def fetch_base_model(self) -> None:
        """Fetch the bank's base model, if it is neither in memory nor on this machine.

        Raises:
            HubError: the base model is missing, or cannot be fetched.
        """
        if self._model is None:
            self._base_folder  # noqa: B018 - fetches it

    @cached_property
    def _base_folder(self) -> Path:
        """The folder of the base model."""
        index = self.bank.index
        try:
            return locate(index.base_model, index.base_revision, self._token, announce=False)
        except HubError as error:
            if not self.bank.is_empty:  # it is for the model of this name, not for one in a folder
                error.advice = tuple(part for part in error.advice if part != LOCAL_HINT)
                error.advise(
                    f"fetch it where the Hub answers: hf download {shell_word(index.base_model)}"
                )
            raise

    @cached_property
    def chat_form(self) -> ChatForm | None:
        """The form of the base model's own chat template; None if it has none.

        Raises:
            UsageError: the chat template fails on a message.
            HubError: the base model cannot be reached.
        """
        if self.has_model:
            return self.evaluator.chat_form
        index, tokenizer = self.bank.index, self.bank.verified_file(TOKENIZER_FILE)
        return find_chat_form(index.base_model, tokenizer, index.base_revision, self._token)

    @property
    def prompts(self) -> Callable[[Dataset], Dataset]:
        """A function that gives prompts the form that they lack, see `prompts_like`.

        Raises:
            UsageError, HubError: without a bank, as `chat_form` raises.
        """
        return prompts_like(self.bank, self.chat_form if self.bank.is_empty else None)

    def open_dataset(self, dataset: Any, **reading: Any) -> Dataset:
        """Open a dataset with this session's Hub client, see `hf_lorameta.open_dataset`.

        The template ``chat`` is the base model's own chat template, which is also the default
        without a bank. Without a template, prompts get what they lack, see `prompts_like`.

        Raises:
            UsageError: the instruction is longer than the prompts that the base model is run with.
            DatasetError, HubError: as `hf_lorameta.open_dataset` does.
        """
        opening = self.opening(reading_of(reading))
        return with_progress(opening.open(dataset, self.hub), self.progress)

    def opening(self, reading: Reading) -> "Opening":
        """Decide how a dataset is opened, as `open_dataset` does, perhaps in another process.

        Raises:
            UsageError: as `open_dataset` raises.
        """
        template = reading.template
        if template == CHAT:
            template = require_chat_form(self.chat_form, self.bank.public_base)
        if reading.instruction == "" and not template:
            template = PROMPT  # recorded, so that the recipe makes the same adapter
        self.check_instruction(reading.instruction)
        reading = reading.model_copy(update={"template": template})
        return Opening(reading, None if template else self.prompts)

    def check_instruction(self, instruction: str | None) -> None:
        """Refuse an instruction that would be cut off: prompts that are too long lose their start.

        Raises:
            UsageError: it is longer than the prompts that the base model is run with.
        """
        if instruction is None or len(instruction.encode()) <= MAX_SCORED_TOKENS:
            return
        [tokens] = self.bank.encode([instruction])
        if len(tokens) > MAX_SCORED_TOKENS:
            raise UsageError(
                f"the instruction has {len(tokens):,} tokens, expected at most "
                f"{MAX_SCORED_TOKENS:,}, the longest prompt that the base model is run with",
                code="instruction.too-long",
                hint="shorten the instruction",
            )
