"""Which files the Hub wants as large files, which it ignores, and what a new repo holds."""

import fnmatch
from pathlib import PurePosixPath

from hf_lorameta.localhub import blobs
from hf_lorameta.localhub.history import Entry

REGULAR_LIMIT = 10 << 20  # larger files are always large files

LFS_PATTERNS = (
    *("*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5"),
    *("*.joblib", "*.mlmodel", "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot"),
    *("*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar", "*.safetensors"),
    *("*.tar", "*.tar.*", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst"),
)


def gitattributes() -> bytes:
    """Returns the ``.gitattributes`` every new repo starts with."""
    lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text" for pattern in LFS_PATTERNS]
    return ("\n".join(lines) + "\n").encode()


def is_large(path: str, size: int, sample: bytes = b"") -> bool:
    """Says whether a file is kept as a large file: by its name, its size, or binary content.

    Example:
        >>> is_large("model.safetensors", 10), is_large("a.json", 10), is_large("x", 1 << 30)
        (True, False, True)
    """
    if size == 0:
        return False
    name = PurePosixPath(path).name
    by_name = any(fnmatch.fnmatchcase(name, pattern) for pattern in LFS_PATTERNS)
    return by_name or size > REGULAR_LIMIT or b"\0" in sample


def ignored(path: str, rules: str) -> bool:
    """Says whether the rules of a ``.gitignore`` leave `path` out.

    Example:
        >>> ignored("logs/run.txt", "logs/\\n"), ignored("a.tmp", "*.tmp\\n!a.tmp")
        (True, False)
    """
    verdict = False
    for line in rules.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        negated = rule.startswith("!")
        if _rule_matches(path, rule.removeprefix("!")):
            verdict = not negated
    return verdict


def _rule_matches(path: str, rule: str) -> bool:
    folder_only, anchored = rule.endswith("/"), "/" in rule.rstrip("/")
    pattern = rule.strip("/")
    parts = path.split("/")
    ends = range(1, len(parts) if folder_only else len(parts) + 1)
    for end in ends:
        candidate = "/".join(parts[:end]) if anchored else parts[end - 1]
        if fnmatch.fnmatchcase(candidate, pattern):
            return True
    return False


def entry_for(store: blobs.BlobStore, path: str, blob: blobs.Blob) -> Entry:
    """Returns the entry under which a stored blob is committed at `path`."""
    sample = next(store.chunks(blob.sha256, 0, min(512, blob.size)), b"")
    if is_large(path, blob.size, sample):
        return large_entry(blob)
    return Entry(blob.sha256, blob.size, blobs.git_oid(store, blob), lfs=False)


def large_entry(blob: blobs.Blob) -> Entry:
    """Returns the entry of a large file: git holds its pointer."""
    return Entry(blob.sha256, blob.size, blobs.pointer_oid(blob), lfs=True)
