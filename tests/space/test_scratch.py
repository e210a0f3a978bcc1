"""Temporary files of a server: removed when it ends, or by the next one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_space import SPACE

SERVER = """
import tempfile, time
from work.scratch import use_scratch
use_scratch()
tempfile.mkdtemp(prefix="adapter-")
print(flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_files_of_a_server_that_is_ended_do_not_stay(tmp_path: Path, ended_by: int) -> None:
    kept = tmp_path / "adapter-of-another-program"
    kept.mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(SPACE)}

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", SERVER]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        assert [*tmp_path.glob("lm-space-*/adapter-*")]
        return process

    def end(process: "subprocess.Popen[bytes]", number: int) -> int:
        process.send_signal(number)
        process.communicate(timeout=30)
        return process.returncode

    killed = ended_by == signal.SIGKILL
    assert end(start(), ended_by) == (-ended_by if killed else 0)
    assert (len([*tmp_path.iterdir()]) == 2) == killed
    assert end(start(), signal.SIGTERM) == 0
    assert [*tmp_path.iterdir()] == [kept]
