"""Shards: files in the repo of a large bank that each hold the weights of many adapters.

The Hub recommends fewer than 100 files in a commit and 10,000 in a folder, and one request per
adapter would be slow. So the repo of a bank of more than 90 adapters holds their weights in shards;
the sizes in the index give the position of each adapter in its shard. In a local folder each
adapter is a file of its own: a fetched shard is split, or only the adapters that are needed are
read from it.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from hf_lorameta.bank.bank_files import BankFiles, delete_download
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import Index, adapter_path
from hf_lorameta.formats.safetensors import read_range

SHARD_ADAPTERS = 128
"""Largest number of adapters in a shard; fetching a shard takes three requests."""
MOST_ALONE = 90
"""Largest bank without shards: this many adapters and its other files fit into one commit."""
SHARD_BYTES = 1 << 30
"""Approximate size limit of a shard, estimated from the size of the bank's first adapter."""
_THREADS = 8
_NAME = re.compile(r"adapters/\d{6,}-\d{6,}-[0-9a-f]{8}\.records")


@dataclass(frozen=True)
class AdapterShard:
    """A file that holds the weights of several adapters.

    Attributes:
        start: position in the bank of its first entry.
        entries: the entries whose weights it holds.
    """

    start: int
    entries: tuple[IndexEntry, ...]

    @property
    def name(self) -> str:
        """Its path in the repo, which contains a digest of its content: a shard never changes."""
        digests = "".join(entry.sha256 for entry in self.entries)
        content = hashlib.sha256(digests.encode()).hexdigest()[:8]
        return f"adapters/{self.start:06}-{self.start + len(self.entries):06}-{content}.records"

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(entry.size for entry in self.entries)

    def bounds(self, entry: IndexEntry) -> tuple[int, int]:
        """Return where the weights of an entry begin and end in the file."""
        before = self.entries[: self.entries.index(entry)]
        start = sum(other.size for other in before)
        return start, start + entry.size


def adapter_shards(entries: Sequence[IndexEntry]) -> list[AdapterShard]:
    """Return the shards of a bank with these entries, none if it is small."""
    size = _shard_adapters(entries)
    return [_shard(entries, start, size) for start in range(0, len(entries), size or 1) if size]


def _shard_adapters(entries: Sequence[IndexEntry]) -> int:
    """Return the number of adapters in a shard; 0 if each is a file of its own."""
    if len(entries) <= MOST_ALONE:
        return 0
    return max(1, min(SHARD_ADAPTERS, SHARD_BYTES // max(1, entries[0].size)))


def _shard(entries: Sequence[IndexEntry], start: int, size: int) -> AdapterShard:
    return AdapterShard(start, tuple(entries[start : start + size]))


def is_shard(name: str) -> bool:
    """Return whether a path in a repo is that of a shard."""
    return _NAME.fullmatch(name) is not None


# --- fetching -------------------------------------------------------------------------------------


def fetch_adapters(
    files: BankFiles,
    index: Index,
    wanted: Collection[str],
    done: Callable[[], None] = lambda: None,
) -> None:
    """Fetch the adapters that are in shards and not in the folder yet.

    If most of a shard is wanted, it is fetched whole and split; otherwise single adapters are read
    from it. A shard in the folder, as ``hf download`` leaves it, is split and deleted, even if the
    folder has adapters of an earlier revision. A repo to which a folder was uploaded unchanged has
    no shards: its adapters are fetched one by one.

    Args:
        files: of the bank.
        index: of the bank.
        wanted: names of entries.
        done: called after each adapter.

    Raises:
        IntegrityError: an adapter differs from the index.
        HubError: the repo is missing or cannot be reached.
    """
    local = files.remote is None and any(files.folder.glob("adapters/*.records"))
    listed = frozenset(files.remote.repo.files if files.remote else ())
    absent = (name for name in wanted if local or not files.has(adapter_path(name)))
    missing = [name for name in absent if adapter_path(name) not in listed]
    size = _shard_adapters(index.entries) if missing else 0
    if not size:
        return
    positions = {name: position for position, name in enumerate(index.names())}
    starts: dict[int, set[str]] = {}
    for name in missing:
        starts.setdefault(positions[name] // size * size, set()).add(name)
    single: list[tuple[AdapterShard, IndexEntry]] = []
    for start, names in sorted(starts.items()):
        shard = _shard(index.entries, start, size)
        chosen = [entry for entry in shard.entries if entry.name in names]
        most = 2 * sum(entry.size for entry in chosen) > shard.size
        if files.has(shard.name) or (files.remote and most):
            _split(files, shard, names, done)
        elif files.remote:
            single += [(shard, entry) for entry in chosen]
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(partial(_read_one, files), single):
            done()


def _split(
    files: BankFiles, shard: AdapterShard, wanted: Collection[str], done: Callable[[], None]
) -> None:
    """Store all adapters of a shard as files, and delete it; call `done` after each wanted one."""
    local = files.has(shard.name)
    path = files.path(shard.name)
    delete_after = not local
    try:
        if path.stat().st_size != shard.size:
            raise files.differs(f"{path} has {path.stat().st_size} bytes, expected {shard.size}")
        for entry in shard.entries:
            if local or not files.has(adapter_path(entry.name)):
                content = read_range(path, *shard.bounds(entry))
                files.store(adapter_path(entry.name), content, entry.sha256)
            if entry.name in wanted:
                done()
        delete_after = True
    finally:
        if delete_after:  # a shard that was here before is kept until all of it is stored
            delete_download(path)


def _read_one(files: BankFiles, found: tuple[AdapterShard, IndexEntry]) -> None:
    shard, entry = found
    content = files.read(shard.name, *shard.bounds(entry))
    files.store(adapter_path(entry.name), content, entry.sha256)
