"""Files in commits, and the Hub's rules for which go to Git LFS, and what a new repo contains."""

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A file in a commit."""

    sha256: str  # key of the contents in `HubState.blobs`
    size: int
    oid: str  # git id of the file


def git_oid(data: bytes) -> str:
    """Return the id that git gives to a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


Tree = Mapping[str, Entry]
Changes = Mapping[str, Entry | None]  # None: the path is deleted


class LfsEntry(Entry):
    """A file in Git LFS; `oid` is the git id of its pointer file."""


REGULAR_LIMIT = 10 << 20  # larger files always go to Git LFS
SAMPLE_SIZE = 512

LFS_PATTERNS = (
    *("*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5"),
    *("*.joblib", "*.mlmodel", "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot"),
    *("*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar", "*.safetensors"),
    *("*.tar", "*.tar.*", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst"),
)
_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"
GITATTRIBUTES = "".join(f"{pattern} {_ATTRIBUTES}\n" for pattern in LFS_PATTERNS).encode()


def is_lfs(path: str, size: int, sample: bytes = b"", attributes: str = "") -> bool:
    """Return whether a file goes to Git LFS: because of its name, its size or binary content.

    `attributes` are the rules of a ``.gitattributes``, in addition to those of a new repo.

    Example:
        >>> is_lfs("model.safetensors", 10), is_lfs("a.json", 10), is_lfs("x", 1 << 30)
        (True, False, True)
    """
    name = PurePosixPath(path).name
    lines = map(str.split, attributes.splitlines())
    own = [line[0] for line in lines if "filter=lfs" in line[1:]]
    by_name = any(fnmatch.fnmatchcase(name, pattern) for pattern in (*LFS_PATTERNS, *own))
    return size > 0 and (by_name or size > REGULAR_LIMIT or b"\0" in sample)


def entry_for(path: str, data: bytes) -> Entry:
    """Return the entry for committing a file at `path`."""
    if is_lfs(path, len(data), data[:SAMPLE_SIZE]):
        return lfs_entry(hashlib.sha256(data).hexdigest(), len(data))
    return Entry(hashlib.sha256(data).hexdigest(), len(data), git_oid(data))


def lfs_entry(sha256: str, size: int) -> "LfsEntry":
    """Return the entry of a file in Git LFS; its git id is the id of the pointer file."""
    return LfsEntry(sha256, size, git_oid(lfs_pointer(sha256, size)))


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the pointer file that git stores for a file in Git LFS."""
    version = "version https://git-lfs.github.com/spec/v1"
    return f"{version}\noid sha256:{sha256}\nsize {size}\n".encode()


def add_lfs(items: list[dict[str, Any]], tree: Tree, digest: str) -> None:
    """Add to files in the format of the API what it states of those in Git LFS.

    `digest` is the name of their SHA-256 there.
    """
    for item in items:
        entry = tree.get(item.get("path") or item["rfilename"])
        if isinstance(entry, LfsEntry):
            pointer_size = len(lfs_pointer(entry.sha256, entry.size))
            item["lfs"] = {digest: entry.sha256, "size": entry.size, "pointerSize": pointer_size}
