"""The index of a bank, ``bank.json``: its entries with commits and checksums, and its settings."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_serializer

from hf_lorameta.bank.entries import (
    EntryTable,
    FileName,
    IndexEntry,
    StrictModel,
    first_problem,
    to_lines,
)
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_layout import Layout, Module

EMBEDDED_BANK = "embedded bank"
"""`Bank.id` of the bank that comes with the package."""
NO_BANK = "none"
"""`Bank.id` where no bank is used, and the name that asks for that."""

INDEX_FILE = "bank.json"
PROFILES_FILE = "profiles.safetensors"
TOKENIZER_FILE = "tokenizer.json"
DISTANCES_FILE = "distances.safetensors"
NEURAL_FILE = "neural.safetensors"
OUTPUT_PRIOR_FILE = "output_prior.safetensors"
BASIS_FILE = "basis.safetensors"
GENERAL = "general"
"""Name of the general adapter in files and logs."""
WORK_FOLDER = ".build"
SMALL_FILES = (PROFILES_FILE, TOKENIZER_FILE, NEURAL_FILE, DISTANCES_FILE, OUTPUT_PRIOR_FILE)
"""The files of any bank that ``Index.files`` may list."""

FAR_RATIO = 1.5
"""A nearest distance above this many times the bank's typical one is called far."""
LARGE = 1_000
"""Banks of more entries are built with sketches and shards of profiles instead of distances.

All 10⁶ distances among 1,000 entries take 90 s of CPU, again whenever an entry is added; twice the
entries take four times as long.
"""

_SHARD = re.compile(r"profiles-(\d{6,})-(\d{6,})\.records")
_ENTRIES = re.compile(r"entries-[0-9a-f]{16}\.jsonl")
_SKETCHES = re.compile(r"sketches-(\d{6,})\.safetensors")


class Packing(StrictModel):
    """Format of a pack, what it retains of the updates, and its source.

    The share retained is ``1 − Σ‖s(B A − packed)‖² / Σ‖s B A‖²`` over all adapters with scaling s,
    rounding included.
    """

    dtype: Literal["int8"] = "int8"  # of the small factors
    spaces: tuple[tuple[int, int], ...]  # (R_a, R_b) of every module, in the order of the layout
    retained: tuple[float, ...]  # by module
    retained_whole: float  # over all modules
    retained_least: float  # over all modules of the adapter that lost most
    source: str  # SHA-256 of the index of the source bank
    source_id: str | None = None  # Hub id of the source bank; None if it was built locally
    source_revision: str | None = None


class GeneralTask(StrictModel):
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


class GeneralEntry(StrictModel):
    """The general adapter of a bank, trained on many of its datasets together.

    Attributes:
        name: file name without suffix.
        rank: r.
        scaling: factor of B·A.
        tasks: what it was trained on.
        rows: number of rows that it was trained on.
        size: bytes of the weights file, whose digest is `sha256`.
        output_length: geometric mean over the tasks of the mean length of their outputs, in tokens;
            None if the bank's entries state it.
        end: id of the end token; None in older banks of some base models.
        template: chat format of half of its prompts, with ``{prompt}``; None without one.
    """

    name: FileName
    rank: int
    scaling: float
    tasks: tuple[GeneralTask, ...]
    rows: int
    size: int
    sha256: str
    output_length: float | None = None
    end: int | None = None
    template: str | None = None
    left_out_if_unset = ("output_length", "end", "template")


class OutputPriorEntry(StrictModel):
    """The module and end token of the output prior; see `hf_lorameta.method.output_prior`.

    Attributes:
        module: the last down-projection.
        end: id of the end token.
    """

    module: Module
    end: int


class Skipped(StrictModel):
    """An entry of the manifest that could not be used, with the reason."""

    adapter: str
    dataset: str
    reason: str


