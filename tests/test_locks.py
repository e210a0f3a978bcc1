"""Waiting for a lock."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hf_lorameta import locks
from hf_lorameta.bank.locked import locked
from hf_lorameta.errors import BankError
from hf_lorameta.locks import waiting_for

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock, until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate("\n")


class Release(logging.Handler):
    """Lets a process release its lock at the first warning."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self.process = process

    def emit(self, record: logging.LogRecord) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs the locks that Linux lists")
def test_a_command_that_waits_for_a_lock_names_who_holds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0.1)
    lock = tmp_path / "a.lock"
    with held_by_another(lock) as process:
        release, logger = Release(process), logging.getLogger(locks.__name__)
        logger.addHandler(release)
        with waiting_for(lock):
            logger.removeHandler(release)
    (record,) = caplog.records
    assert (record.levelname, record.args) == ("WARNING", (f" (process {process.pid})", lock))
    with waiting_for(lock):
        assert len(caplog.records) == 1


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs the locks that Linux lists")
def test_a_bank_that_is_being_written_names_who_writes_it(tmp_path: Path) -> None:
    with (
        held_by_another(tmp_path / "lock") as process,
        pytest.raises(BankError) as caught,
        locked(tmp_path, tmp_path / "bank", ""),
    ):
        pytest.fail("it is locked")
    assert str(process.pid) in str(caught.value)
