"""Publish a bank as a dataset repo on the Hub.

A push makes commits of fewer than 100 files, with the index in the last. A push that was killed
resumes: files that the repo already holds are not sent again. Until the last commit, the repo still
holds the previous bank, unless the push replaces more files than fit into that commit, such as all
profiles of 100,000 adapters: then the repo has no index, and so no bank, until the push is
finished.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import DatasetCardData

from hf_lorameta.bank.adapter_shards import adapter_shards, is_shard
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import (
    BASIS_FILE,
    INDEX_FILE,
    SMALL_FILES,
    TOKENIZER_FILE,
    adapter_path,
    is_of_large_bank,
)
from hf_lorameta.bank.locked import locked_scratch
from hf_lorameta.bank.maintain import verify
from hf_lorameta.errors import IntegrityError
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.licenses import combined_license
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo, check_visibility, is_repo_id
from hf_lorameta.hub.repo_info import BANK_TAG
from hf_lorameta.types import StageProgress, no_progress

COMMIT_FILES = 99
"""Largest number of files that a commit adds and deletes; the Hub recommends fewer than 100."""
COMMIT_BYTES = 4 << 30
"""Approximate size limit of a commit; its shards need as much temporary disk space."""
_INDEX_AND_CARD = 2  # files of the last commit
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class PushedFile:
    """A file to publish.

    Attributes:
        path: in the repo.
        parts: local files, whose contents follow one another in it.
    """

    path: str
    parts: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(part.stat().st_size for part in self.parts)

    def content(self) -> Iterator[bytes]:
        """Yield its content in chunks."""
        for part in self.parts:
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk

    def is_in(self, repo: PinnedRepo) -> bool:
        """Return whether a repo holds a file of this path, size and digest."""
        blob = repo.blobs.get(self.path)
        if blob is None or blob.digest is None or blob.size != self.size:
            return False
        hasher = blob.hasher()
        for chunk in self.content():
            hasher.update(chunk)
        return bool(hasher.hexdigest() == blob.digest)


def push_bank(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    hub: Hub | None = None,
    progress: StageProgress = no_progress,
) -> str:
    """Publish the files that a bank's index lists as a dataset repo; return its URL.

    A bank of fewer than 100 files is one commit. Files of an earlier push that the index no longer
    lists are deleted. If `private` is None an existing repo keeps its visibility; a new one becomes
    private if an adapter or dataset of the bank is, whose names and token counts it holds.
    `progress` is called while files are verified and published.

    Raises:
        BankError: the folder holds no bank, or its adapters cannot be prepared.
        IntegrityError: a file is missing or differs from the index.
        ConflictError: the repo exists with another visibility.
        HubError: the Hub refused.
    """
    bank = Bank(folder)
    problems = verify(bank, partial(progress, "Verifying files"))
    if problems:
        raise IntegrityError(
            f"{folder} is not complete: {problems[0]}",
            code="bank.incomplete",
            hint="build or download the bank again",
        )
    hub = hub or Hub()
    hub.check_token()
    existing = hub.existing(repo_id, "dataset", blobs=True)
    private_entries = bank.index.private_parts
    if existing is not None:
        source = f"{private_entries} entries of the bank are private"
        check_visibility(existing, private, source_private=private_entries > 0, source=source)
    files = _pushed_files(bank)
    published = {INDEX_FILE, *(file.path for file in files)}
    stale = sorted(_bank_files(existing) - published) if existing else []
    card = bank_card(bank, repo_id)
    uploads = _uploads(folder, files, stale, card, existing, progress)
    with closing(uploads):  # so that it cleans up after an error
        return hub.publish(
            uploads,
            repo_id,
            message=f"Bank of adapters for {bank.index.base_model}",
            private=private_entries > 0 if private is None else private,
            parent=existing,
            repo_type="dataset",
        )


def _pushed_files(bank: Bank) -> list[PushedFile]:
    """Return the files of a bank's repo, without index and card."""
    index, folder = bank.index, bank.folder
    shards = adapter_shards(index.entries)
    names = sorted(index.files)
    if not shards:
        names += [adapter_path(entry.name) for entry in index.entries]
    if index.general:
        names.append(adapter_path(index.general.name))
    paths = {TOKENIZER_FILE: bank.verified_file(TOKENIZER_FILE)}
    files = [PushedFile(name, (paths.get(name, folder / name),)) for name in names]
    for shard in shards:
        parts = (folder / adapter_path(entry.name) for entry in shard.entries)
        files.append(PushedFile(shard.name, tuple(parts)))
    return files


def _bank_files(repo: PinnedRepo) -> set[str]:
    """Return the files of a repo that, by their names, a push of a bank wrote.

    Names that are not specific to banks count only if the repo holds a bank.
    """
    files = {path for path in repo.files if is_of_large_bank(path) or is_shard(path)}
    if INDEX_FILE not in repo.files:
        return files
    return files | {
        path
        for path in repo.files
        if path in (*SMALL_FILES, BASIS_FILE) or path == adapter_path(Path(path).stem)
    }


