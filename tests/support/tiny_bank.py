"""A bank for a tiny random base model, which is trained once per test run."""

import tempfile
from pathlib import Path

from hf_lorameta import Bank
from tests.support.once_per_run import once
from tests.training import tiny


def tiny_bank() -> Bank:
    """Open the bank; its base model is a folder on this machine. Tests must not change it."""
    return Bank(Path(once("tiny-bank", _train).read_text()))


def _train(file: Path) -> None:
    """Write the path of the bank, which has to stay where it was trained: it names its base."""
    folder = file.parent
    trained = tiny.write_bank(lambda name: Path(tempfile.mkdtemp(prefix=name, dir=folder)))
    file.write_text(str(trained.folder))
