"""The text of a row as a model reads it, and its token ids."""

from collections.abc import Sequence
from typing import NamedTuple

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.types import Row


def prompt_text(text: str, shots: Sequence[Row] = ()) -> str:
    """Return a row's prompt: few-shot examples, each followed by a blank line, then its input.

    Example:
        >>> prompt_text("2+2=", shots=[("1+1=", "2")])
        '1+1= 2\\n\\n2+2='
    """
    return "".join(f"{row_text(*shot)}\n\n" for shot in shots) + text


def row_text(prompt: str, output: str) -> str:
    """Join prompt and output, with a space unless the prompt is empty or ends in whitespace.

    Example:
        >>> row_text("Q:", "a"), row_text("Q:\\n", "a"), row_text("", "a")
        ('Q: a', 'Q:\\na', 'a')
    """
    return f"{prompt} {output}" if prompt and not prompt[-1].isspace() else prompt + output


class Tokens(NamedTuple):
    """Token ids of a row: the prompt with its start token, the output with its end token."""

    prompt: list[int]
    output: list[int]

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that a model reads to predict the output: all but the last.

        Example:
            >>> Tokens([1, 2], [3, 4]).read
            (1, 2, 3)
        """
        return (*self.prompt, *self.output[:-1])

    @classmethod
    def split(
        cls, prompt: list[int], text: list[int], start: list[int], first: list[int], end: int
    ) -> "Tokens":
        """Split the tokens of a row's text; one that spans the border belongs to the output.

        The tokenizer prepends `start`, possibly none, to a text; `first` replaces an empty prompt.

        Example:
            >>> Tokens.split([5, 6], [5, 6, 7], [], [0], 1)
            Tokens(prompt=[5, 6], output=[7, 1])
        """
        common = shared_length([prompt, text])
        return cls(start + prompt[:common] or first, [*text[common:], end])

    def truncated_prompt(self, length: int, start: list[int]) -> list[int]:
        """Return at most `length` tokens: the start token and the end of the prompt."""
        if len(self.prompt) <= length:
            return self.prompt
        return start + self.prompt[-max(length - len(start), 1) :]

    def truncated(self, length: int, start: list[int]) -> "Tokens":
        """Return the row in `length` tokens; the prompt is truncated, the output never."""
        return Tokens(self.truncated_prompt(length - len(self.output), start), self.output)
