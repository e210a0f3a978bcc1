"""The choices of the command line are the methods of the registries."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from hf_lorameta._version import __version__
from hf_lorameta.cli.app import _hint, app
from hf_lorameta.errors import Advice, Option, UsageError
from hf_lorameta.pipeline.request import Request
from hf_lorameta.recipe import REGISTRIES
from tests.conftest import Built, Shell

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["plan", "generate", "push"])
def test_every_field_of_a_request_is_an_option_with_its_description(command: str) -> None:
    helps = {
        parameter.name: getattr(parameter, "help", "") for parameter in COMMANDS[command].params
    }
    for name, field in Request.model_fields.items():
        assert helps[name] == field.description


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("push a", "add --base FOLDER, or add --public, or wait"),
        ("evaluate a", "add --base FOLDER, or wait"),
        ("bank push a --repo-id b", "add --public, or wait"),
        ("bank verify a", "wait"),
        ("", "wait"),
    ],
)
def test_options_that_a_command_lacks_are_not_advised(arguments: str, hint: str) -> None:
    advice: list[Advice] = [Option("base", "FOLDER"), Option("private", False), "wait"]
    assert _hint(UsageError("x", hint=advice), arguments.split()) == hint


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rank", 513, "rank must be at least 1 and at most 512"),
        ("--train", "x", "Error: Invalid value for '--train': must be a valid integer"),
        ("--steps", "24,12", "Error: Invalid value for '--steps': must be a valid integer"),
        *((f"--{name}", "new", f"Error: Invalid value for '--{name}': 'new' is not one of "
           + ", ".join(f"'{method}'" for method in methods))
          for name, methods in REGISTRIES.items()),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_before_any_request(
    cli: Shell, option: str, value: object, message: str
) -> None:
    shown = cli("plan", "-d", "user/name", option, value, code=2).err
    assert message in " ".join(shown.split())
    assert cli.hub.requests == []


def test_every_command_that_reads_the_hub_has_a_token_option() -> None:
    groups = {
        name: group.commands for name, group in COMMANDS.items() if hasattr(group, "commands")
    }
    commands = {name: c for name, c in COMMANDS.items() if name not in groups}
    for group, members in groups.items():
        commands |= {f"{group} {name}": command for name, command in members.items()}
    without = {n for n, c in commands.items() if "token" not in {p.name for p in c.params}}
    assert without == {"demo", "bank train-rule", "bank verify"}


def test_the_version_is_printed(cli: Shell) -> None:
    assert cli("--version").out == f"hf-lorameta {__version__}\n"


def test_a_dataset_is_an_argument_or_an_option(cli: Shell, bank: Built, data: Path) -> None:
    plan = ("plan", "--bank", bank.folder, "--json")
    assert cli(*plan, data).json == cli(*plan, "-d", data).json
    assert cli(*plan, data, "-d", "user/other", code=2).err


def test_several_files_that_are_named_are_one_dataset(cli: Shell, bank: Built, data: Path) -> None:
    (cli.cwd / "more.jsonl").write_bytes(data.read_bytes())
    plan = ("plan", "--bank", bank.folder, "--json")
    rows = cli(*plan, data).json["dataset"]["rows"]
    for names in ((data, "more.jsonl"), ("-d", data, "-d", "more.jsonl"), ("-d", "*.jsonl", data)):
        assert cli(*plan, *names).json["dataset"]["rows"] == 2 * rows


def test_a_plan_says_what_is_done_with_the_base_model(cli: Shell, bank: Built, data: Path) -> None:
    plan = ("plan", "--bank", bank.folder, data)
    assert "skip training" in cli(*plan).out.splitlines()[-1]
    within = cli(*plan, "--budget", "60s", "--no-check", "--json").json["next"]
    assert "up to 60 s" in within
    many = "".join(f'{{"input": "It is {n}.", "output": "{n % 3}"}}\n' for n in range(2100))
    (cli.cwd / "many.jsonl").write_text(many)
    in_time = cli("plan", "--bank", bank.folder, "many.jsonl", "--budget", "60s", "--no-check").out
    drawn = "2,000 of 2,100 rows are drawn to train on, as many of them as time allows"
    assert in_time.endswith(f"; {drawn}: --budget 2m for more\n")


INTERRUPTED = """
import hf_lorameta.pipeline.adapter_folder as adapter_folder
def locate_adapter(*_, **__):
    error = KeyboardInterrupt()
    error.add_note("the adapter is kept, resume with: hf-lorameta push --from a")
    raise error
