"""The command line: all commands, and errors as two lines and an exit code."""

import logging
import os
import sys
import traceback
from functools import partial
from typing import Annotated

import typer

from hf_lorameta._version import __version__
from hf_lorameta.cli import banks, demo, evaluate, export_and_try, generate, inspect, merge, space
from hf_lorameta.cli.output import LogHandler, emit_error, printable
from hf_lorameta.cli.proposals import propose_command
from hf_lorameta.errors import LoraMetaError

app = typer.Typer(
    name="hf-lorameta",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 dataset, 4 bank, 5 adapter, 6 Hub, "
    "7 missing dependency. --debug shows the traceback of an error.",
)
app.add_typer(banks.app, name="bank")
app.add_typer(space.app, name="space")
for command in (
    *generate.COMMANDS,
    *merge.COMMANDS,
    *evaluate.COMMANDS,
    *inspect.COMMANDS,
    *demo.COMMANDS,
    *export_and_try.COMMANDS,
):
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
    """A LoRA adapter for your dataset in seconds, on a CPU, without training."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: None uses ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # keeps `datasets` from importing torch, which takes 2 s
    os.environ.setdefault("USE_TORCH", "0")
    debug = "--debug" in arguments
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    else:
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("hf_lorameta").addHandler(LogHandler())
    logging.getLogger("hf_lorameta").setLevel(logging.DEBUG if debug else logging.WARNING)
    for noisy in ("httpx2", "httpcore2", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # their debug lines carry headers
    for covered in ("datasets.packaged_modules.json.json", "huggingface_hub.repocard",
                 "huggingface_hub.hf_api"):  # fmt: skip
        logging.getLogger(covered).setLevel(logging.CRITICAL)  # our errors say the same in one line
    fail = partial(_fail, debug=debug, as_json="--json" in arguments)
    try:
        app([a for a in arguments if a != "--debug"])
    except LoraMetaError as error:
        hint = propose_command(error, arguments) or error.hint
        fail(error, str(error), hint, error.exit_code)
    except SystemExit as end:  # typer exits so where a command was interrupted
        for note in getattr(getattr(end.__context__, "__cause__", None), "__notes__", ()):
            typer.echo(printable(note), err=True)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
        fail(error, message, "check the path and the free space, then run it again", 1)
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        message = f"unexpected {type(error).__name__}: this is a bug"
        fail(error, message, "run the command again with --debug and report it", 1)


def _fail(
    error: BaseException, message: str, hint: str, code: int, *, debug: bool, as_json: bool
) -> None:
    if debug:
        traceback.print_exception(error)
    if as_json:
        fields = {"type": type(error).__name__, "message": message, "hint": hint or None}
        emit_error(fields | {"exit_code": code})
    typer.echo(f"Error: {printable(message)}", err=True)
    if hint:
        typer.echo(f"Next:  {printable(hint)}", err=True)
    sys.exit(code)
