"""When the files of a bank are hashed."""

import os
from pathlib import Path

import pytest

from hf_lorameta.bank import bank_files
from hf_lorameta.bank.bank_files import BankFiles
from hf_lorameta.errors import IntegrityError
from hf_lorameta.files import sha256
from tests.support.codes import raises_code


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


def test_a_file_is_hashed_once_and_after_it_has_changed(file: Path, hashed: list[Path]) -> None:
    files, digest = BankFiles(file.parent), sha256(file)
    for _ in range(2):
        assert files.verified("weights", digest) == file
    assert hashed == [file]
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    files.verified("weights", digest)
    file.write_bytes(b"contents")
    with raises_code("bank.wrong-checksums"):
        files.verified("weights", digest)
    assert hashed == [file] * 3
    files.store("copy", b"content", digest)
    assert files.verified("copy", digest).read_bytes() == b"content"
    assert hashed == [file] * 3


@pytest.mark.parametrize("digest", ["0" * 64, "", None])
def test_a_wrong_digest_is_never_taken(file: Path, digest: str | None) -> None:
    files = BankFiles(file.parent)
    files.verified("weights", sha256(file))
    for _ in range(2):
        with pytest.raises(IntegrityError):
            files.verified("weights", digest)