adapter_folder.locate_adapter = locate_adapter
"""


def test_an_interrupted_command_says_how_to_resume(cli: Shell) -> None:
    stopped = cli("inspect", "a", before=INTERRUPTED, code=130)
    assert "resume with: hf-lorameta push --from a" in stopped.err
    without_note = INTERRUPTED.replace("    error.add_note", "    str")
    assert cli("inspect", "a", before=without_note, code=130).err == "Interrupted\n"
    unsaved = "Interrupted: nothing was saved. Run it again\n"
    assert cli("export", "a", before=without_note, code=130).err == unsaved


def test_control_characters_of_a_dataset_do_not_reach_the_terminal(cli: Shell) -> None:
    (cli.cwd / "rows.csv").write_text("a\x1b]0;title\x07b,c\n1,2\n3,4\n")
    assert "\x1b" not in cli("plan", "rows.csv", code=3).err
    (cli.cwd / "rows.jsonl").write_text('{"text": "a\\u001b]0;title\\u0007 b"}\n')
    shown = cli("plan", "rows.jsonl", "--debug").err
    assert "title" in shown
    assert "\x1b" not in shown


def test_errors_are_json_where_results_are(cli: Shell) -> None:
    failed = cli("plan", "missing.jsonl", "--json", code=3)
    assert failed.json["error"] == {
        "type": "DatasetError",
        "code": "file.not-found",
        "message": "missing.jsonl: no such file",
        "hint": "name a file, or a Hub id: user/name",
        "exit_code": 3,
    }
    assert cli("plan", "missing.jsonl", code=3).out == ""
    wrong = cli("try", "adapter", "a prompt", "--json", code=2)
    assert wrong.json["error"]["hint"] == "put the prompt after --prompt"
    assert wrong.err.endswith("Next:  put the prompt after --prompt\n")
    named = cli("try", "--unexpected extra argument", "--json", code=2)
    assert named.json["error"]["hint"] == "hf-lorameta try --help"
    bare = cli("try", "adapter", "--json", "--prompt", code=2)
    assert bare.json["error"]["message"] == "Option '--prompt' requires an argument."
    assert bare.err.endswith("Next:  hf-lorameta try --help\n")
    early = cli("bank", "--json", "list", code=2)
    assert early.json["error"]["hint"] == "put --json after hf-lorameta bank list"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("generate rows.csv -o a --train x", "hf-lorameta generate"),
        ("plan -d", "hf-lorameta plan"),
        ("bank list a --nothing", "hf-lorameta bank list"),
        ("nothing", "hf-lorameta"),
        ("--nothing", "hf-lorameta"),
    ],
)
def test_an_error_about_options_names_the_help(cli: Shell, arguments: str, command: str) -> None:
    shown = cli(*arguments.split(), code=2).err
    assert shown.endswith(f"Next:  {command} --help\n")
    assert "for help" not in shown  # which names it twice


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("evalute 'my adapter' --token hf_x", "hf-lorameta evaluate 'my adapter'"),
        ("bank lst a", "hf-lorameta bank list a"),
    ],
)
def test_a_command_that_is_misspelled_is_advised_as_it_was_meant(
    cli: Shell, arguments: str, command: str
) -> None:
    shown = cli(*shlex.split(arguments), code=2).err
    assert shown.endswith(f"Next:  {command}\n")


def test_a_missing_option_is_advised(cli: Shell) -> None:
    assert cli("generate", "rows.csv", code=2).err.endswith("Next:  add -o PATH\n")


def test_a_group_alone_shows_its_help_and_no_error(cli: Shell) -> None:
    shown = cli("bank", code=None)
    assert "Usage:" in shown.out + shown.err
    assert "Next:" not in shown.err
