"""How much of a dataset, and of each text, is counted."""

from dataclasses import dataclass

MAX_TEXT = 1_000_000
"""Characters of one text, such as an input or an output; longer ones are cut to their beginning."""


@dataclass(frozen=True)
class ReadingLimits:
    """How much of a dataset a plan counts.

    Attributes:
        characters: of all texts; after the row that reaches them, reading stops.
        rows: None is any number.
    """

    characters: int = 1_000_000_000
    rows: int | None = None


DEFAULT_LIMITS = ReadingLimits()


def cut(text: str) -> str:
    """Return the beginning of a text; a shorter one stays what it is, such as a chat."""
    return text[:MAX_TEXT] if len(text) > MAX_TEXT else text


def is_cut(text: str) -> bool:
    """Whether a text that was read has been cut, or is exactly as long as the limit."""
    return len(text) >= MAX_TEXT
