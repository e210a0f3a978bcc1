"""Propose a whole command where the columns of a dataset are not clear."""

import shlex
from collections.abc import Sequence

import typer

from hf_lorameta.cli.output import printable, show_row
from hf_lorameta.errors import DatasetError, LoraMetaError

_COMMANDS = ("plan", "generate", "push", "evaluate")
_SECRET = "--token"
_REPLACED = "--columns"


def propose_command(error: LoraMetaError, arguments: Sequence[str]) -> str:
    """Return the command to try next, and show on stderr how it would read one row.

    Args:
        error: of the command.
        arguments: of the command, which is repeated with other columns, and without its token.

    Returns:
        The command; empty if the error proposes no columns, or the command has no such option.
    """
    if not isinstance(error, DatasetError) or error.columns is None or not arguments:
        return ""
    if arguments[0] not in _COMMANDS:
        return ""
    from hf_lorameta.data.columns import columns_option

    option = columns_option(error.columns)
    if error.row and "-q" not in arguments and "--quiet" not in arguments:
        typer.echo(printable(f"One row as {option} would read it:"), err=True)
        typer.echo(printable(show_row(error.row)), err=True)
    return f"hf-lorameta {shlex.join(_repeated(arguments))} {option}"


def _repeated(arguments: Sequence[str]) -> list[str]:
    """Return arguments without columns and token, each with its value.

    Example:
        >>> _repeated(["plan", "--columns", "output=a", "-d", "x.csv", "--token=hf_abc"])
        ['plan', '-d', 'x.csv']
    """
    kept: list[str] = []
    options = (_REPLACED, _SECRET)
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        dropped = previous in options or argument.partition("=")[0] in options
        if not dropped:
            kept.append(argument)
    return kept
