"""The guides' commands for Hugging Face Jobs, as the Hub's client and this package parse them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from hf_lorameta.cli.app import app

ROOT = Path(__file__).parents[2]
GUIDES = ("README.md", "hf_lorameta/bank/README.md")


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_s_command_for_a_job_is_accepted(
    guide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--dry-run`` of the client resolves a job without a request to the Hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = (ROOT / guide).read_text("utf-8").replace("\\\n", "")
    [command] = re.findall(r"^ *(hf jobs uv run .+)", text, re.MULTILINE)
    words = shlex.split(command)
    hf = [sys.executable, "-m", "huggingface_hub.cli.hf", *words[1:4], "--dry-run"]
    done = subprocess.run([*hf, *words[4:]], capture_output=True, check=True, text=True)
    assert {"HF_TOKEN", "hf-lorameta[eval]"} <= set(re.split(r"[\s=]+", done.stdout))
    assert "hf_secret" not in done.stdout + done.stderr
    inner = words[words.index("hf-lorameta") + 1 :]
    parsed = typer.main.get_command(app)
    while name := getattr(parsed, "commands", {}).get(inner[0]):
        parsed, inner = name, inner[1:]
    assert parsed.make_context("hf-lorameta", list(inner)).params
