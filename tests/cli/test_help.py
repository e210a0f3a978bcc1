"""Every command explains itself, and the guide names every method."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import hf_lorameta.method
from hf_lorameta.cli.app import app
from hf_lorameta.recipe import REGISTRIES

GUIDE = Path(hf_lorameta.method.__file__).with_name("README.md").read_text("utf-8")


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of a command and of all below it."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="hf-lorameta")
    assert result.exit_code == 0, result.output
    usage, _, text = result.output.strip().partition("\n")
    assert usage.startswith(" ".join(["Usage: hf-lorameta", *words]))
    assert text.strip().partition("\n")[0].strip(" .")


@pytest.mark.parametrize("field", list(REGISTRIES))
def test_the_guide_names_every_method(field: str) -> None:
    missing = [name for name in REGISTRIES[field] if f"| `{name}` |" not in GUIDE]
    assert missing == []


def test_the_help_says_which_rows_are_trained_on_if_none_are_counted() -> None:
    result = CliRunner().invoke(app, ["generate", "--help"], prog_name="hf-lorameta")
    [help_text] = " ".join(result.output.split()).split("--no-check ")[1:]
    assert "all rows" in help_text.split(" --")[0]