class Index(StrictModel):
    """Content of ``bank.json``."""

    schema_version: Literal[1, 2] = 1  # 1 is a bank, 2 a pack
    base_model: str
    base_revision: str | None  # commit at build time; None if the repo was not visible
    base_license: str | None
    vocab_size: int = Field(ge=1, le=1 << 22)
    published: bool  # whether the entries are on the public Hub
    layout: Layout  # every adapted module of the base model, in canonical order
    # in the manifest's order; those of a large bank are in a file of their own
    entries: Annotated[Sequence[IndexEntry], AfterValidator(tuple)]
    skipped: tuple[Skipped, ...]
    files: dict[str, str]  # SHA-256 of the files other than weights, by name
    # by metric, the median distance from a bank dataset to its nearest other
    typical_distances: dict[str, float] = Field(default={})
    # of a large bank, the median distance between two of its datasets, by `metrics.stored_name`
    median_distances: dict[str, float] = Field(default={})
    packing: Packing | None = None  # None for a bank
    general: GeneralEntry | None = None
    output_prior: OutputPriorEntry | None = None
    left_out_if_unset = ("packing", "general", "output_prior", "median_distances")

    @classmethod
    def empty(
        cls,
        base_model: str,
        revision: str | None,
        license: str | None,
        vocab_size: int,
        **facts: Any,
    ) -> "Index":
        """Return the index of a bank that holds no entries yet; `facts` are other fields."""
        fields: dict[str, Any] = {"published": False, "files": {}} | facts
        return cls(
            base_model=base_model, base_revision=revision, base_license=license,
            vocab_size=vocab_size, layout=(), entries=(), skipped=(), **fields,
        )  # fmt: skip

    @field_serializer("entries")
    def _all_entries(self, entries: Sequence[IndexEntry]) -> tuple[IndexEntry, ...]:
        return tuple(entries)

    @property
    def is_large(self) -> bool:
        """Whether plans compare candidates, which sketches choose, instead of all entries."""
        return bool(shards(self.files))

    @property
    def entries_file(self) -> str:
        """Name of the file with the entries of a large bank."""
        return next(filter(_ENTRIES.fullmatch, self.files))

    def with_entries(self, lines: bytes) -> "Index":
        """Return the index of a large bank with the entries of its file, none of which is parsed.

        Raises:
            IntegrityError: the number of entries is not that of the profiles.
        """
        entries, number = EntryTable(lines, self.entries_file), shards(self.files)[-1][1]
        if len(entries) != number:
            raise IntegrityError(
                f"{len(entries)} lines in {self.entries_file}, expected {number}",
                code="bank.entries-mismatch",
            )
        return self.model_copy(update={"entries": entries})

    @property
    def adapters(self) -> tuple[IndexEntry | GeneralEntry, ...]:
        """The entries, and after them the general adapter if there is one."""
        return (*self.entries, self.general) if self.general else tuple(self.entries)

    @property
    def number(self) -> int:
        """Number of adapters, the general one included."""
        return len(self.entries) + (self.general is not None)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of all files of the bank but the index, by name."""
        return self.files | {adapter_path(entry.name): entry.sha256 for entry in self.adapters}

    @property
    def private_parts(self) -> int:
        """Number of private entries, and of tasks of the general adapter that may be private.

        A task counts if it states no license and has no entry, for example because it was removed.
        """
        tasks = [t for t in (self.general.tasks if self.general else ()) if not t.license]
        named = set(self.names()) if tasks else set()
        alone = sum(task.name not in named for task in tasks)
        if isinstance(self.entries, EntryTable):
            return alone + self.entries.private
        return alone + sum(entry.private for entry in self.entries)

    @property
    def licenses(self) -> list[str | None]:
        """The license of each entry and each task of the general adapter, None where unknown."""
        stated = [entry.license for entry in self.entries]
        return stated + [task.license for task in (self.general.tasks if self.general else ())]

    def names(self) -> list[str]:
        """Return the names of the entries."""
        if isinstance(self.entries, EntryTable):
            return self.entries.names()
        return [entry.name for entry in self.entries]

    def to_bytes(self) -> bytes:
        """Return the canonical content of ``bank.json``."""
        listed = self.model_copy(update={"entries": ()}) if self.is_large else self
        return (listed.model_dump_json(indent=1) + "\n").encode()


def adapter_path(name: str) -> str:
    """Return the path of an entry's weights in a bank."""
    return f"adapters/{name}.safetensors"


# --- files of large banks: none is ever changed, since its name states what it holds --------------


def shard_file(start: int, stop: int) -> str:
    """Return the name of the file with the profiles of entries `start` to `stop`, exclusive."""
    return f"profiles-{start:06}-{stop:06}.records"


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
    """Whether a file name is that of entries, profiles or sketches of a large bank."""
    return any(pattern.fullmatch(name) for pattern in (_ENTRIES, _SHARD, _SKETCHES))


# --- reading and writing --------------------------------------------------------------------------


def write_index(folder: Path, index: Index) -> Index:
    """Write ``bank.json``, and before it the entries of a large bank to a file of their own.

    Returns:
        The index as written, which names that file.
    """
    if index.is_large:
        entries = index.entries
        if not isinstance(entries, EntryTable):
            entries = EntryTable(to_lines(entries))
        digest = hashlib.sha256(entries.lines).hexdigest()
        name = f"entries-{digest[:16]}.jsonl"
        if name not in index.files:
            write_atomically(folder / name, entries.lines)
        files = {n: d for n, d in index.files.items() if not _ENTRIES.fullmatch(n)}
        index = index.model_copy(update={"entries": entries, "files": files | {name: digest}})
    write_atomically(folder / INDEX_FILE, index.to_bytes())
    return index


def parse_index(raw: bytes, folder: Path) -> Index:
    """Parse the content of the ``bank.json`` of a folder; raise `BankError` if it is not valid."""
    path = folder / INDEX_FILE
    try:
        index = Index.model_validate_json(raw)
    except ValidationError as error:
        raise BankError(
            f"{path}: {first_problem(error)}",
            code="bank.invalid-index",
            hint="upgrade hf-lorameta, or build or pack the bank again",
        ) from None
    for problem in _problems(index):
        raise BankError(f"{path}: {problem}", code="bank.invalid-index")
    return index


def _problems(index: Index) -> Iterator[str]:
    """Yield what is wrong with an index beyond the types of its fields."""
    expected = {*SMALL_FILES, *([BASIS_FILE] if index.packing else [])}
    listed = shards(index.files)
    if listed:
        tables = list(filter(_ENTRIES.fullmatch, index.files))
        if len(tables) != 1 or index.entries:
            yield "the entries are not in one file of their own"
        sketches = sketches_file(listed[-1][1])
        expected |= {sketches, *tables, *(shard_file(*pair) for pair in listed)}
        expected -= {PROFILES_FILE, DISTANCES_FILE}
    unexpected = set(index.files) - expected
    if unexpected:
        yield f"unexpected file {min(unexpected)[:80]!r}"
    if index.packing and len(index.packing.spaces) != len(index.layout):
        yield f"expected a space for each of {len(index.layout)} modules"
