"""The Hub's rules for files: which go to Git LFS, which are ignored, what a new repo contains."""

import fnmatch
import hashlib
from pathlib import PurePosixPath

from hf_lorameta.localhub.blobs import Blob, BlobStore
from hf_lorameta.localhub.history import Entry

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


def is_ignored(path: str, rules: str) -> bool:
    r"""Return whether the rules of a ``.gitignore`` exclude `path`.

    Example:
        >>> is_ignored("logs/run.txt", "logs/\n"), is_ignored("a.tmp", "*.tmp\n!a.tmp")
        (True, False)
    """
    ignored = False
    for line in rules.splitlines():
        rule = line.strip()
        if rule and not rule.startswith("#") and _rule_matches(path, rule.removeprefix("!")):
            ignored = not rule.startswith("!")
    return ignored


def _rule_matches(path: str, rule: str) -> bool:
    folder_only, anchored = rule.endswith("/"), "/" in rule.rstrip("/")
    pattern = rule.strip("/")
    parts = path.split("/")
    for end in range(1, len(parts) if folder_only else len(parts) + 1):
        candidate = "/".join(parts[:end]) if anchored else parts[end - 1]
        if fnmatch.fnmatchcase(candidate, pattern):
            return True
    return False


def entry_for(store: BlobStore, path: str, blob: Blob) -> Entry:
    """Return the entry for committing a stored blob at `path`."""
    with store.open(blob.sha256) as file:
        if is_lfs(path, blob.size, file.read(SAMPLE_SIZE)):
            return lfs_entry(blob)
    return Entry(blob.sha256, blob.size, store.git_oid(blob), lfs=False)


def lfs_entry(blob: Blob) -> Entry:
    """Return the entry of a file in Git LFS; its git id is the id of the pointer file."""
    pointer = blob.lfs_pointer
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False)
    return Entry(blob.sha256, blob.size, oid.hexdigest(), lfs=True)
