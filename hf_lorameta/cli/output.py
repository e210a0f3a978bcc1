"""What commands print: results on stdout, messages and progress on stderr."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedWriter, FileIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hf_lorameta.caches import writing_to
from hf_lorameta.errors import command_line
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.remarks import Remark

if TYPE_CHECKING:
    from hf_lorameta.types import StageProgress

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0
_SHOWN_CELLS = 20
_SHOWN_CHARACTERS = 600
LEGEND = (
    "distance: how much the tokens of two datasets differ, 0 if not at all; coefficient: the "
    "adapter's factor in the weighted sum; --json lists all adapters"
)
"""What the figures of a `hf_lorameta.tables.coefficient_table` mean."""


_as_json = False
_result_printed = False
_warnings: set[str] = set()
"""Warnings printed so far."""


def prepare_streams() -> None:
    """Read and print what the encodings of streams lack; replace streams that are closed.

    A closed stream is None, and the next file that is opened would get its number, and with it
    what other libraries print. What cannot be written to stderr is dropped: it costs no result.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if type(sys.stderr) is TextIOWrapper:
        raw, own = _Dropping(sys.stderr.fileno(), "w", closefd=False), sys.stderr
        sys.stderr = TextIOWrapper(
            BufferedWriter(raw), encoding=own.encoding, errors=own.errors, line_buffering=True
        )
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments


class _Dropping(FileIO):
    """A stream that takes what it cannot write, such as that of a full disk, as written."""

    def write(self, data: Any, /) -> int:
        """Write bytes; return how many."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def print_json(asked: bool) -> None:
    """Make `emit` print JSON, or text if that is not asked for."""
    global _as_json
    _as_json = asked


def prints_json() -> bool:
    """Whether results are printed as JSON."""
    return _as_json


def emit(data: object, text: Callable[[], str]) -> None:
    """Print a result on stdout, as JSON or as text.

    Raises:
        OSError: it cannot be printed, with the stream as its file.
    """
    global _result_printed
    _result_printed = True
    shown = json.dumps(data, indent=2, allow_nan=False) if _as_json else printable(text())
    with writing_to(Path("standard output")):
        typer.echo(shown)


def emit_error(error: Mapping[str, object]) -> None:
    """Print an error on stdout where results are JSON, unless one was printed: it is one value."""
    if _as_json and not _result_printed:
        typer.echo(json.dumps({"error": error}, indent=2))


def warn(message: str) -> None:
    """Print a warning on stderr, even with ``--quiet``, unless this command has printed it."""
    if message not in _warnings:
        _warnings.add(message)
        _print_above_bars(f"Warning: {printable(message)}")


def _print_above_bars(line: str) -> None:
    """Print on stderr; a progress bar there, ours or of another library, moves down a line."""
    tqdm = sys.modules.get("tqdm")  # no bar is shown before it is imported
    if tqdm is None:
        typer.echo(line, err=True)
    else:
        tqdm.tqdm.write(line, file=sys.stderr)


class LogHandler(logging.Handler):
    """Prints what the library and the commands log, each warning once."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        message = record.msg
        text = message.spelled(command_line) if isinstance(message, Remark) else record.getMessage()
        if record.levelno >= logging.WARNING:
            warn(text)
        else:
            _print_above_bars(printable(text))


class PrintableFormatter(logging.Formatter):
    """Formats what is logged with ``--debug``, which may hold texts of others."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a message without control characters."""
        return printable(super().format(record))


def report_pull_request(create_pr: bool, url: str) -> None:
    """Warn if a pull request was asked for but not opened, because nothing would change."""
    if create_pr and "/discussions/" not in url:
        warn("the repo already has exactly these files: no pull request was opened")


def printable(text: str) -> str:
    """Replace control characters, which could manipulate a terminal, with question marks.

    Example:
        >>> printable("a\\x1b[2Jb\\n")
        'a?[2Jb\\n'
    """
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


@contextmanager
def stage_bars() -> "Iterator[StageProgress]":
    """Show the progress of each stage: a bar on a terminal, else a line every 10 seconds.

    Both state the time left. With ``--quiet``, nothing is shown.

    Yields:
        A `StageProgress`.
    """
    from tqdm import tqdm

    from hf_lorameta.pipeline import progress as bars

    terminal, quiet = sys.stderr.isatty(), not logger.isEnabledFor(logging.INFO)
    make_bar = partial(tqdm, disable=quiet or not terminal, file=sys.stderr)
    reported = time.monotonic()
    started: dict[str, tuple[float, int]] = {}

    with bars.stage_bars(make_bar) as show:

        def progress(title: str, done: int, total: int) -> None:
            nonlocal reported
            show(title, done, total)
            now = time.monotonic()
            start, before = started.setdefault(title, (now, done))
            if not terminal and now - reported > _REPORT_SECONDS:
                reported = now
                of = f" of {total}" if total else ""
                left = _time_left(now - start, done - before, total - done)
                logger.info(f"  {title}: {done}{of}{left}")

        yield progress


def _time_left(seconds: float, done: int, left: int) -> str:
    """Return the time left if the remaining steps take as long as those in `seconds`.

    Example:
        >>> _time_left(60, 10, 30), _time_left(0, 0, 40)
        (', about 3 min left', '')
    """
    return f", about {duration(seconds * left / done)} left" if done > 0 and left > 0 else ""


def show_row(row: tuple[str, str]) -> str:
    """Return a dataset row as readable text, with long parts shortened.

    Example:
        >>> print(show_row(("so good", "pos")))
          input:  so good
          output: pos
    """
    return "\n".join(
        f"  {name + ':':8}{_shortened(text)}"
        for name, text in zip(("input", "output"), row, strict=True)
    )


def show_cells(row: Mapping[str, object]) -> str:
    """Return a row as its file has it, a column on each line, with long texts shortened.

    Example:
        >>> print(show_cells({"a": "so good", "b": 1}))
          a: so good
          b: 1
    """
    shown = islice(row.items(), _SHOWN_CELLS)
    return "\n".join(f"  {name}: {_shortened(str(value))}" for name, value in shown)


def _shortened(text: str) -> str:
    if len(text) > _SHOWN_CHARACTERS:
        half = _SHOWN_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text.replace("\n", "\n          ")


def megabytes(size: int) -> str:
    """Format a size in bytes.

    Example:
        >>> megabytes(1_500_000)
        '1.5 MB'
    """
    return f"{size / 1e6:.1f} MB"
