"""Generated parts of README files: ``python -m tests.help_blocks`` writes them anew.

``<!-- help: bank build -->`` starts the output of that command's ``--help`` in a text fence, and
``<!-- methods: METRICS -->`` a table of that registry. Both end with ``<!-- end -->``.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

from typer.testing import CliRunner

import hf_lorameta
from tests.benchmarks.tables import markdown_table

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"<!-- (?P<kind>help|methods): (?P<name>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL
)


def readme_files() -> list[Path]:
    """Return the Markdown files of the repository."""
    names = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    return [ROOT / name for name in names]


def blocks(text: str) -> list[str]:
    """Return the names of the generated parts of a text."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def help_of(command: str) -> str:
    """Return the output of ``hf-lorameta COMMAND --help``, 80 columns wide."""
    from hf_lorameta.cli.app import app

    result = CliRunner().invoke(
        app, [*shlex.split(command), "--help"], prog_name="hf-lorameta", env={"COLUMNS": "80"}
    )
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def methods_of(registry: str) -> str:
    """Return a registry of `hf_lorameta` as a Markdown table."""
    rows = getattr(hf_lorameta, registry).values()
    cells = [[f"`{row.name}`", row.title, row.reference] for row in rows]
    return markdown_table(["name", "method", "reference"], cells)


def updated(text: str) -> str:
    """Return a text with its generated parts written anew."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if match["kind"] == "methods":
            content = f"\n{methods_of(name)}\n"
        else:
            content = f"```text\n{help_of(name)}\n```"
        return f"<!-- {match['kind']}: {name} -->\n{content}\n<!-- end -->"

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
