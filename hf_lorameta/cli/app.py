"""The command line: all commands, and errors as two lines and an exit code."""

import logging
import os
import sys
import traceback

import typer

from hf_lorameta.cli import banks, evaluate, generate, gguf, inspect, merge, space
from hf_lorameta.cli.output import printable
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
    *gguf.COMMANDS,
):
    app.command(command.__name__.strip("_"), epilog=command.__example__)(command)


@app.callback()
def _callback() -> None:
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
    logging.getLogger("hf_lorameta").setLevel(logging.DEBUG if debug else logging.WARNING)
    for noisy in ("httpx2", "httpcore2", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # their debug lines carry headers
    for covered in ("datasets.packaged_modules.json.json", "huggingface_hub.repocard",
                 "huggingface_hub.hf_api"):  # fmt: skip
        logging.getLogger(covered).setLevel(logging.CRITICAL)  # our errors say the same in one line
    try:
        app([a for a in arguments if a != "--debug"])
    except LoraMetaError as error:
        hint = propose_command(error, arguments) or error.hint
        _fail(error, debug, str(error), hint, error.exit_code)
    except KeyboardInterrupt as interrupt:
        for note in getattr(interrupt, "__notes__", ()):
            typer.echo(printable(note), err=True)
        sys.exit(130)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
        _fail(error, debug, message, "check the path and the free space, then run it again", 1)
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        message = f"unexpected {type(error).__name__}: this is a bug"
        _fail(error, debug, message, "run the command again with --debug and report it", 1)


def _fail(error: BaseException, debug: bool, message: str, hint: str, code: int) -> None:
    if debug:
        traceback.print_exception(error)
    typer.echo(f"Error: {printable(message)}", err=True)
    if hint:
        typer.echo(f"Next:  {hint}", err=True)
    sys.exit(code)
