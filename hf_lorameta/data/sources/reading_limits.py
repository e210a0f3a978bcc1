"""Limits on what is read from a dataset, so that a small file cannot fill the memory."""

from dataclasses import dataclass

from hf_lorameta.errors import DatasetError, DatasetTooLargeError, Option, UsageError

_ROW_BYTES_PER_CHARACTER = 32


@dataclass(frozen=True)
class ReadingLimits:
    """How much is read from a dataset.

    Attributes:
        text: characters of one text, such as an input or an output; longer ones are cut to their
            beginning.
        characters: characters of all texts that a plan counts; after the row that reaches them,
            reading stops.
        rows: rows that a plan counts; None is any number.

    Raises:
        UsageError: a limit below 1.

    Example:
        >>> ReadingLimits(text=5).cut("long text"), ReadingLimits().row_bytes
        ('long ', 32000000)
    """

    text: int = 1_000_000
    characters: int = 1_000_000_000
    rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("text", "characters", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"the limit {name} must be at least 1, got {value}")

    @classmethod
    def of_text(cls, text: int | None) -> "ReadingLimits":
        """Return the default limits with another one of a text; None keeps it."""
        return cls() if text is None else cls(text=text)

    @property
    def row_bytes(self) -> int:
        """Largest size of a row, all columns together, in bytes of memory; larger ones are refused.

        At least eight texts of the length `text` fit, as UTF-8 has at most 4 bytes a character.
        """
        return _ROW_BYTES_PER_CHARACTER * self.text

    def key(self) -> dict[str, int]:
        """Return what a profile of a whole dataset depends on; nothing for the default.

        Example:
            >>> ReadingLimits().key(), ReadingLimits(text=5).key()
            ({}, {'max_text': 5})
        """
        return {} if self.text == type(self).text else {"max_text": self.text}

    def cut(self, text: str) -> str:
        """Return the beginning of a text."""
        return text[: self.text]


DEFAULT_LIMITS = ReadingLimits()


def row_too_large(name: str, size: int | None, limits: ReadingLimits) -> DatasetError:
    """Return the error for a row of `size` bytes; None if it was not read to its end."""
    most = limits.row_bytes / 1e6
    found = f"more than {most:,.0f} MB" if size is None else f"{size / 1e6:,.0f} MB"
    text = 2 * limits.text if size is None else -(-size // 16)
    longer = Option("max_text", text)
    error = DatasetTooLargeError(
        f"{name} has a row of {found}, and rows of up to {most:,.0f} MB are read",
        hint=["split the row", longer],
    )
    error.option = longer
    return error
