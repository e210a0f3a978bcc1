"""SKILL.md follows the Agent Skills specification, and what it says of commands and bases holds."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

import hf_lorameta
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cli.app import app
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.pipeline.budget import DEFAULT_BUDGET, budget_seconds
from hf_lorameta.pipeline.verdict import verdict_on
from tests.cards.examples import checked
from tests.tools.skill_commands import END, START, with_commands

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


def test_the_commands_in_the_skill_are_those_of_their_own_help() -> None:
    assert with_commands(TEXT) == TEXT, "run python -m tests.tools.skill_commands"
    shown = TEXT.partition(START)[2].partition(END)[0]
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # a Group
        assert f"\n### {name}" in shown
        for inner in getattr(command, "commands", {}):
            assert f"`{name} {inner}`" in shown
    for option in ("--base", "--budget", "--dry-run", "--from", "--shots"):
        assert f"- `{option}`: " in shown


def test_options_in_the_text_of_the_skill_exist() -> None:
    group = typer.main.get_command(app)
    named = set(re.findall(r"--[a-z][a-z-]+", BODY.replace("$HF_TOKEN", "")))
    parameters = [p for c in group.commands.values() for p in c.params]  # type: ignore[attr-defined]
    known = {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}
    assert named <= known | {"--debug"}  # which `main` reads itself


def test_the_skill_names_the_banks_in_the_package() -> None:
    default, *others = EMBEDDED
    (base,) = re.findall(r"By default `(.+?)`, with a bank of", BODY)
    assert base == default
    assert f"with a bank of {len(embedded_bank())} adapters" in BODY
    assert sorted(set(re.findall(r"`(Qwen/.+?)`", BODY))) == sorted(others)
    assert all(len(embedded_bank(name)) == 0 for name in others), "a general adapter alone"


def test_the_skill_states_the_verdicts_and_the_default_time() -> None:
    right = {"generated": 12, "base": 2, "3-shot": 9}
    helps, fails = checked(right), checked(right | {"generated": 1})
    for check in (helps, None, fails):
        verdict = re.split(":| until", verdict_on(check).text)[0]
        assert f"**{verdict}**" in BODY
    advised = verdict_on(fails).option
    assert advised
    assert f"--budget {advised.value}" in BODY
    assert "two minutes by default" in BODY
    assert budget_seconds("2m") == DEFAULT_BUDGET


def test_the_guide_for_coding_agents_is_short_and_its_links_lead_somewhere() -> None:
    path = Path(__file__).parents[1] / ".github" / "AGENTS.md"
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 40
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) >= 8
    assert [link for link in links if not (path.parent / link).exists()] == []
