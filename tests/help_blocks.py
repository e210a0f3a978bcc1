"""Help texts of commands in README files: ``python -m tests.help_blocks`` writes them anew.

A block starts with ``<!-- help: bank build -->``, holds the output of that command's ``--help`` in
a text fence, and ends with ``<!-- end -->``.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"<!-- help: (?P<command>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL)


def readme_files() -> list[Path]:
    """Return the Markdown files of the repository."""
    names = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    return [ROOT / name for name in names]


def commands(text: str) -> list[str]:
    """Return the commands whose help a text shows."""
    return [match["command"] for match in _BLOCK.finditer(text)]


def help_of(command: str) -> str:
    """Return the output of ``hf-lorameta COMMAND --help``, 80 columns wide."""
    from hf_lorameta.cli.app import app

    result = CliRunner().invoke(
        app, [*shlex.split(command), "--help"], prog_name="hf-lorameta", env={"COLUMNS": "80"}
    )
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def updated(text: str) -> str:
    """Return a text with its help blocks written anew."""

    def block(match: re.Match[str]) -> str:
        command = match["command"]
        return f"<!-- help: {command} -->\n```text\n{help_of(command)}\n```\n<!-- end -->"

    return _BLOCK.sub(block, text)


def main() -> None:
    """Write all blocks anew."""
    os.environ["COLUMNS"] = "80"
    for path in readme_files():
        text = path.read_text(encoding="utf-8")
        if updated(text) != text:
            path.write_text(updated(text), encoding="utf-8")


if __name__ == "__main__":
    main()
