"""Store the profiles of a bank, and what plans need to compare a new dataset with them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.arrays import save_arrays
from hf_lorameta.bank.geometry import bank_distances, sampled_distances, typical_distances
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    LARGE,
    PROFILES_FILE,
    is_of_large_bank,
    shard_file,
    shards,
    sketches_file,
)
from hf_lorameta.bank.large_profiles import LargeProfiles
from hf_lorameta.bank.sketches import Sketches
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.files import sha256

SHARD_ENTRIES = 1_000
"""Entries whose profiles are in one file; adding an entry rewrites the last."""


class StoredProfiles(NamedTuple):
    """What an index states of stored profiles: its fields of the same names."""

    files: dict[str, str]
    typical_distances: dict[str, float]
    median_distances: dict[str, float]


def store_profiles(
    folder: Path, profiles: Iterable[Profile], number: int, vocab_size: int
) -> StoredProfiles:
    """Write the profiles of all entries, with their distances or, in a large bank, their sketches.

    Args:
        folder: of the bank.
        profiles: in the order of the entries; of a large bank, a shard is in memory at a time.
        number: of entries.
        vocab_size: above every token id.
    """
    if number > LARGE:
        return _store_large(folder, iter(profiles), number, vocab_size)
    table = ProfileTable.from_profiles(list(profiles))
    save_arrays(folder / PROFILES_FILE, table.arrays)
    distances = bank_distances(table, vocab_size)
    save_arrays(folder / DISTANCES_FILE, {k: D.astype(np.float32) for k, D in distances.items()})
    files = {name: sha256(folder / name) for name in (PROFILES_FILE, DISTANCES_FILE)}
    return StoredProfiles(files, typical_distances(table, vocab_size, distances), {})


def extend_profiles(
    folder: Path,
    stored: LargeProfiles,
    files: Mapping[str, str],
    new: Sequence[Profile],
    vocab_size: int,
) -> StoredProfiles:
    """Add profiles to those of a large bank, of which only the last shard is read.

    Nothing that the present index lists is overwritten.

    Args:
        folder: of the bank.
        stored: its profiles.
        files: of its index.
        new: the profiles to add.
        vocab_size: above every token id.
    """
    full = [shard_file(*pair) for pair in shards(files) if pair[1] - pair[0] >= SHARD_ENTRIES]
    kept = {name: files[name] for name in full}
    tail = [stored[i] for i in range(_end(kept), len(stored))]
    number = len(stored) + len(new)
    return _store_large(folder, iter([*tail, *new]), number, vocab_size, kept, stored.sketches)


def _store_large(
    folder: Path,
    profiles: Iterator[Profile],
    number: int,
    vocab_size: int,
    kept: Mapping[str, str] = MappingProxyType({}),
    earlier: Sketches | None = None,
) -> StoredProfiles:
    """Write the profiles after those of `kept` shards, whose sketches `earlier` begins with."""
    start = _end(kept)
    parts = [earlier.head(start)] if earlier else []
    written = []
    for first in range(start, number, SHARD_ENTRIES):
        shard = list(islice(profiles, SHARD_ENTRIES))
        written.append(shard_file(first, first + len(shard)))
        save_arrays(folder / written[-1], ProfileTable.from_profiles(shard).arrays)
        parts.append(Sketches.from_profiles(shard))
    sketches = Sketches.concatenate(parts)
    written.append(sketches_file(number))
    save_arrays(folder / written[-1], sketches.arrays)
    files = {**kept, **{name: sha256(folder / name) for name in written}}
    stored = LargeProfiles(folder.joinpath, files, sketches, vocab_size)
    return StoredProfiles(files, *sampled_distances(stored, vocab_size))


def _end(files: Iterable[str]) -> int:
    return max((stop for _, stop in shards(files)), default=0)


def delete_outdated(folder: Path, files: Collection[str]) -> None:
    """Delete profiles, sketches and distances that are not among the files of a bank."""
    for path in folder.iterdir():
        ours = path.name in (PROFILES_FILE, DISTANCES_FILE) or is_of_large_bank(path.name)
        if ours and path.name not in files:
            path.unlink()
