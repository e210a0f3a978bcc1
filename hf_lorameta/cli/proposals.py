"""Propose a whole command where columns, split or configuration are not clear."""

import shlex
from collections.abc import Sequence

import typer

from hf_lorameta.cli.output import printable, show_row
from hf_lorameta.errors import DatasetError, LoraMetaError

_COMMANDS = ("plan", "generate", "push", "evaluate")
_SECRET = "--token"


def propose_command(error: LoraMetaError, arguments: Sequence[str]) -> str:
    """Return the command to try next, and show on stderr how it would read one row.

    Args:
        error: of the command.
        arguments: of the command, which is repeated with another option, and without its token.

    Returns:
        The command; empty if the error proposes no option, or the command does not have it.
    """
    if not isinstance(error, DatasetError) or not arguments or arguments[0] not in _COMMANDS:
        return ""
    option = error.option
    if error.columns is not None:
        option = f"--columns {shlex.quote(str(error.columns))}"
    if not option:
        return ""
    if error.row and "-q" not in arguments and "--quiet" not in arguments:
        typer.echo(printable(f"One row as {option} would read it:"), err=True)
        typer.echo(printable(show_row(error.row)), err=True)
    return f"hf-lorameta {shlex.join(_without(arguments, option.split()[0], _SECRET))} {option}"


def _without(arguments: Sequence[str], *options: str) -> list[str]:
    """Return arguments without options, each with its value.

    Example:
        >>> _without(["plan", "--split", "a", "-d", "x", "--token=b"], "--split", "--token")
        ['plan', '-d', 'x']
    """
    kept: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        dropped = previous in options or argument.partition("=")[0] in options
        if not dropped:
            kept.append(argument)
    return kept
