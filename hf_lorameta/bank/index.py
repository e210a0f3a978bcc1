"""The index of a bank, ``bank.json``: its entries with commits and checksums, and its settings."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import BankError

EMBEDDED_BANK = "embedded bank"
"""`Bank.id` of the bank that comes with the package."""
NO_BANK = "none"
"""`Bank.id` where no bank is used, and the name that asks for that."""
SCHEMA_VERSIONS = (1, 2)
"""1 is a bank, 2 a pack, which readers of version 1 must refuse."""

INDEX_FILE = "bank.json"
PROFILES_FILE = "profiles.safetensors"
TOKENIZER_FILE = "tokenizer.json"
DISTANCES_FILE = "distances.safetensors"
NEURAL_FILE = "neural.safetensors"
OUTPUT_PRIOR_FILE = "output_prior.safetensors"
BASIS_FILE = "basis.safetensors"
GENERAL = "general"
"""Name of the general adapter in files and logs."""
ORIGIN_FILE = "origin.json"
WORK_FOLDER = ".build"
SMALL_FILES = (PROFILES_FILE, TOKENIZER_FILE, NEURAL_FILE, DISTANCES_FILE, OUTPUT_PRIOR_FILE)
"""The files of any bank that ``Index.files`` may list."""

LARGE = 1_000
"""Banks of more entries are built with sketches and shards of profiles instead of distances.

Chosen on what all distances cost: the 10⁶ of 1,000 entries take 90 s of CPU, and so would adding an
entry; twice the entries take four times as long.
"""

_MAX_NAME_BYTES = 220
_OPTIONAL = ("packing", "gains", "general", "output_prior", "merged", "median_distances")
_SHARD = re.compile(r"profiles-(\d{6,})-(\d{6,})\.safetensors")
_SKETCHES = re.compile(r"sketches-(\d{6,})\.safetensors")

PackDtype = Literal["bf16", "int8", "f32"]
"""Storage type of a pack's small factors."""


class _Stored(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )
    left_out_if_none: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {k: v for k, v in content.items() if v is not None or k not in self.left_out_if_none}


class Packing(_Stored):
    """Format of a pack, what it retains of the updates, and its source.

    The share retained is ``1 − Σ‖s(B A − packed)‖² / Σ‖s B A‖²`` over all adapters with scaling s,
    rounding included.
    """

    dtype: PackDtype  # of the small factors
    spaces: tuple[tuple[int, int], ...]  # (R_a, R_b) of every module, in the order of the layout
    retained: tuple[float, ...]  # by module
    retained_whole: float  # over all modules
    retained_least: float  # over all modules of the adapter that lost most
    source: str  # SHA-256 of the index of the source bank
    source_id: str | None = None  # Hub id of the source bank; None if it was built locally
    source_revision: str | None = None


class IndexEntry(_Stored):
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
        size: bytes of the weights file, whose digest is `sha256`.
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
    source: str | None = None
    source_revision: str | None = None
    title: str | None = None
    size: int
    sha256: str
    left_out_if_none = ("source", "source_revision", "title")


class GeneralTask(_Stored):
    """A task that a general adapter was trained on.

    Attributes:
        name: of the bank's entry, if it has one.
        source: where the rows come from; None is the task itself.
        source_revision: commit of the source.
        license: stated license.
    """

    name: str
    source: str | None
    source_revision: str | None
    license: str | None


class GeneralEntry(_Stored):
    """The general adapter of a bank, trained on many of its datasets together.

    Attributes:
        name: file name without suffix.
        rank: r.
        scaling: factor of B·A.
        tasks: what it was trained on.
        rows: number of rows that it was trained on.
        size: bytes of the weights file, whose digest is `sha256`.
    """

    name: str
    rank: int
    scaling: float
    tasks: tuple[GeneralTask, ...]
    rows: int
    size: int
    sha256: str


