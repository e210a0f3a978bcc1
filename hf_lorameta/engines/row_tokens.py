"""The token ids of a row as a model reads it."""

from typing import NamedTuple

from hf_lorameta.data.prompt import shared_length


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
