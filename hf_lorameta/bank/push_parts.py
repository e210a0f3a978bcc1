"""The commits of a push: fewer than 100 files in each, and the index in the last.

A push that was killed goes on where it ended: what the repo holds already is not sent again. Until
its last commit, the repo holds the bank that it held before. Only while more files are replaced
than fit into that commit, such as all profiles of 100,000 adapters, does it hold no index, and so
no bank.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.bank.adapter_shards import AdapterShard
from hf_lorameta.bank.index import INDEX_FILE, adapter_path
from hf_lorameta.bank.new_folder import locked_scratch
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.types import StageProgress

COMMIT_FILES = 99
"""Files that a commit adds and deletes, at most; the Hub recommends fewer than 100."""
COMMIT_BYTES = 4 << 30
"""About the size of the files of a commit; as much space is needed for shards meanwhile."""
_OF_LAST = 2  # the index and the card
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class PushedFile:
    """A file to publish.

    Attributes:
        path: in the repo.
        parts: the files whose content it is, one after another.
    """

    path: str
    parts: tuple[Path, ...]

    @classmethod
    def of_shard(cls, shard: AdapterShard, folder: Path) -> "PushedFile":
        """Return the file of some adapters in a folder."""
        parts = (folder / adapter_path(entry.name) for entry in shard.entries)
        return cls(shard.name, tuple(parts))

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(part.stat().st_size for part in self.parts)

    def content(self) -> Iterator[bytes]:
        """Yield its content in chunks."""
        for part in self.parts:
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk

    def is_in(self, repo: PinnedRepo) -> bool:
        """Return whether a repo holds the file, as far as its digests tell."""
        blob = repo.blobs.get(self.path)
        if blob is None or blob.digest is None or blob.size != self.size:
            return False
        hasher = blob.hasher()
        for chunk in self.content():
            hasher.update(chunk)
        return bool(hasher.hexdigest() == blob.digest)


@dataclass(frozen=True)
class Push:
    """What a push of a bank changes in a repo.

    Attributes:
        folder: of the bank.
        files: to publish, without index and card.
        stale: paths in the repo to delete.
        card: content of ``README.md``.
    """

    folder: Path
    files: Sequence[PushedFile]
    stale: Sequence[str]
    card: str

    def uploads(
        self, existing: PinnedRepo | None, progress: StageProgress
    ) -> Generator[Upload, None, None]:
        """Yield the commits, each after the one before was made.

        Args:
            existing: the repo with the digests of its files; None if there is none.
            progress: called while files are compared with the repo's, and after each commit.

        Raises:
            BankError: another command pushes the bank, or shards cannot be written to its folder.
        """
        changed, total = [], len(self.files)
        for number, file in enumerate(self.files):
            if existing:
                progress("Comparing files", number, total)
            if not (existing and file.is_in(existing)):
                changed.append(file)
        held = set(existing.files) if existing else set()
        changed.sort(key=lambda file: file.path in held)  # new ones first
        *before, last = _batches(changed)
        if INDEX_FILE in held and any(file.path in held for batch in before for file in batch):
            yield Upload(self.folder, only=(), delete=[INDEX_FILE])
        done = total - len(changed)
        for batch in before:
            progress("Publishing files", done, total)
            with _staged(self.folder, batch) as others:
                yield Upload(self.folder, only=(), others=others)
            done += len(batch)
        progress("Publishing files", done, total)
        room = COMMIT_FILES - _OF_LAST - len(last)
        with _staged(self.folder, last) as others:
            index = (INDEX_FILE,)
            yield Upload(self.folder, index, others, self.stale[:room], self.card)
        for start in range(room, len(self.stale), COMMIT_FILES):
            yield Upload(self.folder, (), delete=self.stale[start : start + COMMIT_FILES])
        progress("Publishing files", total, total)


def _batches(files: Sequence[PushedFile]) -> list[list[PushedFile]]:
    """Divide files into commits, in order; the last, which is not full, may have none."""
    batches: list[list[PushedFile]] = [[]]
    size = 0
    for file in files:
        size += file.size
        if len(batches[-1]) >= COMMIT_FILES - _OF_LAST or (batches[-1] and size > COMMIT_BYTES):
            batches.append([])
            size = file.size
        batches[-1].append(file)
    return batches


@contextmanager
def _staged(folder: Path, files: Sequence[PushedFile]) -> Iterator[Mapping[str, Path]]:
    """Provide the files of a commit, by their paths in the repo; shards are written for it."""
    staged = {file.path: file.parts[0] for file in files if len(file.parts) == 1}
    shards = [file for file in files if len(file.parts) > 1]
    if not shards:
        yield staged
        return
    scratch = folder / ".push"
    with locked_scratch(scratch, folder, "pushed", scratch, "copy the bank to another disk"):
        for number, file in enumerate(shards):
            staged[file.path] = scratch / str(number)
            with staged[file.path].open("wb") as target:
                target.writelines(file.content())
        yield staged
