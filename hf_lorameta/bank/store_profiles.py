"""Store the profiles of a bank and the distances among them, which plans compare a dataset with."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.arrays import save_arrays, to_record
from hf_lorameta.bank.bank_files import BankFiles
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    LARGE,
    PROFILES_FILE,
    is_of_large_bank,
    shard_file,
    sketches_file,
)
from hf_lorameta.bank.large_profiles import CANDIDATES, LargeProfiles, Sketches
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.files import atomic_file, sha256
from hf_lorameta.method.metrics import distances, pairwise_distances, stored_name
from hf_lorameta.method.registries import DEFAULT_METRIC, METRICS
from hf_lorameta.types import Array

SHARD_ENTRIES = 1_000
"""Entries whose profiles are in one file."""

_MAX_SAMPLED = 32
_MAX_OTHERS = 64


class StoredProfiles(NamedTuple):
    """The fields of an index that describe stored profiles."""

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
        return _write_shards(folder, iter(profiles), vocab_size)
    table = ProfileTable.from_profiles(list(profiles))
    distances = bank_distances(table, vocab_size) if number else {}
    typical = typical_distances(table, vocab_size, distances)
    stored = {PROFILES_FILE: table.arrays}
    if number:
        stored[DISTANCES_FILE] = {k: D.astype(np.float32) for k, D in distances.items()}
    for name, arrays in stored.items():  # the index that lists them follows at once
        save_arrays(folder / name, arrays)
    return StoredProfiles({name: sha256(folder / name) for name in stored}, typical, {})


def _write_shards(folder: Path, profiles: Iterator[Profile], vocab_size: int) -> StoredProfiles:
    """Write the profiles of a large bank in shards, and their sketches."""
    sketches: list[Sketches] = []
    names: list[str] = []
    start = 0
    while shard := list(islice(profiles, SHARD_ENTRIES)):
        names.append(shard_file(start, start + len(shard)))
        records = [to_record(profile) for profile in shard]
        with atomic_file(folder / names[-1]) as file:
            file.writelines(records)
        sketches.append(Sketches.from_records(zip(shard, records, strict=True)))
        start += len(shard)
    joined = Sketches.concatenate(sketches)
    names.append(sketches_file(start))
    save_arrays(folder / names[-1], joined.arrays)
    files = {name: sha256(folder / name) for name in names}
    written = LargeProfiles(BankFiles(folder).read, files, joined, vocab_size)
    return StoredProfiles(files, *sampled_distances(written, vocab_size))


def delete_outdated(folder: Path, files: Collection[str]) -> None:
    """Delete profiles, sketches, distances and entries that are not among the files of a bank."""
    for path in folder.iterdir():
        ours = path.name in (PROFILES_FILE, DISTANCES_FILE) or is_of_large_bank(path.name)
        if ours and path.name not in files:
            path.unlink()


# --- distances inside the bank --------------------------------------------------------------------


def bank_distances(profiles: ProfileTable, vocab_size: int) -> dict[str, Array]:
    """Compute the (N, N) distances that the kernel rule needs, in its default metric, by name.

    Those over inputs alone serve datasets without outputs; they are left out if no dataset has
    inputs.
    """
    found = {DEFAULT_METRIC: pairwise_distances(profiles, vocab_size, DEFAULT_METRIC)}
    inputs = profiles.only("input")
    if inputs.arrays["input.ids"].size:
        name = stored_name(DEFAULT_METRIC, "input")
        found[name] = pairwise_distances(inputs, vocab_size, DEFAULT_METRIC)
    return found


def typical_distances(
    profiles: ProfileTable, vocab_size: int, computed: Mapping[str, Array]
) -> dict[str, float]:
    """Compute the median distance from a bank dataset to its nearest other, by metric.

    The median is over up to 32 evenly spaced datasets; the result is empty if N < 2. `computed`
    holds (N, N) distances by metric, which are not computed again.
    """
    if len(profiles) < 2:
        return {}
    sampled = _evenly_spaced(len(profiles), _MAX_SAMPLED)

    def nearest(i: int, metric: str) -> float:
        D = computed.get(metric)
        row = distances(profiles[i], profiles, vocab_size, metric) if D is None else D[i]
        return float(np.delete(row, i).min())

    return {m: float(np.median([nearest(i, m) for i in sampled])) for m in METRICS}


def sampled_distances(
    profiles: LargeProfiles, vocab_size: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Estimate the typical and the median distance inside a large bank, by `metrics.stored_name`.

    Up to 32 evenly spaced datasets are compared with their candidates, among which the nearest one
    is found, and with 64 evenly spaced ones, over which the median is taken. Distances are those of
    the default metric, of all texts and of inputs or outputs alone.
    """
    typical: dict[str, float] = {}
    median: dict[str, float] = {}
    others = _evenly_spaced(len(profiles), _MAX_OTHERS)
    for part in (None, "input", "output"):
        nearest: list[float] = []
        sample: list[float] = []
        for i in _evenly_spaced(len(profiles), _MAX_SAMPLED):
            query = profiles.take([i])
            query = query.only(part) if part else query
            if not (query[0].input.total or query[0].output.total):
                continue
            near = profiles.sketches.nearest(query[0], CANDIDATES + 1).tolist()
            chosen = [j for j in dict.fromkeys([*others, *near]) if j != i]
            table = profiles.take(chosen)
            table = table.only(part) if part else table
            row = distances(query[0], table, vocab_size, DEFAULT_METRIC)
            nearest.append(float(row.min()))
            sample.extend(row[: len(set(others) - {i})].tolist())
        if nearest:
            name = stored_name(DEFAULT_METRIC, part)
            typical[name], median[name] = float(np.median(nearest)), float(np.median(sample))
    return typical, median


def _evenly_spaced(number: int, most: int) -> list[int]:
    spaced = np.unique(np.linspace(0, number - 1, most).round().astype(int))
    return [int(i) for i in spaced]
