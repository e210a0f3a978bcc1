"""How much of a dataset, and of each text, is counted."""

import math
from dataclasses import dataclass

from hf_lorameta.errors import DatasetTooLargeError

MAX_TEXT = 1_000_000
"""Characters of one text, such as an input or an output; longer ones are cut to their beginning."""
MAX_COLUMNS = 2000
"""Most columns of a table; each takes time wherever columns are gone through."""


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


def check_number_of_columns(name: str, columns: int) -> None:
    """Raise if a dataset has more than `MAX_COLUMNS` columns, before its rows are gone through."""
    if columns > MAX_COLUMNS:
        raise DatasetTooLargeError(
            f"{name} has more than {MAX_COLUMNS:,} columns",
            code="dataset.too-large",
            hint="write its rows with those that matter, such as input and output",
        )
