"""Token histograms of datasets.

A `Profile` has sparse histograms of the token ids in the inputs, of those in the outputs, and of
the lengths of the outputs. The distribution in the paper (arXiv 2507.01806, section 3) is the
normalized sum of the first two. Profiles are counted in constant memory and contain no text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.counts.row_counts import RowCounts
from hf_lorameta.errors import (
    BankError,
    EmptyDatasetError,
    IntegrityError,
    Option,
    UnlabeledDatasetError,
)
from hf_lorameta.tables import plural
from hf_lorameta.types import Array, Encode, Row

Half = Literal["input", "output", "lengths"]
"""Name of a histogram: tokens of the inputs, tokens of the outputs, lengths of the outputs."""
Part = Literal["input", "output", "both", "lengths"]
"""A key of `PARTS`."""

PROFILE_FORMAT = 2
"""Version of the histograms; stored profiles of another version are recounted. 2 added lengths."""
LENGTHS = 64
"""Number of length classes, each a factor of √2 wide; see `length_class`."""

PARTS: Mapping[Part, tuple[Half, ...]] = {
    "input": ("input",),
    "output": ("output",),
    "both": ("input", "output"),
    "lengths": ("lengths",),
}
"""The histograms whose sum is a part."""

BATCH_ROWS = 512
BATCH_CHARACTERS = 1 << 18
"""Texts are tokenized in batches that end with the row that reaches one of these numbers."""
_KINDS = ("ids", "counts", "indptr")
_HALVES: tuple[Half, ...] = get_args(Half)
_OTHER_SPLIT = Option("split", change="name another")


@dataclass(frozen=True)
class Histogram:
    """Sparse token counts: (n,) ids in ascending order, and (n,) positive counts."""

    ids: NDArray[np.integer]
    counts: NDArray[np.integer]

    @classmethod
    def from_dense(cls, counts: NDArray[np.int64]) -> "Histogram":
        """Convert a (V,) count vector."""
        ids = np.flatnonzero(counts)
        return cls(ids.astype(np.int32), counts[ids].astype(np.int64))

    @property
    def total(self) -> int:
        """Total number of tokens."""
        return int(self.counts.sum())


_EMPTY = Histogram(np.empty(0, np.int32), np.empty(0, np.int64))


@dataclass(frozen=True)
class Profile:
    """Token ids in all inputs and all outputs of a dataset, and `length_class` of its outputs.

    `left_out` is the number of rows without an output that were not counted. `ended_early` says
    that a limit may have left rows unread; `total` is then the number of all rows, if it is known.
    `sampled` says that the rows are evenly spread over these. `row_counts` are for remarks. None of
    these is stored.
    """

    input: Histogram
    output: Histogram
    rows: int
    lengths: Histogram = _EMPTY
    left_out: int = 0
    ended_early: bool = False
    total: int | None = None
    sampled: bool = False
    row_counts: RowCounts = field(default_factory=RowCounts)

    @property
    def rows_read(self) -> str:
        """How many rows were read, and of how many.

        Example:
            >>> one = Histogram.from_dense(np.array([1]))
            >>> Profile(one, one, 180).rows_read, Profile(one, one, 1).rows_read
            ('180 rows', '1 row')
            >>> Profile(one, one, 20_000, ended_early=True, total=36_000).rows_read
            'first 20,000 of 36,000 rows'
        """
        if not self.ended_early:
            return plural(self.rows, "row")
        first = self.rows + self.left_out
        if self.sampled:
            return f"{first:,} of {plural(self.total or first, 'row')}"
        if self.total is None:
            return f"first {plural(first, 'row')}"
        return f"first {first:,} of {plural(self.total, 'row')}"

    @property
    def output_length(self) -> float:
        """Mean number of tokens of an output."""
        return self.output.total / self.rows

    def counts(self, vocab_size: int, part: Part = "both") -> NDArray[np.int64]:
        """Return the counts of a part as a dense vector (V,), for ``lengths`` (`LENGTHS`,)."""
        dense = np.zeros(LENGTHS if part == "lengths" else vocab_size, np.int64)
        for half in PARTS[part]:
            histogram: Histogram = getattr(self, half)
            dense[histogram.ids] += histogram.counts
        return dense


def profile_rows(
    rows: Iterable[Row],
    encode: Encode,
    vocab_size: int,
    *,
    labeled_only: bool = True,
    also: Callable[[Sequence[Row], Sequence[Sequence[int]]], None] | None = None,
) -> Profile:
    """Count the tokens of a stream of rows.

    Args:
        rows: (input, output) pairs.
        encode: the tokenizer, without special tokens.
        vocab_size: V.
        labeled_only: leave out rows with a blank output.
        also: called with the rows that are counted and the token ids of their inputs, batch by
            batch.

    Raises:
        EmptyDatasetError: there are no rows, or no tokens.
        UnlabeledDatasetError: all outputs are blank.
        BankError: the tokenizer returns an id of V or more.
    """
    inputs, outputs = (np.zeros(vocab_size, np.int64) for _ in range(2))
    lengths = np.zeros(LENGTHS, np.int64)
    total = used = 0

    def counted() -> Iterator[Row]:
        nonlocal total
        for row in rows:
            total += 1
            if row[1].strip() or not labeled_only:
                yield row

    for batch in batches(counted()):
        used += len(batch)
        ids = list(encode([row[0] for row in batch]))
        _count(ids, inputs)
        _count(encode([row[1] for row in batch]), outputs, lengths)
        if also:
            also(batch, ids)
    if not total:
        raise EmptyDatasetError("the dataset has no rows", code="rows.none", hint=_OTHER_SPLIT)
    if not used:
        none = "the only row has no" if total == 1 else f"none of {total:,} rows has an"
        raise UnlabeledDatasetError(
            f"{none} output, but coefficients need inputs and outputs",
            code="outputs.none", hint=[
                _OTHER_SPLIT, Option("columns", "input=COLUMN,output=COLUMN"),
                "name only the column of the inputs",
            ],
        )  # fmt: skip
    if not inputs.any() and not outputs.any():
        raise EmptyDatasetError(
            f"no tokens in {plural(used, 'row')}: expected text", code="rows.no-tokens"
        )
    histograms = [Histogram.from_dense(counts) for counts in (inputs, outputs, lengths)]
    return Profile(histograms[0], histograms[1], used, histograms[2], total - used)


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in batches of at most `BATCH_ROWS` and about `BATCH_CHARACTERS`."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row[0]) + len(row[1])
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def length_class(tokens: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the classes of text lengths of n ≥ 1 tokens, round(2 log₂ n) < `LENGTHS`.

    Example:
        >>> length_class(np.array([1, 2, 3, 4, 64])).tolist()
        [0, 2, 3, 4, 12]
    """
    return np.asarray(np.minimum(np.rint(2 * np.log2(tokens)), LENGTHS - 1), np.int64)


