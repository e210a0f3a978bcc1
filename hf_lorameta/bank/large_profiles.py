"""The profiles of a large bank, and their sketches, which a plan scans to choose candidates.

Only the profiles that are needed are read; digests in the sketches verify them.

The distance of the default metric is estimated without logarithms. With BC the Bhattacharyya
coefficient ``Σ √(p q)`` [1], the Jensen–Shannon divergence is about ``log 2 · (1 − BC)``: both are
0 for equal distributions and log 2 for disjoint ones. Tokens are hashed to 256 buckets, whose
shares replace p and q; the lengths of outputs are compared as the metric does. Between the datasets
of the embedded bank, the estimate's correlation with the distance is 0.99.

References:
    [1] Bhattacharyya, On a measure of divergence between two statistical populations, 1943.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.arrays import from_record
from hf_lorameta.bank.index import shard_file, shards
from hf_lorameta.data.counts.profile import LENGTHS, Histogram, Profile, ProfileTable
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.types import Array, FloatArray

BUCKETS = 256
CANDIDATES = 128
"""Number of datasets of a large bank that a plan compares."""
_DIGEST_BYTES = 32
_MAX_PROFILE_BYTES = 1 << 30
_BLOCK = 4096
_FIELDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "input": (np.float16, (BUCKETS,)),
    "output": (np.float16, (BUCKETS,)),
    "lengths": (np.float16, (LENGTHS,)),
    "output_length": (np.float64, ()),
    "size": (np.int64, ()),
    "sha256": (np.uint8, (_DIGEST_BYTES,)),
}
_HALVES: tuple[Literal["input", "output"], ...] = ("input", "output")
ReadRange = Callable[[str, int, int], bytes]
"""Reads a range of bytes of a file, by its name: here, or in the bank's repo."""
_HINT = "build or download the bank again"
_THREADS = 8


@dataclass(frozen=True, eq=False)
class Sketches:
    """Sketches of N profiles, 1,200 bytes each.

    Attributes:
        arrays: ``input`` and ``output`` (N, 256) float16, square roots of the shares of the tokens
            in each bucket; ``lengths`` (N, 64) float16, shares of the outputs up to each length;
            ``output_length`` (N,) float64, their mean number of tokens; ``size`` (N,) int64 and
            ``sha256`` (N, 32) uint8, of the stored profile.

    Example:
        >>> one = [Histogram.from_dense(row) for row in np.eye(3, dtype=int)]
        >>> a, b, c = (Profile(one[0], one[i], 1, one[0]) for i in range(3))
        >>> from hf_lorameta.bank.arrays import to_record
        >>> Sketches.from_records((x, to_record(x)) for x in (c, b, a)).nearest(a, 1)
        array([2])
    """

    arrays: dict[str, NDArray[Any]]

    @classmethod
    def from_records(cls, profiles: Iterable[tuple[Profile, bytes]]) -> "Sketches":
        """Compute the sketches of profiles, each given with its stored bytes."""
        rows = [_sketch(profile) | _of_record(record) for profile, record in profiles]
        return cls(
            {
                name: np.array([row[name] for row in rows], dtype).reshape(len(rows), *shape)
                for name, (dtype, shape) in _FIELDS.items()
            }
        )

    @classmethod
    def concatenate(cls, parts: Iterable["Sketches"]) -> "Sketches":
        """Join sketches, in order."""
        tables = [part.arrays for part in parts]
        return cls({name: np.concatenate([table[name] for table in tables]) for name in _FIELDS})

    def __len__(self) -> int:
        return len(self.arrays["sha256"])

    def check(self, number: int) -> None:
        """Raise `IntegrityError` unless these are arrays of `number` sketches."""
        found = {name: (array.dtype, array.shape) for name, array in self.arrays.items()}
        if found != {n: (np.dtype(t), (number, *shape)) for n, (t, shape) in _FIELDS.items()}:
            raise IntegrityError(
                "the sketches have other arrays, types or shapes than expected",
                code="bank.damaged-sketches",
            )
        sizes = self.arrays["size"]
        if not ((sizes >= 0) & (sizes < _MAX_PROFILE_BYTES)).all():
            raise IntegrityError(
                "the sketches state sizes that profiles cannot have", code="bank.damaged-sketches"
            )

    def nearest(self, profile: Profile, count: int) -> NDArray[np.intp]:
        """Return the indices of the datasets with the smallest estimated distances, ascending.

        Args:
            profile: of the new dataset; inputs or outputs that it lacks are not compared.
            count: how many, at most; of equally near datasets, the first are taken.
        """
        order = np.argsort(self.distances(profile), kind="stable")
        return np.sort(order[:count])

    def distances(self, profile: Profile) -> Array:
        """Estimate the (N,) distances from a new dataset; texts that it lacks are not compared."""
        query = _sketch(profile)
        result = np.zeros(len(self))
        for start in range(0, len(self), _BLOCK):
            rows = slice(start, start + _BLOCK)
            for half in _HALVES:
                if getattr(profile, half).total:
                    shares = self.arrays[half][rows].astype(np.float32)
                    result[rows] += np.log(2) * (1 - shares @ query[half].astype(np.float32))
            if profile.lengths.total:
                gap = self.arrays["lengths"][rows].astype(np.float32) - query["lengths"]
                result[rows] += np.abs(gap).sum(axis=1) / 2
        return result


