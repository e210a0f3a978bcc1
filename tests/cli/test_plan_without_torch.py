"""A plan needs no extra, whatever `generate` would do; it says what has to be installed."""

from pathlib import Path

import pytest

from tests.bank.test_open_bank import write_base
from tests.support.shell import Shell

WITHOUT_TORCH = """
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.pipeline import resolve

def fail():
    raise MissingExtraError("torch is not installed", hint="pip install torch")

resolve.require_eval = fail
"""


@pytest.mark.parametrize(
    "options", [("--bank", "none", "--base", "base"), ("--budget", "60s"), ("--train", 8)]
)
def test_a_plan_is_made_without_the_extra_that_training_needs(
    cli: Shell, data: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    write_base(tmp_path / "base")
    command = ("--dataset", data, *options)
    planned = cli("plan", *command, before=WITHOUT_TORCH)
    last = planned.out.splitlines()[-1]
    assert last.startswith("generate will train on ")
    assert last.endswith("pip install torch")
    refused = cli("generate", *command, "-o", "a", before=WITHOUT_TORCH, code=7)
    assert "torch is not installed" in refused.err
