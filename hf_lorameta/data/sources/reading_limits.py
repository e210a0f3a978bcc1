"""How much of a dataset, and of each text, is counted."""

import math
from dataclasses import dataclass

MAX_TEXT = 1_000_000
"""Characters of one text, such as an input or an output; longer ones are cut to their beginning."""


@dataclass(frozen=True)
class ReadingLimits:
    """How much of a dataset a plan counts.

    Attributes:
        characters: of all texts; after the row that reaches them, reading stops.
        rows: None is any number.
        text: characters of one text; longer ones are cut to their beginning.
        seconds: of computing in this process, after which reading stops; some texts take ten times
            as long as others.
    """

    characters: int = 1_000_000_000
    rows: int | None = None
    text: int = MAX_TEXT
    seconds: float = math.inf


DEFAULT_LIMITS = ReadingLimits()


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return the beginning of a text; a shorter one stays what it is, such as a chat."""
    return text if len(text) <= most else text[:most]