def _sketch(profile: Profile) -> dict[str, Any]:
    lengths = np.zeros(LENGTHS)
    lengths[profile.lengths.ids] = profile.lengths.counts
    return {
        "input": _shares(profile.input),
        "output": _shares(profile.output),
        "lengths": (np.cumsum(lengths) / max(1, profile.lengths.total)).astype(np.float16),
        "output_length": profile.output_length,
    }


def _of_record(record: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(record).digest()
    return {"size": len(record), "sha256": np.frombuffer(digest, np.uint8)}


def _shares(histogram: Histogram) -> FloatArray:
    """Square roots of the shares of the tokens in each bucket: (256,) float16, 0 if none."""
    hashed = (histogram.ids.astype(np.uint32) * np.uint32(2_654_435_761)) >> np.uint32(24)
    counts = np.bincount(hashed, histogram.counts, BUCKETS)
    return np.asarray(np.sqrt(counts / max(1, histogram.total)).astype(np.float16))


# --- profiles -------------------------------------------------------------------------------------


class LargeProfiles:
    """Profiles of N entries, which are read when they are needed.

    A shard is a file with the stored profiles of consecutive entries.

    Args:
        read: reads a range of a shard; it need not verify it, since each profile is verified.
        names: of the bank's files.
        sketches: of the N entries.
        vocab_size: above every token id.

    Attributes:
        sketches: as given.
    """

    def __init__(
        self, read: ReadRange, names: Iterable[str], sketches: Sketches, vocab_size: int
    ) -> None:
        self.sketches = sketches
        self._read_range = read
        self._vocab_size = vocab_size
        self._shards = shards(names)
        self._bounds = np.concatenate(([0], np.cumsum(sketches.arrays["size"])))

    def __len__(self) -> int:
        return len(self.sketches)

    def __getitem__(self, index: int) -> Profile:
        return self.take([index])[0]

    @property
    def output_lengths(self) -> Array:
        """(N,) mean number of tokens of an output."""
        lengths: Array = self.sketches.arrays["output_length"]
        return lengths

    def take(self, indices: Iterable[int]) -> ProfileTable:
        """Return some of the profiles, in the given order.

        Raises:
            IntegrityError: a profile is damaged.
        """
        wanted = [int(i) for i in indices]
        with ThreadPoolExecutor(_THREADS) as pool:
            table = ProfileTable.from_profiles(list(pool.map(self._read, wanted)))
        table.check(self._vocab_size)
        return table

    def _read(self, index: int) -> Profile:
        first, end = next((s for s in self._shards if s[0] <= index < s[1]), (0, 0))
        name = shard_file(first, end)
        start, stop = (int(b) for b in self._bounds[index : index + 2] - self._bounds[first])
        try:
            raw = self._read_range(name, start, stop)
            if hashlib.sha256(raw).digest() == self.sketches.arrays["sha256"][index].tobytes():
                return from_record(raw, name)
        except BankError as error:
            raise IntegrityError(f"{error}", code="bank.damaged-profiles", hint=_HINT) from None
        raise IntegrityError(
            f"{name}: the profile of entry {index} differs from its digest",
            code="bank.wrong-checksums",
            hint=_HINT,
        )
