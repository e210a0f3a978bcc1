"""The profiles of a large bank, read by entry, and verified by the digests in its sketches."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hf_lorameta.bank.arrays import from_record
from hf_lorameta.bank.index import shard_file, shards
from hf_lorameta.bank.sketches import Sketches
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.types import Array

ReadRange = Callable[[str, int, int], bytes]
"""Reads a range of bytes of a file, by its name: here, or in the bank's repo."""
_HINT = "build the bank again, or pull it again"
_THREADS = 8


class LargeProfiles:
    """Profiles of N entries, of which only those that are asked for are read.

    A file of profiles is a shard: what is stored of its entries, one after another.

    Args:
        read: reads a range of a shard, which need not be verified, since each profile is.
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
        self._starts = [start for start, _ in self._shards]
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
        table = ProfileTable.from_profiles(self._read_all(wanted))
        table.check(self._vocab_size)
        return table

    def _read_all(self, indices: Sequence[int]) -> list[Profile]:
        if len(indices) < 2:  # no threads for one
            return [self._read(i) for i in indices]
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._read, indices))

    def _read(self, index: int) -> Profile:
        if not 0 <= index < len(self):
            raise IndexError(f"profile {index} of {len(self)}")
        first, end = self._shards[bisect_right(self._starts, index) - 1]
        name = shard_file(first, end)
        start, stop = (int(b) for b in self._bounds[index : index + 2] - self._bounds[first])
        try:
            raw = self._read_range(name, start, stop)
            damaged = hashlib.sha256(raw).digest() != self._digest(index)
            if not damaged:
                return from_record(raw, name)
        except BankError as error:
            raise IntegrityError(f"{error}", hint=_HINT) from None
        raise IntegrityError(
            f"{name}: the profile of entry {index} differs from its digest", hint=_HINT
        )

    def _digest(self, index: int) -> bytes:
        return bytes(self.sketches.arrays["sha256"][index])
