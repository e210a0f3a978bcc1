"""Store the profiles of a bank, and what plans need to compare a new dataset with them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.arrays import save_arrays, to_record
from hf_lorameta.bank.geometry import bank_distances, sampled_distances, typical_distances
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    LARGE,
    PROFILES_FILE,
    Index,
    is_of_large_bank,
    shard_file,
    shards,
    sketches_file,
)
from hf_lorameta.bank.large_profiles import LargeProfiles, Sketches
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.errors import BankError
from hf_lorameta.files import atomic_file, sha256
from hf_lorameta.formats.safetensors import read_range

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
        return _estimated(folder, *_write_shards(folder, iter(profiles), {}, []), vocab_size)
    table = ProfileTable.from_profiles(list(profiles))
    save_arrays(folder / PROFILES_FILE, table.arrays)
    if not number:
        return StoredProfiles({PROFILES_FILE: sha256(folder / PROFILES_FILE)}, {}, {})
    distances = bank_distances(table, vocab_size)
    save_arrays(folder / DISTANCES_FILE, {k: D.astype(np.float32) for k, D in distances.items()})
    files = {name: sha256(folder / name) for name in (PROFILES_FILE, DISTANCES_FILE)}
    return StoredProfiles(files, typical_distances(table, vocab_size, distances), {})


def extend_profiles(
    folder: Path, stored: LargeProfiles, index: Index, new: Sequence[Profile]
) -> StoredProfiles:
    """Add profiles to those of a large bank, of which only the last shard is read.

    Nothing that the present index lists is overwritten. Distances inside the bank are estimated
    again whenever a shard becomes full, otherwise those of the index stay.

    Args:
        folder: of the bank.
        stored: its profiles.
        index: its index.
        new: the profiles to add.
    """
    full = [shard_file(*p) for p in shards(index.files) if p[1] - p[0] >= SHARD_ENTRIES]
    kept = {name: index.files[name] for name in full}
    end = _end(kept)
    tail = [stored[i] for i in range(end, len(stored))]
    files, sketches = _write_shards(folder, iter([*tail, *new]), kept, [stored.sketches.head(end)])
    if len(sketches) < end + SHARD_ENTRIES:
        return StoredProfiles(kept | files, index.typical_distances, index.median_distances)
    return _estimated(folder, kept | files, sketches, index.vocab_size)


def _write_shards(
    folder: Path, profiles: Iterator[Profile], kept: Mapping[str, str], sketches: list[Sketches]
) -> tuple[dict[str, str], Sketches]:
    """Write the profiles after those of `kept` shards, of which there are sketches.

    Returns:
        The digests of the files written, by name, and the sketches of all profiles.
    """
    start, written = _end(kept), []
    while shard := list(islice(profiles, SHARD_ENTRIES)):
        written.append(shard_file(start, start + len(shard)))
        records = [to_record(profile) for profile in shard]
        with atomic_file(folder / written[-1]) as file:
            file.writelines(records)
        sketches = [*sketches, Sketches.from_records(zip(shard, records, strict=True))]
        start += len(shard)
    joined = Sketches.concatenate(sketches)
    written.append(sketches_file(start))
    save_arrays(folder / written[-1], joined.arrays)
    return {name: sha256(folder / name) for name in written}, joined


def _estimated(
    folder: Path, files: dict[str, str], sketches: Sketches, vocab_size: int
) -> StoredProfiles:
    def read(name: str, start: int, stop: int) -> bytes:
        return read_range(folder / name, start, stop, BankError)

    profiles = LargeProfiles(read, files, sketches, vocab_size)
    return StoredProfiles(files, *sampled_distances(profiles, vocab_size))


def _end(files: Iterable[str]) -> int:
    return max((stop for _, stop in shards(files)), default=0)


def delete_outdated(folder: Path, files: Collection[str]) -> None:
    """Delete profiles, sketches, distances and entries that are not among the files of a bank."""
    for path in folder.iterdir():
        ours = path.name in (PROFILES_FILE, DISTANCES_FILE) or is_of_large_bank(path.name)
        if ours and path.name not in files:
            path.unlink()
