"""README.md: a newcomer installs first, and then uses a file of rows that is read as it says."""

import re
import shlex
from pathlib import Path

import typer

from hf_lorameta.cli.app import app
from hf_lorameta.data.dataset import open_dataset

TEXT = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in SHELL
    for line in block.splitlines()
    if line.startswith("hf-lorameta ")
]


def test_the_readme_is_short_and_installs_before_anything_else() -> None:
    assert len(TEXT.splitlines()) < 130
    assert SHELL[0].startswith("pip install '.[eval]'")


def test_the_first_example_is_a_file_that_is_read_as_shown(tmp_path: Path) -> None:
    (rows,) = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)
    _, first, name, *_ = COMMANDS[0]
    (tmp_path / name).write_text(rows)
    assert (first, str(open_dataset(tmp_path / name).columns)) == (
        "generate",
        "input=text,output=label",
    )


def test_the_commands_in_the_readme_parse() -> None:
    for _, name, *arguments in COMMANDS:
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]  # a Group
        command.make_context(name, arguments)
    assert {"generate", "predict", "push", "try"} == {name for _, name, *_ in COMMANDS}
