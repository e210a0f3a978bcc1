"""The token ids of rows, and of what a chat template puts around answers."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from hf_lorameta.data.chat_form import ChatForm, ChatMode
from hf_lorameta.data.chat_template import form_of
from hf_lorameta.engines.prompts import ends_as_chat, row_text
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.errors import UsageError
from hf_lorameta.types import Row


class RowEncoder:
    """Encodes rows: input, a space unless it is empty or ends in whitespace, output, end token.

    In a chat, the end and what is before the output are those of the chat template.

    Args:
        tokenizer: of transformers; usable by one thread at a time.
        stops: the tokens at which the model ends an answer.

    Attributes:
        end_token: ends an output that is not in a chat.
        start_tokens: what the tokenizer prepends to a text, possibly nothing.

    Raises:
        UsageError: the tokenizer has no end token.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
        if end is None:
            name = tokenizer.name_or_path
            raise UsageError(
                f"the tokenizer in {name} has no end-of-sequence token", code="tokenizer.no-end"
            )
        self.tokenizer, self._stops = tokenizer, {end, *stops}
        self.end_token: int = end
        self.start_tokens: list[int] = [start] if start in tokenizer("").input_ids else []
        self._first = [end if start is None else start]

    @cached_property
    def chat_form(self) -> ChatForm | None:
        """The form of the tokenizer's chat template; None if it has none.

        Raises:
            UsageError: the chat template fails on a message.
        """
        texts = self.tokenizer.special_tokens_map
        config = {**texts, "chat_template": self.tokenizer.chat_template}
        return form_of(config, "the base model", starts=bool(self.start_tokens))

    @cached_property
    def _chat(self) -> tuple[ChatMode, str, int]:
        """How chats are written, what prompts in them end in, and the token that ends answers."""
        with suppress(UsageError):
            if self.chat_form and (mode := self.chat_form.chat):
                ids = self.tokenizer(mode.end, add_special_tokens=False).input_ids
                stops = ids[:1] and ids[0] in self._stops
                return mode, self.chat_form.end, ids[0] if stops else self.end_token
        return ChatMode(), "", self.end_token

    def encode(self, row: Row) -> Tokens:
        """Return the tokens of a row, however many."""
        prompt, output = row
        mode, prompt_end, end = self._chat
        in_chat = ends_as_chat(prompt, prompt_end)
        text = prompt + output if in_chat and mode.unspaced else row_text(prompt, output)
        prompt_ids, ids = self.tokenizer([str(prompt), text], add_special_tokens=False).input_ids
        if prompt.endswith("\n") and ids[: len(prompt_ids)] != prompt_ids:
            # a server encodes a prompt without its answer: blank lines at its end may be one token
            lines = ["\n", f"\n{output}"]
            line, answer = self.tokenizer(lines, add_special_tokens=False).input_ids
            if answer[: len(line)] == line:
                ids = prompt_ids + answer[len(line) :]
        last = end if in_chat else self.end_token
        return Tokens.split(prompt_ids, ids, self.start_tokens, self._first, last)