class OutputPriorEntry(_Stored):
    """What ``output_prior.safetensors`` is for; see `hf_lorameta.method.output_prior`.

    Attributes:
        module: (name, in_features, out_features) of the last down-projection.
        end: id of the end token.
    """

    module: tuple[str, int, int]
    end: int


class MergedBank(_Stored):
    """A bank whose adapters were merged into this one.

    Attributes:
        id: Hub id; None if it was built locally.
        revision: commit of a Hub repo.
        sha256: of its index.
        retained: share of the updates' energy that it retained, if it was a pack.
    """

    id: str | None
    revision: str | None
    sha256: str
    retained: float | None


class Skipped(_Stored):
    """An entry of the manifest that could not be used, with the reason."""

    adapter: str
    dataset: str
    reason: str


class Gain(_Stored):
    """Losses on rows of one dataset, in nats per token, with its own adapter left out of the bank.

    Attributes:
        distance: to the nearest other dataset, in the default recipe's metric.
        base: loss of the base model.
        generated: with the combination of the other adapters.
        length: mean number of output tokens.
        prompted: loss of the base model with a 3-shot prompt; None if not measured.
        novelty: of the outputs, see `hf_lorameta.data.counts.output_counts.OutputCounts`.
    """

    distance: float = Field(ge=0)
    base: float = Field(gt=0)
    generated: float = Field(ge=0)
    length: float = Field(gt=0)
    prompted: float | None = Field(default=None, ge=0)
    novelty: float | None = Field(default=None, ge=0, le=1)
    left_out_if_none = ("novelty",)


class Index(_Stored):
    """Content of ``bank.json``."""

    schema_version: Literal[1, 2] = 1
    base_model: str
    base_revision: str | None  # commit at build time; None if the repo was not visible
    base_license: str | None
    vocab_size: int = Field(ge=1, le=1 << 22)
    published: bool  # whether the entries are on the public Hub
    layout: tuple[tuple[str, int, int], ...]  # (name, in_features, out_features) of every module
    entries: tuple[IndexEntry, ...]  # in the manifest's order
    skipped: tuple[Skipped, ...]
    files: dict[str, str]  # SHA-256 of the files other than weights, by name
    # by metric, the median distance from a bank dataset to its nearest other
    typical_distances: dict[str, float] = {}
    # of a large bank, the median distance between two of its datasets, by `metrics.stored_name`
    median_distances: dict[str, float] = {}
    packing: Packing | None = None  # None for a bank
    gains: tuple[Gain, ...] = ()  # measured by ``bank fit --transfer``, one per entry, or otherwise
    general: GeneralEntry | None = None
    output_prior: OutputPriorEntry | None = None
    merged: tuple[MergedBank, ...] = ()  # the banks that ``bank merge`` made this one of

    @property
    def is_large(self) -> bool:
        """Whether plans compare candidates, which sketches choose, instead of all entries."""
        return sketches_file(len(self.entries)) in self.files

    @property
    def adapters(self) -> tuple[IndexEntry | GeneralEntry, ...]:
        """Return the entries, and after them the general adapter if there is one."""
        return (*self.entries, *([self.general] if self.general else []))

    @property
    def private_parts(self) -> int:
        """Number of private entries, and of such tasks of the general adapter alone.

        A task without an entry, such as one that was removed since, counts if it states no license.
        """
        named = {entry.name for entry in self.entries}
        tasks = self.general.tasks if self.general else ()
        alone = sum(task.name not in named and not task.license for task in tasks)
        return alone + sum(entry.private for entry in self.entries)

    def to_bytes(self) -> bytes:
        """Return the canonical content of ``bank.json``."""
        unset = {name for name in _OPTIONAL if not getattr(self, name)}
        return (self.model_dump_json(exclude=unset, by_alias=True, indent=1) + "\n").encode()


def adapter_path(name: str) -> str:
    """Return the path of an entry's weights in a bank."""
    return f"adapters/{name}.safetensors"


# --- files of large banks: none is ever changed, since its name states its entries ---------------


