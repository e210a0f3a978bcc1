"""The entries of an index, one for each adapter.

Those of a large bank are in a file of their own, a line of JSON each, read when asked for: parsing
all of 100,000 takes seconds, and a plan needs few. Lines are in the form that `to_lines` writes, so
that some fields are found without parsing the others.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import from_json

from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import BankError, problem_of

_MAX_NAME_BYTES = 220
_PRIVATE = re.compile(rb'"private":true')  # in a string, quotes are escaped
_NEWLINE = 10


def _file_name(name: str) -> str:
    plain = Path(name).name == name and not name.startswith(".") and "\0" not in name
    if not plain or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise ValueError(f"{name[:80]!r} is not a file name")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""The name of a file without its folder, so that an index names no file outside its bank."""


class Stored(BaseModel):
    """A part of an index: it cannot be changed, and holds no unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )
    left_out_if_unset: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        unset = [name for name in self.left_out_if_unset if content.get(name) in (None, {})]
        return {name: value for name, value in content.items() if name not in unset}


class IndexEntry(Stored):
    """One adapter of a bank and its dataset, both at the commit they were read at.

    Attributes:
        name: file name without suffix, see `BankEntry.name`.
        license: license of the adapter; None if its repo states none.
        scaling: factor of B·A.
        rows: number of rows in the profile.
        private: the adapter or its dataset was private at build time.
        source: where the dataset's rows come from, a URL or a name, if it differs from `dataset`.
        source_revision: commit of the source.
        title: readable name of the dataset, if its id is not one.
        norm: of the adapter's update, see `hf_lorameta.bank.outliers`; None if it was not computed.
        size: bytes of the weights file, whose digest is `sha256`.
    """

    name: FileName
    adapter: str
    adapter_revision: str
    dataset: str
    dataset_revision: str
    config: str | None
    split: str
    columns: Columns
    license: str | None
    rank: int
    scaling: float
    rows: int
    private: bool = False
    source: str | None = None
    source_revision: str | None = None
    title: str | None = None
    norm: float | None = None
    size: int = Field(ge=0)
    sha256: str
    left_out_if_unset = ("source", "source_revision", "title", "norm")


# --- the entries of a large bank ------------------------------------------------------------------


class EntryTable(Sequence[IndexEntry]):
    """Entries, parsed one at a time.

    Args:
        lines: their lines.
        name: of the file, for messages.

    Raises:
        BankError: an entry that is asked for is not valid.

    Example:
        >>> from hf_lorameta import Bank
        >>> few = Bank.from_pretrained().index.entries[:3]
        >>> table = EntryTable(to_lines(few))
        >>> len(table), table[-1] == few[2], table.names() == [entry.name for entry in few]
        (3, True, True)
    """

    def __init__(self, lines: bytes, name: str = "entries") -> None:
        self.lines = lines
        self._name = name
        ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == _NEWLINE)
        self._bounds = np.concatenate(([-1], ends)) + 1
        self._positions: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]
        entry = self._parse(position)
        self._positions[entry.name] = position
        return entry

    def __iter__(self) -> Iterator[IndexEntry]:
        return map(self._parse, range(len(self)))

    def names(self) -> list[str]:
        """Return the names of all entries, in order."""
        return [self._stored_name(i) for i in range(len(self))]

    def position(self, name: str) -> int:
        """Return where the entry of a name is; fast if it was read before by its position."""
        if name not in self._positions:
            self._positions = {name: i for i, name in enumerate(self.names())}
        return self._positions[name]

    @property
    def private(self) -> int:
        """The number of private entries."""
        return len(_PRIVATE.findall(self.lines))

    def _line(self, position: int) -> bytes:
        start, stop = self._bounds[position : position + 2]
        return self.lines[start:stop]

    def _stored_name(self, position: int) -> str:
        try:
            return str(from_json(self._line(position))["name"])
        except (ValueError, KeyError, TypeError):
            raise self._invalid(position, "expected an entry") from None

    def _parse(self, position: int) -> IndexEntry:
        try:
            return IndexEntry.model_validate_json(self._line(position))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise self._invalid(position, f"{field}: {problem_of(first['msg'])}") from None

    def _invalid(self, position: int, problem: str) -> BankError:
        return BankError(f"{self._name}, line {position + 1}: {problem}")


def to_lines(entries: Iterable[IndexEntry]) -> bytes:
    """Return the lines of entries."""
    return b"".join(entry.model_dump_json(by_alias=True).encode() + b"\n" for entry in entries)


def extended(entries: Sequence[IndexEntry], new: Iterable[IndexEntry]) -> Sequence[IndexEntry]:
    """Return entries and new ones after them; those of a table are not parsed."""
    if isinstance(entries, EntryTable):
        return EntryTable(entries.lines + to_lines(new))
    return (*entries, *new)
