"""The cache of verified digests: when files are hashed again, and damaged or unwritable caches."""

import json
import os
from pathlib import Path

import pytest

from hf_lorameta.bank import bank_files
from hf_lorameta.bank.bank_files import ChecksumCache
from hf_lorameta.files import sha256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, in order."""
    paths: list[Path] = []

    def recorded(path: Path) -> str:
        paths.append(path)
        return sha256(path)

    monkeypatch.setattr(bank_files, "sha256", recorded)
    return paths


def test_verified_file_is_hashed_once(file: Path, hashed: list[Path]) -> None:
    digest, store = sha256(file), file.parent / "work" / "seen.json"
    for _ in range(2):  # the second cache reads what the first has saved
        cache = ChecksumCache(store)
        assert cache.verify("a", file, digest)
        assert cache.verify("a", file, digest)
        cache.save()
    assert hashed == [file]
    assert json.loads(store.read_bytes()) == {"a": [7, file.stat().st_mtime_ns, digest]}


def test_recorded_file_is_not_hashed(file: Path, hashed: list[Path]) -> None:
    cache = ChecksumCache(file.parent / "seen.json")
    cache.record("a", file, sha256(file))
    assert cache.verify("a", file, sha256(file))
    assert hashed == []


def test_changed_file_is_hashed_again(file: Path, hashed: list[Path]) -> None:
    cache, digest = ChecksumCache(file.parent / "seen.json"), sha256(file)
    assert cache.verify("a", file, digest)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cache.verify("a", file, digest)
    file.write_bytes(b"contents")
    assert not cache.verify("a", file, digest)
    assert hashed == [file] * 3


@pytest.mark.parametrize("digest", ["0" * 64, "", None])
def test_wrong_digest_is_never_cached(file: Path, digest: str | None) -> None:
    store = file.parent / "seen.json"
    cache = ChecksumCache(store)
    assert not cache.verify("a", file, digest)
    assert not cache.verify("a", file, digest)
    cache.save()
    assert not store.exists()


def test_saving_keeps_earlier_entries(file: Path) -> None:
    store, digest = file.parent / "seen.json", sha256(file)
    for name in ("a", "b"):
        cache = ChecksumCache(store)
        cache.record(name, file, digest)
        cache.save()
    assert set(json.loads(store.read_bytes())) == {"a", "b"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 200_000])
def test_damaged_cache_is_ignored(file: Path, content: bytes) -> None:
    store = file.parent / "seen.json"
    store.write_bytes(content)
    cache = ChecksumCache(store)
    assert cache.verify("a", file, sha256(file))
    cache.save()
    assert set(json.loads(store.read_bytes())) == {"a"}


def test_cache_that_cannot_be_written_is_not_an_error(file: Path) -> None:
    cache = ChecksumCache(file / "seen.json")  # its folder is a file
    assert cache.verify("a", file, sha256(file))
    cache.save()
    assert file.read_bytes() == b"content"
