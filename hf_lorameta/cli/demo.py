"""The command that shows the way from a dataset to a scored adapter."""

from functools import partial
from typing import Annotated

import typer

from hf_lorameta.cli.options import JsonFlag, QuietFlag, example
from hf_lorameta.cli.output import emit, log


@example("hf-lorameta demo")
def demo(
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make an adapter for a small dataset, and score it; needs no account."""
    from hf_lorameta.demo.run import run_demo

    report = run_demo(partial(log, quiet), max_rows=max_rows, quiet=quiet)
    emit(json, report, lambda: str(report["summary"]))
