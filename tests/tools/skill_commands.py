"""Write the commands' own help into SKILL.md: ``python -m tests.tools.skill_commands``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import hf_lorameta
from hf_lorameta.cli.app import app

FILE = Path(hf_lorameta.__file__).with_name("SKILL.md")
START, END = "<!-- made by python -m tests.tools.skill_commands -->\n", "<!-- end -->\n"
Described = tuple[str, str]
"""An option as it is typed, and its help."""


def _described(parameter: Any) -> Described:
    flags = [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]
    return ", ".join(flags), " ".join(parameter.help.split())


def _options(command: Any) -> list[Described]:
    """Return the options of a command."""
    options = (p for p in command.params if p.param_type_name == "option" and not p.hidden)
    return [_described(option) for option in options]


def _summary(command: Any) -> str:
    """Return the first paragraph of a command's help on one line."""
    return " ".join(command.help.partition("\n\n")[0].split())


def _command(name: str, command: Any, before: dict[str, list[Described]]) -> Iterator[str]:
    """Yield the lines on a command: its summary, its examples, and what is new of its options."""
    usage = [p.metavar or p.name.upper() for p in command.params if p.param_type_name != "option"]
    yield f"### {' '.join([name, *usage])}\n\n{_summary(command)}\n"
    examples = [line.strip() for line in (command.epilog or "").splitlines() if "  " in line]
    yield "\n".join(["```bash", *examples, "```\n"])
    left = _options(command)
    for other, options in before.items():
        if set(options) <= set(left):
            yield f"- the options of `{other}`"
            left = [option for option in left if option not in options]
    known = {option for options in before.values() for option in options}
    if again := [flags for flags, text in left if (flags, text) in known]:
        yield f"- as above: {', '.join(f'`{flags}`' for flags in again)}"
    for flags, text in left:
        if (flags, text) not in known:
            yield f"- `{flags}`: {text}"
    yield ""


def commands_section() -> str:
    """Return all commands as Markdown."""
    group: Any = typer.main.get_command(app)
    groups = {name: inner for name, inner in group.commands.items() if hasattr(inner, "commands")}
    before: dict[str, list[Described]] = {}
    lines = list[str]()
    for name, command in group.commands.items():
        if name not in groups:
            lines += _command(name, command, before)
            before[name] = _options(command)
    for name, inner in groups.items():
        lines += [f"### {name} …\n\n{_summary(inner)}\n"]
        lines += [f"- `{name} {of}`: {_summary(command)}" for of, command in inner.commands.items()]
        lines += [""]
    return "\n".join([*lines, str(group.epilog), ""])


def with_commands(text: str) -> str:
    """Return the text of SKILL.md with the commands as they are now."""
    head, _, rest = text.partition(START)
    return f"{head}{START}\n{commands_section()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    FILE.write_text(with_commands(FILE.read_text("utf-8")), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
