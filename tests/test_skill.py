"""SKILL.md follows the Agent Skills specification, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import hf_lorameta
from hf_lorameta.cli.app import app

TEXT = Path(hf_lorameta.__file__).with_name("SKILL.md").read_text("utf-8")
_, FRONT_MATTER, BODY = TEXT.split("---\n", 2)
FIELDS = yaml.safe_load(FRONT_MATTER)
COMMANDS = re.findall(r"^hf-lorameta .+$", BODY, re.MULTILINE)


def test_front_matter_follows_the_specification() -> None:
    assert TEXT.startswith("---\n")
    assert set(FIELDS) == {"name", "description", "license", "compatibility"}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", FIELDS["name"])
    assert len(FIELDS["name"]) <= 64
    assert 0 < len(FIELDS["description"]) <= 1024
    assert 0 < len(FIELDS["compatibility"]) <= 500
    assert len(TEXT.splitlines()) < 500


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_the_skill_parse(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]  # a Group
    command.make_context(name, arguments)


def test_the_skill_shows_commands() -> None:
    assert len(COMMANDS) >= 8
