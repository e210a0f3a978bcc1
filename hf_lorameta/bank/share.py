"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

import json
from pathlib import Path

from hf_lorameta.bank.bank import Bank, _open_folder
from hf_lorameta.bank.index import (
    BASIS_FILE,
    DISTANCES_FILE,
    INDEX_FILE,
    NEURAL_FILE,
    ORIGIN_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    adapter_path,
)
from hf_lorameta.errors import (
    BankError,
    IntegrityError,
)
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.visibility import check_visibility

# --- the Hub ------------------------------------------------------------------------------------


def push_bank(
    folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Publish a built bank as a dataset repo, in one commit.

    Args:
        folder: the bank; what its index does not list stays here.
        repo_id: dataset repo, ``user/name``.
        private: None makes a public repo, or a private one if an adapter or dataset of the bank
            is private (their names and token counts are in it), and respects one that exists.
        token: None uses the saved one.

    Returns:
        The repo's URL.

    Raises:
        IntegrityError: the bank is not whole.
        ConflictError: the repo exists and has another visibility.
        HubError: the Hub refused.
    """
    opened = Bank(folder)
    problems = opened.verify()
    if problems:
        raise IntegrityError(
            f"{folder} is not whole: {problems[0]}", hint=f"hf-lorameta bank verify {folder}"
        )
    connection = Hub(token)
    connection.user()
    existing = connection.existing(repo_id, "dataset")
    secret = [entry.name for entry in opened.index.entries if entry.private]
    if existing is not None:
        check_visibility(
            existing,
            private,
            source_private=bool(secret),
            source=f"{len(secret)} entries of the bank are private",
        )
    listed = [INDEX_FILE, "README.md", *opened.index.files]
    write_atomically(folder / "README.md", bank_card(opened, repo_id).encode())
    return connection.publish(
        folder,
        repo_id,
        message=f"Bank of {len(opened)} adapters for {opened.index.base_model}",
        private=bool(secret) if private is None else private,
        parent=existing,
        repo_type="dataset",
        only=[*listed, *(adapter_path(entry.name) for entry in opened.index.entries)],
    )


def pull_bank(
    repo_id: str,
    folder: Path,
    *,
    revision: str | None = None,
    everything: bool = False,
    token: str | None = None,
) -> Bank:
    """Bring a bank repo here: index, tokenizer and profiles now, adapters when they are needed.

    Args:
        repo_id: dataset repo made by `push_bank`.
        folder: target; may hold an earlier pull, which is then brought to this revision.
        revision: branch, tag or commit.
        everything: fetch the adapters too.
        token: None uses the saved one.

    Raises:
        BankError: the folder holds a bank that was built here.
        IntegrityError: a file differs from its checksum in the index.
        HubError: the repo is missing or out of reach.
    """
    origin = folder / ORIGIN_FILE
    if (folder / INDEX_FILE).exists() and not origin.exists():
        raise BankError(f"{folder} holds a bank built here", hint="name another folder with -o")
    connection = Hub(token)
    repo = connection.resolve(repo_id, "dataset", revision, blobs=True)
    if INDEX_FILE not in repo.files:
        raise BankError(f"{repo_id} is not a bank: it holds no {INDEX_FILE}")
    try:
        opened = _fetch(connection, repo, folder, token)
    except OSError as error:
        raise BankError(
            f"{folder} could not be written: {error.strerror or error}",
            hint="free some space or name another folder with -o",
        ) from None
    _drop_stale(opened)
    try:
        for name in set(opened.index.files) - {BASIS_FILE}:
            opened.verified_file(name)
        if everything:
            opened.adapters()
            _ = opened.basis
        problems = opened.verify()
    except IntegrityError:
        _drop_stale(opened)
        raise
    if problems:
        raise IntegrityError(f"{folder}: {problems[0]}", hint="run the same command again")
    return opened


def _fetch(connection: Hub, repo: PinnedRepo, folder: Path, token: str | None) -> Bank:
    folder.mkdir(parents=True, exist_ok=True)
    origin = folder / ORIGIN_FILE
    # the origin first and the index last: whenever this is cut off, the same command mends it
    write_atomically(origin, json.dumps({"repo_id": repo.repo_id, "sha": repo.sha}).encode())
    for name in (name for name in _SMALL if name in repo.files):
        connection.download(repo, name, local_dir=folder)
    try:
        return _open_folder(folder, token)
    except BankError:
        (folder / INDEX_FILE).unlink()  # or the client would take it for what it fetched
        raise


_SMALL = (
    PROFILES_FILE, TOKENIZER_FILE, NEURAL_FILE, DISTANCES_FILE,
    INDEX_FILE,
)  # fmt: skip


def _drop_stale(opened: Bank) -> None:
    """Remove files of an earlier revision, or come damaged, so that they are fetched anew."""
    wanted = {adapter_path(entry.name): entry.sha256 for entry in opened.index.entries}
    wanted |= {BASIS_FILE: ""} | opened.index.files
    for name, digest in wanted.items():
        path = opened.folder / name
        if path.exists() and sha256(path) != digest:
            path.unlink()


def bank_card(opened: Bank, repo_id: str) -> str:
    """README of a bank's repo."""
    index = opened.index
    licenses = sorted({entry.license or "unknown" for entry in index.entries})
    packed = ""
    if index.packing:
        packing = index.packing
        source = f"a bank whose `bank.json` has the SHA-256 `{packing.source}`"
        if packing.source_id:
            source = f"`{packing.source_id}` at commit `{packing.source_revision}`"
        packed = (
            f"It is a pack, made by `hf-lorameta bank pack` from {source}: the adapters lie in a "
            f"basis that all share (`{BASIS_FILE}`), which keeps "
            f"{packing.retained_whole:.1%} of the energy of their updates, "
            f"{packing.retained_least:.1%} of the adapter that lost most.\n"
        )
    return f"""---
tags:
- hf-lorameta
- lora
---

# A bank of {len(opened)} LoRA adapters for `{index.base_model}`

Made by `hf-lorameta bank build`; each adapter stands beside the token histogram of the dataset it
was trained on (no text). `bank.json` lists every source with its commit, checksum and license
({", ".join(licenses)}); {len(index.skipped)} entries of the manifest were skipped, with reasons
there.
{packed}
```
hf-lorameta push --dataset user/dataset --bank {repo_id}
```
"""