def _count(
    texts: Iterable[Sequence[int]],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64] | None = None,
) -> None:
    """Add the tokens of texts to `counts`, and the classes of their lengths to `lengths`."""
    parts = [np.asarray(ids, np.int64) for ids in texts]
    ids = np.concatenate([np.empty(0, np.int64), *parts])
    wrong = ids[(ids < 0) | (ids >= counts.size)]
    if wrong.size:
        raise BankError(
            f"the tokenizer returned id {wrong[0]}, expected 0 to {counts.size - 1}",
            code="tokenizer.other-ids",
        )
    counts += np.bincount(ids, minlength=counts.size)
    if lengths is not None:
        sizes = np.array([part.size for part in parts if part.size], np.int64)
        lengths += np.bincount(length_class(sizes), minlength=LENGTHS)


@dataclass(frozen=True)
class ProfileTable:
    """N profiles as compressed sparse rows, as stored in a bank.

    Profile i has ``ids[indptr[i]:indptr[i+1]]`` and the same slice of ``counts``. The arrays are
    ``{half}.ids`` (nnz,) int32, ``{half}.counts`` (nnz,) uint32 or int64 and ``{half}.indptr``
    (N+1,) int64 for each `Half`, and ``rows`` (N,) int64.
    """

    arrays: dict[str, NDArray[np.integer]]

    @classmethod
    def from_profiles(cls, profiles: Sequence[Profile]) -> "ProfileTable":
        """Stack profiles."""
        arrays: dict[str, NDArray[np.integer]] = {
            "rows": np.array([profile.rows for profile in profiles], np.int64)
        }
        for half in _HALVES:
            parts: list[Histogram] = [_EMPTY, *(getattr(profile, half) for profile in profiles)]
            arrays[f"{half}.indptr"] = np.cumsum([h.ids.size for h in parts], dtype=np.int64)
            arrays[f"{half}.ids"] = np.concatenate([h.ids for h in parts])
            counts = np.concatenate([h.counts for h in parts])
            small = int(counts.max(initial=0)) < 1 << 32
            arrays[f"{half}.counts"] = counts.astype(np.uint32) if small else counts
        return cls(arrays)

    def __len__(self) -> int:
        return int(self.arrays["rows"].size)

    @property
    def output_lengths(self) -> Array:
        """(N,) mean number of tokens of an output."""
        outputs = self.histograms("output", slice(0, len(self)))
        totals = np.array([output.total for output in outputs], np.float64)
        return totals / self.arrays["rows"]

    def check(self, vocab_size: int) -> None:
        """Raise `IntegrityError` if a stored array is missing, of another type, or inconsistent."""
        names = {"rows", *(f"{p}.{k}" for p in _HALVES for k in _KINDS)}
        flat = all(a.ndim == 1 and a.dtype.kind in "iu" for a in self.arrays.values())
        if set(self.arrays) != names or not flat:
            raise IntegrityError(
                f"profiles have the arrays {sorted(self.arrays)}, expected one-dimensional ones of "
                f"integers, {sorted(names)}",
                code="profile.damaged",
                hint="build the bank again: hf-lorameta bank build",
            )
        for part in _HALVES:
            size = LENGTHS if part == "lengths" else vocab_size
            ids, counts, indptr = (self.arrays[f"{part}.{kind}"] for kind in _KINDS)
            indptr = indptr.astype(np.int64)  # unsigned differences are never negative
            fits = indptr.size == len(self) + 1 and ids.size == counts.size
            if not fits or indptr[0] != 0 or indptr[-1] != ids.size or (np.diff(indptr) < 0).any():
                raise IntegrityError(
                    f"the arrays of the {part} profiles are inconsistent", code="profile.damaged"
                )
            rising = np.append(ids[1:] > ids[:-1], True)
            rising[indptr[1:] - 1] = True  # the last id of each profile
            valid = (ids >= 0).all() and (ids < size).all() and (counts > 0).all() and rising.all()
            if not valid:
                raise IntegrityError(
                    f"the {part} profiles contain ids or counts out of order or range",
                    code="profile.damaged",
                )

    def histograms(self, half: Half, rows: slice) -> list[Histogram]:
        """Return one histogram of each profile in a slice, as views of the arrays."""
        ids, counts, indptr = (self.arrays[f"{half}.{kind}"] for kind in _KINDS)
        ends = indptr[rows.start : rows.stop + 1].tolist()
        return [Histogram(ids[a:b], counts[a:b]) for a, b in pairwise(ends)]

    def __getitem__(self, index: int) -> Profile:
        if not 0 <= index < len(self):
            raise IndexError(f"profile {index} of {len(self)}")
        inputs, outputs, lengths = (
            Histogram(h.ids.astype(np.int32), h.counts.astype(np.int64))
            for half in _HALVES
            for h in self.histograms(half, slice(index, index + 1))
        )
        return Profile(inputs, outputs, int(self.arrays["rows"][index]), lengths)

    def take(self, indices: Iterable[int]) -> "ProfileTable":
        """Return some of the profiles, in the given order."""
        return ProfileTable.from_profiles([self[int(i)] for i in indices])

    def only(self, part: Literal["input", "output"]) -> "ProfileTable":
        """Return the profiles with only the inputs, or only the outputs and their lengths."""
        emptied: dict[str, NDArray[np.integer]] = {}
        for other in ("output", "lengths") if part == "input" else ("input",):
            emptied |= {f"{other}.{kind}": self.arrays[f"{other}.{kind}"][:0] for kind in _KINDS}
            emptied[f"{other}.indptr"] = np.zeros(len(self) + 1, np.int64)
        return ProfileTable(self.arrays | emptied)
