"""The command line: all commands; errors are shown as two lines and an exit code."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hf_lorameta._version import __version__
from hf_lorameta.cli import (
    adapters,
    banks,
    demo,
    evaluate,
    export_and_try,
    inspect,
    merge,
    predict,
    space,
)
from hf_lorameta.cli.options import Commands
from hf_lorameta.cli.output import (
    LogHandler,
    PrintableFormatter,
    emit_error,
    prepare_streams,
    print_json,
    printable,
    show_cells,
    show_row,
)
from hf_lorameta.cli.signals import end_as_interrupted
from hf_lorameta.errors import (
    DatasetError,
    LoraMetaError,
    Option,
    UsageError,
    as_flag,
    command_line,
    in_words,
    problem_of,
)
from hf_lorameta.files import explain, is_of_a_name
from hf_lorameta.quoting import shell

_WITH_DATASET = ("plan", "generate", "push", "evaluate", "predict")
"""Commands that read a dataset: after an error, the same command with an option is proposed."""
_SAVE_AT_THE_END = ("generate", "push", "merge", "export")
"""Commands that say what they keep if they are interrupted; else they have saved nothing."""
_ARGUMENTS_ERROR: Any = typer.BadParameter.__base__
"""Of all that is wrong with arguments; only one that is left over has exactly this class."""
_TYPO = re.compile(r"No such command '(.*)'\. Did you mean '(\S*)'\?")
"""Typer's message where one command has a similar name."""


class _Group(TyperGroup):
    """The commands; errors about options are worded like the package's own errors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before a command."""
        with _reworded():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _reworded():
            return super().invoke(ctx)


@contextmanager
def _reworded() -> Iterator[None]:
    try:
        yield
    except _ARGUMENTS_ERROR as error:
        if isinstance(error, typer.BadParameter):
            error.message = problem_of(error.message)
        if error.ctx and error.message != error.ctx.get_help():  # as a bare group shows it
            error.ctx.help_option_names = []  # else typer names the help, as the advice does
        raise


