"""Everything that is said of one run: what the card and the picture beside an adapter show."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hf_lorameta.data.columns import Columns
from hf_lorameta.errors import BankError

EMBEDDED_BANK = "embedded bank"
"""``Facts.bank_id`` of the bank that comes with the package."""


PackDtype = Literal["bf16", "int8", "f32"]
"""How small factors are stored."""


class Packing(BaseModel):
    """How the adapters of a pack are kept.

    Attributes:
        dtype: of the small factors.
        spaces: (R_a, R_b) of every module, in the order of the layout.
        retained: per module, ``1 − Σ‖B A − packed‖² / Σ‖B A‖²`` over all adapters, each times its
            scaling; rounding included.
        retained_whole: the same over all modules.
        retained_least: the same over all modules of the adapter that lost most.
        source: SHA-256 of the index of the bank it was made from.
        source_id: Hub id of that bank, None if it was a folder that came from nowhere else.
        source_revision: its commit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dtype: PackDtype
    spaces: tuple[tuple[int, int], ...]
    retained: tuple[float, ...]
    retained_whole: float
    retained_least: float
    source: str
    source_id: str | None = None
    source_revision: str | None = None


def packing_problem(
    packing: Packing | None, version: int, layout: tuple[tuple[str, int, int], ...]
) -> str | None:
    """What is wrong with the packing an index states, None if it fits.

    Args:
        packing: as stated.
        version: schema version of the index; 2 is a pack.
        layout: (name, in_features, out_features) of every module.
    """
    if (packing is not None) != (version == 2):
        return "expected `packing` in schema version 2 and in no other"
    if packing is None:
        return None
    if not len(packing.spaces) == len(packing.retained) == len(layout):
        return f"expected a space and a share for each of {len(layout)} modules"
    for (a, b), (_, inside, out) in zip(packing.spaces, layout, strict=True):
        if not (1 <= a <= inside and 1 <= b <= out):
            return f"a space of {a} and {b} dimensions, expected at most {inside} and {out}"
    return None


SCHEMA_VERSIONS = (1, 2)
"""1: a bank; 2: a pack, which readers of 1 must refuse."""
INDEX_FILE = "bank.json"
PROFILES_FILE = "profiles.safetensors"
TOKENIZER_FILE = "tokenizer.json"

NEURAL_FILE = "neural.safetensors"
DISTANCES_FILE = "distances.safetensors"
BASIS_FILE = "basis.safetensors"
ORIGIN_FILE = "origin.json"
WORK_FOLDER = ".build"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class IndexEntry(_Stored):
    """One adapter in a bank.

    Attributes:
        name: file name without ending, see `BankEntry.name`.
        adapter: Hub id of the adapter.
        adapter_revision: commit it was read at.
        dataset: Hub id of its dataset.
        dataset_revision: commit it was read at.
        config: configuration that was read.
        split: split that was read.
        columns: columns that were read.
        license: of the adapter, None if its repo does not say.
        rank: r of the adapter.
        scaling: what B·A is multiplied with.
        rows: rows counted in the profile.
        private: the adapter or its dataset could not be seen by strangers at build time.
        size: of the weights file here, in bytes.
        sha256: of the weights file here.
    """

    name: str
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
    size: int
    sha256: str


class Skipped(_Stored):
    """An entry of the manifest that could not be used, and why."""

    adapter: str
    dataset: str
    reason: str


class Gain(_Stored):
    """What one dataset of the bank gained from the adapters of the others, its own left out.

    Attributes:
        distance: to the nearest of the others, in the default recipe's metric.
        base: loss of the base model on some of its rows, in nats a token.
        generated: loss under the combination of the others.
    """

    distance: float = Field(ge=0)
    base: float = Field(gt=0)
    generated: float = Field(ge=0)


class Index(_Stored):
    """What ``bank.json`` holds.

    Attributes:
        schema_version: of this format.
        base_model: Hub id.
        base_revision: commit of the base model at build time, None if it could not be asked.
        base_license: what the base model's card says.
        vocab_size: V, number of token ids.
        published: whether the entries can be found on the public Hub.
        layout: (name, in_features, out_features) of every adapted module.
        entries: usable adapters, in the manifest's order.
        skipped: the others.
        files: SHA-256 of the other files, by name.
        neighbourhood: per metric, the median distance from a bank dataset to its nearest other.
        packing: of a pack, how; None for a bank of whole adapters.
        gains: of every entry, in their order, once ``bank fit --transfer`` measured them.
    """

    schema_version: Literal[1, 2] = 1
    base_model: str
    base_revision: str | None
    base_license: str | None
    vocab_size: int = Field(ge=1, le=1 << 22)
    published: bool
    layout: tuple[tuple[str, int, int], ...]
    entries: tuple[IndexEntry, ...]
    skipped: tuple[Skipped, ...]
    files: dict[str, str]
    neighbourhood: dict[str, float] = {}
    packing: Packing | None = None
    gains: tuple[Gain, ...] = ()

    def to_bytes(self) -> bytes:
        """The canonical file content."""
        unset = {name for name in ("packing", "gains") if not getattr(self, name)}
        content = self.model_dump(exclude=unset)
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def adapter_path(name: str) -> str:
    """Where an entry's weights lie in a bank.

    Example:
        >>> adapter_path("org--a")
        'adapters/org--a.safetensors'
    """
    return f"adapters/{name}.safetensors"


def parse_index(raw: bytes, folder: Path) -> Index:
    try:
        version = json.loads(raw).get("schema_version")
    except (ValueError, AttributeError, RecursionError):
        raise BankError(f"{folder / INDEX_FILE} is not a JSON object") from None
    if version not in SCHEMA_VERSIONS:
        raise BankError(
            f"{folder} has schema version {version!r}, this release reads "
            f"{' and '.join(map(str, SCHEMA_VERSIONS))}",
            hint="pip install -U hf-lorameta, or build the bank again",
        )
    try:
        index = Index.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BankError(f"{folder / INDEX_FILE}: {where}: {first['msg']}") from None
    packed = {BASIS_FILE} if index.packing else set()
    strange = (
        set(index.files) - {PROFILES_FILE, TOKENIZER_FILE, NEURAL_FILE, DISTANCES_FILE} - packed
    )
    if strange:
        raise BankError(f"{folder / INDEX_FILE} lists {min(strange)[:80]!r}, which no bank has")
    for entry in index.entries:
        plain = Path(entry.name).name == entry.name and not entry.name.startswith(".")
        if not plain or len(entry.name.encode("utf-8", "replace")) > 220 or "\0" in entry.name:
            raise BankError(f"{folder / INDEX_FILE}: {entry.name[:80]!r} is not a file name")
    problem = packing_problem(index.packing, index.schema_version, index.layout)
    if problem:
        raise BankError(f"{folder / INDEX_FILE}: {problem}")
    return index