def shard_file(start: int, stop: int) -> str:
    """Return the name of the file with the profiles of entries `start` to `stop`, exclusive."""
    return f"profiles-{start:06}-{stop:06}.safetensors"


def sketches_file(number: int) -> str:
    """Return the name of the file with the sketches of all entries."""
    return f"sketches-{number:06}.safetensors"


def shards(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the entries of every shard among the names of files, in ascending order.

    Example:
        >>> shards(["tokenizer.json", shard_file(1000, 1001), shard_file(0, 1000)])
        [(0, 1000), (1000, 1001)]
    """
    matches = map(_SHARD.fullmatch, names)
    return sorted((int(match[1]), int(match[2])) for match in matches if match)


def is_of_large_bank(name: str) -> bool:
    """Whether a file name is that of profiles or sketches of a large bank."""
    return bool(_SHARD.fullmatch(name) or _SKETCHES.fullmatch(name))


def parse_index(raw: bytes, folder: Path) -> Index:
    """Parse the content of the ``bank.json`` of a folder; raise `BankError` if it is not valid."""
    path = folder / INDEX_FILE
    try:
        index = Index.model_validate_json(raw)
    except ValidationError as error:
        _check_version(raw, folder)
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BankError(f"{path}: {field}: {first['msg']}") from None
    for problem in _problems(index):
        raise BankError(f"{path}: {problem}")
    return index


def _check_version(raw: bytes, folder: Path) -> None:
    """Raise BankError if an index that is not valid is no JSON object or of another version."""
    try:
        version = json.loads(raw).get("schema_version")
    except (ValueError, AttributeError, RecursionError):
        raise BankError(f"{folder / INDEX_FILE} is not a JSON object") from None
    if version not in SCHEMA_VERSIONS:
        raise BankError(
            f"{folder} has schema version {version!r}, expected "
            f"{' or '.join(map(str, SCHEMA_VERSIONS))}",
            hint="upgrade hf-lorameta, or build the bank again",
        )


def _problems(index: Index) -> Iterator[str]:
    """Yield what is wrong with an index beyond the types of its fields."""
    expected = {*SMALL_FILES, *([BASIS_FILE] if index.packing else [])}
    listed = shards(index.files)
    if listed:
        number = len(index.entries)
        ends = [0, *(stop for _, stop in listed)]
        if [start for start, _ in listed] != ends[:-1] or ends[-1] != number or 0 in ends[1:]:
            yield f"the files of profiles do not hold {number} in order"
        if sketches_file(number) not in index.files:
            yield f"{sketches_file(number)} is not listed"
        expected |= {sketches_file(number), *(shard_file(*pair) for pair in listed)}
        expected -= {PROFILES_FILE, DISTANCES_FILE}
    unexpected = set(index.files) - expected
    if unexpected:
        yield f"unexpected file {min(unexpected)[:80]!r}"
    for name in (*([] if listed else [PROFILES_FILE]), TOKENIZER_FILE):
        if name not in index.files:
            yield f"{name} is not listed"
    for name in (entry.name for entry in index.adapters):
        plain = Path(name).name == name and not name.startswith(".") and "\0" not in name
        if not plain or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
            yield f"{name[:80]!r} is not a file name"
    if (index.output_prior is None) != (OUTPUT_PRIOR_FILE not in index.files):
        yield f"`output_prior` and {OUTPUT_PRIOR_FILE} belong together"
    packing, layout = index.packing, index.layout
    if (packing is not None) != (index.schema_version == 2):
        yield "`packing` belongs to schema version 2 and to no other"
    if packing is None:
        return
    if not len(packing.spaces) == len(packing.retained) == len(layout):
        yield f"expected a space and a retained share for each of {len(layout)} modules"
    for (a, b), (_, inputs, outputs) in zip(packing.spaces, layout, strict=True):
        if not (1 <= a <= inputs and 1 <= b <= outputs):
            yield f"a space of {a} and {b} dimensions, expected at most {inputs} and {outputs}"
