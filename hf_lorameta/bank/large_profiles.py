"""The profiles of a large bank, read by entry, and verified by the digests in its sketches."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from hf_lorameta.bank.arrays import ArrayFile
from hf_lorameta.bank.index import shard_file, shards
from hf_lorameta.bank.sketches import Sketches, profile_digest
from hf_lorameta.data.counts.profile import Histogram, Profile, ProfileTable
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.types import Array

_HINT = "build the bank again, or pull it again"


class LargeProfiles:
    """Profiles of N entries in shards, of which only those that are asked for are read.

    Args:
        path: returns the path of a shard by its file name, fetched if needed. Shards need not be
            verified, since each profile is.
        names: of the bank's files.
        sketches: of the N entries.
        vocab_size: above every token id.

    Attributes:
        sketches: as given.
    """

    def __init__(
        self, path: Callable[[str], Path], names: Iterable[str], sketches: Sketches, vocab_size: int
    ) -> None:
        self.sketches = sketches
        self._vocab_size = vocab_size
        self._shards = shards(names)
        self._starts = [start for start, _ in self._shards]
        self._open = lru_cache(maxsize=None)(lambda name: ArrayFile(path(name)))

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
        table = ProfileTable.from_profiles([self._read(int(i)) for i in indices])
        table.check(self._vocab_size)
        return table

    def _read(self, index: int) -> Profile:
        if not 0 <= index < len(self):
            raise IndexError(f"profile {index} of {len(self)}")
        start, stop = self._shards[bisect_right(self._starts, index) - 1]
        name = shard_file(start, stop)
        try:
            profile = _profile(self._open(name), index - start)
        except BankError as error:
            raise IntegrityError(f"{error}", hint=_HINT) from None
        if profile_digest(profile) != self.sketches.arrays["sha256"][index].tobytes():
            raise IntegrityError(
                f"{name}: the profile of entry {index} differs from its digest", hint=_HINT
            )
        return profile


def _profile(file: ArrayFile, row: int) -> Profile:
    """Read one profile of a shard; what it holds is not checked."""
    parts = []
    for half in ("input", "output", "lengths"):
        start, stop = file.read(f"{half}.indptr", row, row + 2).tolist()
        ids, counts = (file.read(f"{half}.{kind}", start, stop) for kind in ("ids", "counts"))
        parts.append(Histogram(ids.astype(np.int32), counts.astype(np.int64)))
    return Profile(parts[0], parts[1], int(file.read("rows", row, row + 1)[0]), parts[2])
