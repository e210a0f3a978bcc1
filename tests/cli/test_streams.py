"""Streams that are closed, signals, and encodings that lack what is printed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Built, Shell, rows
from tests.data.shapes import zipped


def shell(
    cli: Shell, redirection: str, *args: object, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection of `sh`."""
    words = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-m", "hf_lorameta"]
    return subprocess.run(
        [*words, *map(str, args)],
        env=cli.env() | env,
        cwd=cli.cwd,
        capture_output=True,
        encoding="latin-1",
        check=False,
    )


def test_closed_streams_do_not_end_a_command(
    cli: Shell, data: Path, bank: Built, tmp_path: Path
) -> None:
    generate = ("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    assert shell(cli, "<&- 2>&-", *generate).stdout == "a\n"
    assert (tmp_path / "a").is_dir()


def test_a_failure_without_a_stream_for_errors_has_its_exit_code(cli: Shell) -> None:
    assert shell(cli, "<&- 2>&-", "plan", "-d", "none.csv").returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("quiet", [(), ("-q",), ("--json",)])
def test_a_log_that_cannot_be_written_costs_no_result(
    cli: Shell, data: Path, bank: Built, tmp_path: Path, quiet: tuple[str, ...]
) -> None:
    command = ("generate", "-d", data, "--bank", bank.folder, *quiet)
    done = shell(cli, "2>/dev/full", *command, "-o", "a")
    assert (done.returncode, bool(done.stdout)) == (0, True)
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
    assert shell(cli, "2>/dev/full", "plan", "-d", "none.csv", *quiet).returncode == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_result_that_cannot_be_printed_is_named(
    cli: Shell, data: Path, bank: Built, json: tuple[str, ...]
) -> None:
    done = shell(cli, ">/dev/full", "plan", "-d", data, "--bank", bank.folder, "-q", *json)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2
    assert "standard output" in done.stderr


def test_what_an_encoding_lacks_is_printed_as_escapes(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    (tmp_path / "n😀.jsonl").write_bytes(rows(1))
    latin = {"PYTHONIOENCODING": "latin-1"}
    generate = ("generate", "-d", "n😀.jsonl", "--bank", bank.folder, "-o", "ä😀")
    done = shell(cli, "", *generate, **latin)
    assert done.stdout == "ä\\U0001f600\n", done.stderr
    assert (tmp_path / "ä😀").is_dir()


INTERRUPTED_WHILE_LOADING = """
import sys
class Interrupting:
    def find_spec(name, *others):
        if name == "hf_lorameta.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting)
from hf_lorameta.cli import main
main([])
"""


def test_an_interruption_while_the_program_loads_has_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted\n")


END_ONCE_UNPACKED = """
import signal, tempfile
from hf_lorameta.data.sources import files
unpack, tempfile.tempdir = files.unpack, {folder!r}
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
def unpack_and_end(*arguments):
    copy = unpack(*arguments)
    copy.stat()
    signal.raise_signal({number})
    return copy
files.unpack = unpack_and_end
"""


@pytest.mark.parametrize("number", [0, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_ends_leaves_no_temporary_files(
    cli: Shell, bank: Built, tmp_path: Path, number: int
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    (tmp_path / "rows.zip").write_bytes(zipped({"rows.jsonl": rows(1)}))
    before = END_ONCE_UNPACKED.format(folder=str(scratch), number=int(number))
    code = 130 if number else 0
    cli("plan", tmp_path / "rows.zip", "--bank", bank.folder, before=before, code=code)
    assert list(scratch.iterdir()) == []