# --- commits --------------------------------------------------------------------------------------


def _uploads(
    folder: Path,
    files: Sequence[PushedFile],
    stale: Sequence[str],
    card: str,
    existing: PinnedRepo | None,
    progress: StageProgress,
) -> Generator[Upload, None, None]:
    """Yield the commits of a push; each expects that the one before was made.

    Args:
        folder: of the bank.
        files: to publish, without index and card.
        stale: paths in the repo to delete.
        card: content of ``README.md``.
        existing: the repo with the digests of its files; None if there is none.
        progress: called while files are compared with the repo's, and after each commit.

    Raises:
        BankError: another command pushes the bank, or shards cannot be written to its folder.
    """
    changed, total = [], len(files)
    for number, file in enumerate(files):
        if existing:
            progress("Comparing files", number, total)
        if not (existing and file.is_in(existing)):
            changed.append(file)
    held = set(existing.files) if existing else set()
    changed.sort(key=lambda file: file.path in held)  # new ones first
    *before, last = _batches(changed)
    if INDEX_FILE in held and any(file.path in held for batch in before for file in batch):
        yield Upload(folder, only=(), delete=[INDEX_FILE])
    done = total - len(changed)
    for batch in before:
        progress("Publishing files", done, total)
        with _staged(folder, batch) as others:
            yield Upload(folder, only=(), others=others)
        done += len(batch)
    progress("Publishing files", done, total)
    room = COMMIT_FILES - _INDEX_AND_CARD - len(last)
    with _staged(folder, last) as others:
        index = (INDEX_FILE,)
        yield Upload(folder, index, others, stale[:room], card)
    for start in range(room, len(stale), COMMIT_FILES):
        yield Upload(folder, (), delete=stale[start : start + COMMIT_FILES])
    progress("Publishing files", total, total)


def _batches(files: Sequence[PushedFile]) -> list[list[PushedFile]]:
    """Divide files into commits, in order; the last has room for more files and may be empty."""
    batches: list[list[PushedFile]] = [[]]
    size = 0
    for file in files:
        size += file.size
        if len(batches[-1]) >= COMMIT_FILES - _INDEX_AND_CARD or (
            batches[-1] and size > COMMIT_BYTES
        ):
            batches.append([])
            size = file.size
        batches[-1].append(file)
    return batches


@contextmanager
def _staged(folder: Path, files: Sequence[PushedFile]) -> Iterator[Mapping[str, Path]]:
    """Provide a commit's local files by their paths in the repo; shards are temporary files."""
    staged = {file.path: file.parts[0] for file in files if len(file.parts) == 1}
    shards = [file for file in files if len(file.parts) > 1]
    if not shards:
        yield staged
        return
    scratch = folder / ".push"
    with locked_scratch(scratch, scratch, "copy the bank to another disk"):
        for number, file in enumerate(shards):
            staged[file.path] = scratch / str(number)
            with staged[file.path].open("wb") as target:
                target.writelines(file.content())
        yield staged


# --- the card -------------------------------------------------------------------------------------


def _metadata(bank: Bank) -> DatasetCardData:
    """Return the metadata by which `hf_lorameta.hub.repo_info.list_banks` finds a bank."""
    index = bank.index
    license_id, license_name = combined_license([index.base_license, *index.licenses])
    return DatasetCardData(
        base_model=index.base_model if is_repo_id(index.base_model) else None,
        license=license_id,
        license_name=license_name,
        tags=["hf-lorameta", BANK_TAG, "lora"],
        hf_lorameta={"adapters": len(bank), "general": index.general is not None},
    )


def bank_card(bank: Bank, repo_id: str) -> str:
    """Return the README of a bank's repo."""
    index = bank.index
    packed = ""
    if packing := index.packing:
        source = f"a bank whose `{INDEX_FILE}` has the SHA-256 `{packing.source}`"
        if packing.source_id:
            source = f"`{packing.source_id}` at commit `{packing.source_revision}`"
        packed = (
            f"It is a pack, made from {source}: its adapters share one basis per module, which "
            f"retains {packing.retained_whole:.1%} of the energy of their updates, and "
            f"{packing.retained_least:.1%} for the adapter that lost most.\n"
        )
    return f"""---
{_metadata(bank).to_yaml()}
---

# A bank of {bank.contents("LoRA adapter")} for `{index.base_model}`

Made with hf-lorameta. `hf-lorameta bank list {repo_id}` lists every adapter with its sources,
commits and license, and what was skipped. Of the datasets, it holds token counts and no text.
{packed}
```
hf-lorameta push --dataset user/dataset --bank {repo_id}
```
"""
