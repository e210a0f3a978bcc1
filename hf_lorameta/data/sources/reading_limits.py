"""Limits on what is read from a dataset, so that a small file cannot fill the memory."""

from dataclasses import dataclass

from hf_lorameta.errors import DatasetError, DatasetTooLargeError

MAX_TEXT = 1_000_000
"""Characters of one text, such as an input or an output; longer ones are cut to their beginning."""
MAX_ROW_BYTES = 32 * MAX_TEXT
"""Largest size of a row, all columns together, in bytes of memory; larger ones are refused.

At least eight texts of the length `MAX_TEXT` fit, as UTF-8 has at most 4 bytes a character.
"""


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
    """Return the beginning of a text."""
    return text[:MAX_TEXT]


def is_cut(text: str) -> bool:
    """Whether a text that was read is only the beginning of the one in the dataset, or as long."""
    return len(text) >= MAX_TEXT


def row_too_large(name: str) -> DatasetError:
    """Return the error for a row of more than `MAX_ROW_BYTES`."""
    return DatasetTooLargeError(
        f"{name} has a row of more than {MAX_ROW_BYTES / 1e6:,.0f} MB", hint="split the row"
    )
