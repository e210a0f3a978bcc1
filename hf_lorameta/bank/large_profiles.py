"""The profiles of a large bank, read by entry, and verified by the digests in its sketches."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from hf_lorameta.bank.arrays import map_arrays
from hf_lorameta.bank.index import shard_file, shards
from hf_lorameta.bank.sketches import Sketches, profile_digest
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.errors import IntegrityError
from hf_lorameta.types import Array


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
        self._open = lru_cache(maxsize=None)(lambda name: ProfileTable(map_arrays(path(name))))

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
            BankError: a shard cannot be read.
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
        table = self._open(name)
        try:
            profile = table[index - start]
        except (LookupError, ValueError):  # arrays are missing, or have other shapes
            profile = None
        if (
            not profile
            or profile_digest(profile) != self.sketches.arrays["sha256"][index].tobytes()
        ):
            raise IntegrityError(
                f"{name}: the profile of entry {index} differs from its digest",
                hint="build the bank again, or pull it again",
            )
        return profile
