"""A dataset as a probability distribution over tokens.

A `Profile` keeps two sparse histograms of token ids, one of all inputs and one of all outputs; the
paper's distribution (arXiv 2507.01806, section 3) is their sum, normalized. A third one says how
long the outputs are. They are counted from a stream of rows in constant memory and hold no text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import BankError, EmptyDatasetError, IntegrityError, UnlabeledDatasetError
from hf_lorameta.types import Encode, Row

Half = Literal["input", "output", "lengths"]
"""What is counted of a dataset: tokens of its inputs, of its outputs, and the outputs' lengths."""
Part = Literal["input", "output", "both", "lengths"]

PROFILE_FORMAT = 2
"""Of what is counted; records of another one are counted again. 2: with lengths."""
LENGTHS = 64
"""Number of classes of length, half an octave each: up to 2^31 tokens."""

PARTS: Mapping[Part, tuple[Half, ...]] = {
    "input": ("input",),
    "output": ("output",),
    "both": ("input", "output"),
    "lengths": ("lengths",),
}
"""Which histograms are added up for a part."""

_BATCH_ROWS = 512
_BATCH_CHARACTERS = 1 << 20
_KINDS = ("ids", "counts", "indptr")
_HALVES: tuple[Half, ...] = ("input", "output", "lengths")


@dataclass(frozen=True)
class Histogram:
    """Token counts, sparse.

    Attributes:
        ids: (n,) int32, the tokens seen, ascending.
        counts: (n,) int64 or, as stored, uint32: how often each was seen, all positive.
    """

    ids: NDArray[np.integer]
    counts: NDArray[np.integer]

    @classmethod
    def from_dense(cls, counts: NDArray[np.int64]) -> "Histogram":
        """The non-zero entries of a (V,) count vector."""
        ids = np.flatnonzero(counts)
        return cls(ids.astype(np.int32), counts[ids].astype(np.int64))

    @property
    def total(self) -> int:
        """Number of tokens counted."""
        return int(self.counts.sum())


_EMPTY = Histogram(np.empty(0, np.int32), np.empty(0, np.int64))


@dataclass(frozen=True)
class Profile:
    """One dataset, read as token histograms.

    Attributes:
        input: histogram of all inputs.
        output: histogram of all outputs.
        rows: number of rows counted.
        lengths: histogram of the outputs' lengths, in the classes of `length_class`.

    Example:
        >>> rows = [("a b", "c"), ("a", "c")]
        >>> letters = lambda texts: [["abc".index(t) for t in x.split()] for x in texts]
        >>> profile = profile_rows(rows, letters, vocab_size=4)
        >>> profile.distribution(4).tolist()
        [0.4, 0.2, 0.4, 0.0]
        >>> profile.distribution(4, "output").tolist()
        [0.0, 0.0, 1.0, 0.0]
    """

    input: Histogram
    output: Histogram
    rows: int
    lengths: Histogram = field(default=_EMPTY)

    def counts(self, vocab_size: int, part: Part = "both") -> NDArray[np.int64]:
        """The counts as a dense vector.

        Args:
            vocab_size: V, at least the largest id + 1.
            part: which of the texts; ``both`` is the paper's reading.

        Returns:
            (V,) int64; of ``lengths`` (`LENGTHS`,).
        """
        dense = np.zeros(LENGTHS if part == "lengths" else vocab_size, np.int64)
        for half in PARTS[part]:
            histogram: Histogram = getattr(self, half)
            dense[histogram.ids] += histogram.counts
        return dense

    def distribution(self, vocab_size: int, part: Part = "both") -> NDArray[np.float64]:
        """The empirical distribution p over {0..V-1}: (V,) float64 that sums to one.

        Raises:
            EmptyDatasetError: the part holds no token.
        """
        counts = self.counts(vocab_size, part)
        total = counts.sum()
        if not total:
            raise EmptyDatasetError(f"the {part} texts of the dataset hold no token")
        return np.asarray(counts / total)