app = Commands(
    name="hf-lorameta",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 dataset, 4 bank, 5 adapter, 6 Hub, "
    "7 missing dependency, 130 interrupted. --debug shows the traceback of an error.",
)
app.add_typer(banks.app, name="bank")
app.add_typer(space.app, name="space")
commands: tuple[Any, ...] = (
    adapters.plan, adapters.generate, adapters.push, merge.merge, evaluate.evaluate,
    predict.predict, inspect.inspect, demo.demo, export_and_try.export, export_and_try.try_,
)  # fmt: skip
for command in commands:
    app.command(command.__name__.strip("_"), epilog=command.__example__)(command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hf-lorameta {__version__}")
        raise typer.Exit


@app.callback()
def _callback(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """A LoRA adapter for your dataset on a CPU, from a bank of adapters and your rows."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: None uses ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_streams()
    end_as_interrupted()
    # keeps `datasets` from importing torch, which takes 2 s
    os.environ.setdefault("USE_TORCH", "0")
    debug = "--debug" in arguments
    if debug:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    else:
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("hf_lorameta").addHandler(LogHandler())
    logging.getLogger("hf_lorameta").setLevel(logging.DEBUG if debug else logging.INFO)
    for noisy in ("httpx2", "httpcore2", "urllib3", "filelock", "huggingface_hub.utils._http"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # their debug lines carry headers, URLs
    # says that a download waits until another one releases the same file
    logging.getLogger("huggingface_hub.utils").setLevel(logging.INFO)
    for covered in ("repocard", "hf_api", "file_download"):  # the last with signed URLs
        logging.getLogger(f"huggingface_hub.{covered}").setLevel(logging.CRITICAL)
    print_json("--json" in arguments)  # if they cannot be parsed
    fail = partial(_fail, debug=debug)
    try:
        if ("-o", "") in pairwise(arguments):
            raise UsageError(
                "-o names no file or folder", code="output.unnamed", hint="name one, such as -o ."
            )
        app([a for a in arguments if a != "--debug"])
    except LoraMetaError as error:
        hint = _propose_command(error, arguments) or _hint(error, arguments)
        fail(error, str(error), hint, error.code, error.exit_code)
    except SystemExit as end:  # typer exits like this: it has printed what is wrong
        if hasattr(end.__context__, "format_message"):
            _complete_usage_error(end.__context__, arguments)
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(cause, KeyboardInterrupt):
            unsaved = "Interrupted"
            if arguments and arguments[0] in _SAVE_AT_THE_END:
                unsaved += ": nothing was saved. Run it again"
            for note in getattr(cause, "__notes__", [unsaved]):
                typer.echo(printable(note), err=True)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        message, advice = explain(error)
        exit_code = UsageError.exit_code if is_of_a_name(error) else 1
        advice += getattr(error, "__notes__", ())
        fail(error, message, in_words(advice, command_line), "file.inaccessible", exit_code)
    except Exception as error:  # noqa: BLE001 - the outermost handler
        message = f"unexpected {type(error).__name__}: this is a bug"
        hint = "run the command again with --debug and report it"
        fail(error, message, hint, LoraMetaError.code, 1)


def _fail(
    error: BaseException, message: str, hint: str, code: str, exit_code: int, *, debug: bool
) -> None:
    if debug:
        traceback.print_exception(error)
    fields = {"type": type(error).__name__, "code": code, "message": message, "hint": hint or None}
    emit_error(fields | {"exit_code": exit_code})
    typer.echo(f"Error: {printable(message)}", err=True)
    if hint:
        typer.echo(f"Next:  {printable(hint)}", err=True)
    sys.exit(exit_code)


def _complete_usage_error(error: Any, arguments: Sequence[str]) -> None:
    """Print what typer's own message lacks: JSON, and advice."""
    message = error.format_message()
    parameters = error.ctx.command.params if error.ctx else []  # none, if an option has no value
    options = [flag for option in parameters for flag in option.opts]
    prompt = type(error) is _ARGUMENTS_ERROR and "--prompt" in options
    named = error.ctx is not None and error.ctx.help_option_names  # by typer, see `_Group`
    command, called = _command_in(arguments)
    help_of_it = None if named else f"{called} --help"
    hint = "put the prompt after --prompt" if prompt else help_of_it
    if type(error).__name__ == "NoSuchOption" and error.option_name in _flags(command):
        hint = f"put {error.option_name} after {called}"  # it was put before the command
    if message.startswith("Missing option"):
        hint = f"add {error.param.opts[-1]} PATH"  # others have defaults
    if typo := _TYPO.fullmatch(message):
        words = [typo[2] if word == typo[1] else word for word in _without(arguments, "--token")]
        hint = shell("hf-lorameta", *words)
    fields = {"type": "UsageError", "code": UsageError.code, "message": message, "hint": hint}
    emit_error(fields | {"exit_code": error.exit_code})
    if hint:
        typer.echo(f"Next:  {hint}", err=True)


def _hint(error: LoraMetaError, arguments: Sequence[str]) -> str:
    """Return an error's advice, without options that the command that was run lacks."""
    flags = _flags(_command_in(arguments)[0])
    known = [
        part for part in error.advice if isinstance(part, str) or as_flag(part).split()[0] in flags
    ]
    return in_words(known, command_line)


def _flags(command: Any) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


def _command_in(arguments: Sequence[str]) -> tuple[Any, str]:
    """Return the command that arguments name, and the words that call it.

    Example:
        >>> _command_in(["bank", "list", "folder"])[1]
        'hf-lorameta bank list'
    """
    command: Any = typer.main.get_command(app)
    words = ["hf-lorameta"]
    for argument in arguments:
        if argument in (inner := getattr(command, "commands", {})):
            command = inner[argument]
            words.append(argument)
    return command, shell(*words)


def _propose_command(error: LoraMetaError, arguments: Sequence[str]) -> str:
    """Return the command to try next, and show on stderr how it would read one row.

    Args:
        error: the command's error.
        arguments: the command's arguments, repeated with another option and without its token.

    Returns:
        The command; empty if the error proposes no option, or the command does not have it.
    """
    if not isinstance(error, DatasetError) or not arguments or arguments[0] not in _WITH_DATASET:
        return ""
    quiet = not {"-q", "--quiet"}.isdisjoint(arguments)
    if error.rows and not quiet:
        shown = [printable(show_cells(row)) for row in error.rows]
        typer.echo("\n\n".join(["The first rows:", *shown]), err=True)
    columns = Option("columns", str(error.columns)) if error.columns is not None else None
    option = columns or error.option
    if option is None:
        return ""
    if error.row and not quiet:
        typer.echo(printable(f"One row as {as_flag(option)} would read it:"), err=True)
        typer.echo(printable(show_row(error.row)), err=True)
    flag = as_flag(option)
    return f"hf-lorameta {shell(*_without(arguments, flag.split()[0], '--token'))} {flag}"


def _without(arguments: Sequence[str], *options: str) -> list[str]:
    """Return arguments without some options and their values.

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
