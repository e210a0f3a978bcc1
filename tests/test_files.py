"""Atomic writes and digests."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from hf_lorameta.caches import delete_outdated
from hf_lorameta.errors import AdapterError
from hf_lorameta.files import atomic_file, explain, sha256, write_atomically, writing


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"content").hexdigest()


def test_write_replaces_the_file_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_outdated_folder_that_another_command_deletes_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    is_dir = Path.is_dir

    def deleted(path: Path) -> bool:
        found = is_dir(path)
        if path.name == "a":
            path.rmdir()
        return found

    monkeypatch.setattr(Path, "is_dir", deleted)
    assert delete_outdated(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"new", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_sync_or_rename_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "x", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "folder", "expected"),
    [
        (errno.ENOSPC, ".", "free some space"),
        (errno.EACCES, ".", "check the permissions of"),
        (errno.ENOENT, "missing", "create the folder"),
    ],
)
def test_the_hint_after_a_failed_write_names_its_cause(
    tmp_path: Path, code: int, folder: str, expected: str
) -> None:
    error = OSError(code, "failed", tmp_path / folder / "file")
    _, hint = explain(error, "name another file")
    assert str(hint[0]).startswith(expected)
    assert hint[1:] == ["name another file"]


@pytest.mark.parametrize(
    ("code", "taken", "hint"),
    [
        (errno.ENOENT, False, "name another folder, such as ./x"),  # as /proc answers
        (errno.EROFS, False, "name another folder, such as ./x"),
        (errno.EACCES, True, "check the permissions of {above}, or name another folder"),
    ],
)
def test_where_no_folder_can_be_made_one_that_can_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, taken: bool, hint: str
) -> None:
    above, here = tmp_path / "above", tmp_path / "here"
    above.mkdir()
    here.mkdir()
    if taken:
        (here / "x").touch()
    monkeypatch.chdir(here)
    with (
        pytest.raises(AdapterError) as raised,
        writing(above / "x", AdapterError, "name another folder"),
    ):
        raise OSError(code, "failed", str(above / ".x.partial"))
    assert raised.value.hint == hint.format(above=above)
