"""Paths that can be no files, a working directory that is gone, and names of 255 bytes."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Built, Shell


@pytest.mark.parametrize("output", ["loop", "loop/adapter"])
def test_an_output_in_a_loop_of_links_is_refused_before_the_work(
    cli: Shell, data: Path, tmp_path: Path, bank: Built, output: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    done = cli("generate", "-d", data, "--bank", bank.folder, "-o", output, code=2)
    assert f"Error: {output} leads into" in done.err
    assert "Combined" not in done.err
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    done = cli("bank", "build", manifest, "-o", output, code=2)
    assert f"Error: {output} leads into" in done.err


def test_a_working_directory_that_was_deleted_is_named(
    cli: Shell, data: Path, tmp_path: Path, bank: Built
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    cli.cwd = gone
    leave = f"import os; os.rmdir({str(gone)!r})"
    for words in (
        ("generate", "-d", data, "--bank", bank.folder, "-o", "out"),
        ("plan", "-d", data, "--bank", bank.folder),
    ):
        done = cli(*words, code=2, before=leave)
        assert "Next:  change to a folder" in done.err
        gone.mkdir()


def test_a_name_that_is_too_long_is_refused(cli: Shell, data: Path, bank: Built) -> None:
    long = "n" * 256
    for words in (
        ("plan", "-d", long),
        ("plan", "-d", f"{long}.jsonl"),
        ("plan", "-d", data, "--bank", long),
        ("generate", "-d", data, "--bank", bank.folder, "-o", long),
        ("inspect", long),
    ):
        done = cli(*words, code=2)
        assert "File name too long" in done.err.replace(".jsonl", "")
        assert "Next:  use a shorter name" in done.err


def test_the_home_of_an_unknown_user_is_no_folder(cli: Shell, data: Path) -> None:
    for words in (
        ("plan", "-d", "~no-such-user/rows.csv"),
        ("plan", "-d", data, "--bank", "~no-such-user/bank"),
        ("inspect", "~no-such-user/adapter"),
    ):
        done = cli(*words, code=None)
        assert done.code != 1, "that of a bug"
        assert "Error: ~no-such-user/" in done.err


def test_an_output_in_the_home_folder_is_written_where_it_is_read(
    cli: Shell, data: Path, bank: Built
) -> None:
    home = cli.home / "of user"
    at_home = f"import os; os.environ['HOME'] = {str(home)!r}"
    generate = ("generate", "-d", data, "--bank", bank.folder, "--output=~/a")
    assert cli(*generate, before=at_home).out == f"{home / 'a'}\n"
    assert cli("merge", "~/a:1", "--output=~/m", before=at_home).out == f"{home / 'm'}\n"
    cli("inspect", "~/m", before=at_home)
    assert not (cli.cwd / "~").exists()


def test_names_of_255_bytes_are_written_and_read(
    cli: Shell, data: Path, tmp_path: Path, bank: Built
) -> None:
    name = "ö" * 124 + "n.jsonl"
    assert len(os.fsencode(name)) == 255
    shutil.copy(data, tmp_path / name)
    folder, manifest = "a" * 255, "c" * 250 + ".yaml"
    generate = ("generate", "-d", name, "--bank", bank.folder)
    assert cli(*generate, "-o", folder).out == f"{folder}\n"
    cli(*generate, "-o", folder, "--overwrite", "--rank", 1)
    cli("bank", "build", bank.owner.manifest(tmp_path / manifest), "-o", "b" * 255)
    cli("bank", "pack", "b" * 255, "-o", "p" * 255)
    cli("plan", "-d", name, "--bank", "p" * 255)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_or_a_device_is_refused_at_once(cli: Shell, tmp_path: Path, bank: Built) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    os.mkfifo(tmp_path / "rows")
    for name in ("rows.jsonl", "./rows", "/dev/zero"):
        done = cli("plan", "-d", name, "--bank", bank.folder, code=3)
        assert f"Error: {Path(name)} " in done.err
    entry = bank.owner.entries[0] | {"dataset": "./rows.jsonl"}
    bank.owner.manifest(tmp_path / "m.json", [entry])
    done = cli("bank", "build", "m.json", "-o", "b", code=4)
    assert "rows is a pipe" in done.err