def profile_rows(
    rows: Iterable[Row], encode: Encode, vocab_size: int, *, labeled_only: bool = True
) -> Profile:
    """Count the tokens of a stream of rows; memory does not grow with the number of rows.

    Args:
        rows: (input, output) pairs.
        encode: the base model's tokenizer, without special tokens.
        vocab_size: V; every id must be below it.
        labeled_only: pass over rows whose output is empty.

    Raises:
        EmptyDatasetError: no row at all, or none with a token.
        UnlabeledDatasetError: rows, but every output is empty.
        BankError: the tokenizer gives an id of V or more.
    """
    inputs, outputs = (np.zeros(vocab_size, np.int64) for _ in range(2))
    lengths = np.zeros(LENGTHS, np.int64)
    seen = labeled = 0
    for batch in _batches(rows):
        seen += len(batch)
        kept = [row for row in batch if row[1] or not labeled_only]
        labeled += len(kept)
        _count([row[0] for row in kept], encode, inputs)
        _count([row[1] for row in kept], encode, outputs, lengths)
    if not seen:
        raise EmptyDatasetError("the dataset has no rows", hint="name another one with --split")
    if not labeled:
        raise UnlabeledDatasetError(
            f"none of {seen} rows has an output: the coefficients are read from inputs and outputs",
            hint="name the labeled split with --split, or the answers: --columns output=COLUMN; "
            "or if there are none, the inputs alone: --columns input=COLUMN",
        )
    found = [Histogram.from_dense(counts) for counts in (inputs, outputs, lengths)]
    profile = Profile(found[0], found[1], labeled, found[2])
    if not profile.input.total + profile.output.total:
        raise EmptyDatasetError(f"{labeled} rows, and not one token in them")
    return profile


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row[0]) + len(row[1])
        if len(batch) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def length_class(tokens: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of a text of so many tokens: its base-2 logarithm in halves, rounded.

    Args:
        tokens: (n,) at least 1.

    Returns:
        (n,) in 0 to `LENGTHS` − 1.

    Example:
        >>> length_class(np.array([1, 2, 3, 4, 64])).tolist()
        [0, 2, 3, 4, 12]
    """
    return np.asarray(np.minimum(np.rint(2 * np.log2(tokens)), LENGTHS - 1), np.int64)


def _count(
    texts: Sequence[str],
    encode: Encode,
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64] | None = None,
) -> None:
    """Add the texts' tokens to the counts, and what they have of length to the lengths."""
    parts = [np.asarray(part, np.int64) for part in encode(texts)]
    ids = np.concatenate([np.empty(0, np.int64), *parts])
    wrong = ids[(ids < 0) | (ids >= counts.size)]
    if wrong.size:
        raise BankError(f"the tokenizer gave id {wrong[0]}, expected 0 to {counts.size - 1}")
    counts += np.bincount(ids, minlength=counts.size)
    if lengths is not None:
        sizes = np.array([part.size for part in parts if part.size], np.int64)
        lengths += np.bincount(length_class(sizes), minlength=LENGTHS)


@dataclass(frozen=True)
class ProfileTable:
    """Many profiles as one set of arrays, the form in which a bank keeps them.

    Row i of a part is ``ids[indptr[i]:indptr[i+1]]`` with the same slice of ``counts``.

    Attributes:
        arrays: ``{part}.ids`` (nnz,) int32, ``{part}.counts`` (nnz,) uint32 or int64,
            ``{part}.indptr`` (N+1,) int64 for the parts input, output and lengths, and
            ``rows`` (N,) int64.
    """

    arrays: dict[str, NDArray[np.integer]]

    @classmethod
    def from_profiles(cls, profiles: Sequence[Profile]) -> "ProfileTable":
        """Stack N profiles, in their order."""
        arrays: dict[str, NDArray[np.integer]] = {
            "rows": np.array([profile.rows for profile in profiles], np.int64)
        }
        for part in _HALVES:
            parts: list[Histogram] = [getattr(profile, part) for profile in profiles]
            sizes = [0, *(histogram.ids.size for histogram in parts)]
            arrays[f"{part}.indptr"] = np.cumsum(sizes, dtype=np.int64)
            arrays[f"{part}.ids"] = np.concatenate([np.empty(0, np.int32), *(h.ids for h in parts)])
            counts = np.concatenate([np.empty(0, np.int64), *(h.counts for h in parts)])
            small = int(counts.max(initial=0)) < 1 << 32
            arrays[f"{part}.counts"] = counts.astype(np.uint32) if small else counts
        return cls(arrays)

    def __len__(self) -> int:
        return int(self.arrays["rows"].size)

    def check(self, vocab_size: int) -> None:
        """Insist that stored arrays are what they should be, before anything is computed from them.

        Args:
            vocab_size: V; every id must be below it.

        Raises:
            IntegrityError: an array is missing, of another type, or inconsistent.
        """
        names = {"rows", *(f"{p}.{k}" for p in _HALVES for k in _KINDS)}
        if set(self.arrays) != names:
            raise IntegrityError(
                f"profiles hold {sorted(self.arrays)}, expected {sorted(names)}",
                hint="a bank of an earlier version has to be built again: hf-lorameta bank build",
            )
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in self.arrays.values()):
            raise IntegrityError("profiles hold something else than lists of whole numbers")
        for part in _HALVES:
            size = LENGTHS if part == "lengths" else vocab_size
            ids, counts, indptr = (self.arrays[f"{part}.{kind}"] for kind in _KINDS)
            indptr = indptr.astype(np.int64)  # differences of unsigned numbers are never negative
            fits = indptr.size == len(self) + 1 and ids.size == counts.size
            if not fits or indptr[0] != 0 or indptr[-1] != ids.size or (np.diff(indptr) < 0).any():
                raise IntegrityError(f"the {part} profiles do not fit together")
            if ids.size and not (ids.min() >= 0 and ids.max() < size and counts.min() > 0):
                raise IntegrityError(f"the {part} profiles hold ids or counts out of range")
            rising = np.append(ids[1:] > ids[:-1], True)
            rising[indptr[1:] - 1] = True  # the last one of each profile
            if not rising.all():
                raise IntegrityError(f"the {part} profiles hold ids that do not ascend")

    def histograms(self, half: Half, rows: slice) -> list[Histogram]:
        """One half of some profiles as it is stored, without a copy."""
        ids, counts, indptr = (self.arrays[f"{half}.{kind}"] for kind in _KINDS)
        ends = indptr[rows.start : rows.stop + 1].tolist()
        return [Histogram(ids[a:b], counts[a:b]) for a, b in pairwise(ends)]

    def __getitem__(self, index: int) -> Profile:
        if not 0 <= index < len(self):
            raise IndexError(f"profile {index} of {len(self)}")
        histograms = []
        for part in _HALVES:
            start, stop = self.arrays[f"{part}.indptr"][index : index + 2]
            ids, counts = (self.arrays[f"{part}.{k}"][start:stop] for k in ("ids", "counts"))
            histograms.append(Histogram(ids.astype(np.int32), counts.astype(np.int64)))
        inputs, outputs, lengths = histograms
        return Profile(inputs, outputs, int(self.arrays["rows"][index]), lengths)

    def only(self, part: Literal["input", "output"]) -> "ProfileTable":
        """The same profiles with nothing of the other texts; lengths are the outputs'."""
        emptied: dict[str, NDArray[np.integer]] = {}
        for other in ("output", "lengths") if part == "input" else ("input",):
            emptied |= {f"{other}.{kind}": self.arrays[f"{other}.{kind}"][:0] for kind in _KINDS}
            emptied[f"{other}.indptr"] = np.zeros(len(self) + 1, np.int64)
        return ProfileTable(self.arrays | emptied)

    def distributions(self, vocab_size: int, part: Part = "both") -> NDArray[np.float64]:
        """All profiles as distributions: (N, V) float64, each row summing to one."""
        return np.stack([self[i].distribution(vocab_size, part) for i in range(len(self))])
