"""What an index states of an adapter: the base of its models, and an entry."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from hf_lorameta.data.columns.columns import Columns

_MAX_NAME_BYTES = 220


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
    left_out_if_none: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {k: v for k, v in content.items() if v is not None or k not in self.left_out_if_none}


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
    left_out_if_none = ("source", "source_revision", "title", "norm")
