"""The entries of a bank: each states an adapter and the dataset that it was trained on."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

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


def _file_name(name: str) -> str:
    plain = Path(name).name == name and not name.startswith(".") and "\0" not in name
    if not plain or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise ValueError(f"{name[:80]!r} is not a file name")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
"""A file name without a folder, so that an index cannot name a file outside its bank."""


class StrictModel(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    left_out_if_unset: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        unset = [name for name in self.left_out_if_unset if content.get(name) in (None, {})]
        return {name: value for name, value in content.items() if name not in unset}


class IndexEntry(StrictModel):
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
        largest: of the norms of its modules, as a ratio, see there.
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
    largest: float | None = None
    size: int = Field(ge=0)
    sha256: str
    left_out_if_unset = ("source", "source_revision", "title", "norm", "largest")


# --- the entries of a large bank ------------------------------------------------------------------


class EntryTable(Sequence[IndexEntry]):
    """Entries of a large bank as lines of JSON, each parsed on access.

    Parsing all of 100,000 takes seconds, and a plan needs few of them. Lines are in the form that
    `to_lines` writes, so that private ones are found without parsing.

    Args:
        lines: their lines.
        name: of the file, for messages.

    Raises:
        BankError: an entry that is asked for is not valid.

    Example:
        >>> from hf_lorameta import open_bank
        >>> few = open_bank().index.entries[:3]
        >>> table = EntryTable(to_lines(few))
        >>> len(table), table[-1] == few[2], table.names() == [entry.name for entry in few]
        (3, True, True)
    """

    def __init__(self, lines: bytes, name: str = "entries") -> None:
        self.lines = lines
        self._name = name
        self._lines = lines.splitlines()

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return self._parse(range(len(self))[index])

    def names(self) -> list[str]:
        """Return the names of all entries, in order."""
        return [self._stored_name(i) for i in range(len(self))]

    @property
    def private(self) -> int:
        """The number of private entries."""
        return len(_PRIVATE.findall(self.lines))

    def _stored_name(self, position: int) -> str:
        try:
            return str(from_json(self._lines[position])["name"])
        except (ValueError, KeyError, TypeError):
            raise self._invalid(position, "expected an entry") from None

    def _parse(self, position: int) -> IndexEntry:
        try:
            return IndexEntry.model_validate_json(self._lines[position])
        except ValidationError as error:
            raise self._invalid(position, first_problem(error)) from None

    def _invalid(self, position: int, problem: str) -> BankError:
        return BankError(f"{self._name}, line {position + 1}: {problem}", code="bank.invalid-index")


def to_lines(entries: Iterable[IndexEntry]) -> bytes:
    """Return entries as lines of JSON."""
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)


def first_problem(error: ValidationError) -> str:
    """Return the field of the first error, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), problem_of(first["msg"])]).lstrip(": ")
