"""The command that runs every step on this machine."""

import logging
from typing import Annotated

import typer

from hf_lorameta.cli.options import example
from hf_lorameta.cli.output import emit

logger = logging.getLogger(__name__)


@example("hf-lorameta demo")
def demo(
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
) -> None:
    """Run every step on this machine: a loopback Hub, the embedded bank, push, evaluate."""
    from hf_lorameta.demo.run import run_demo

    report = run_demo(logger.info, max_rows=max_rows, quiet=not logger.isEnabledFor(logging.INFO))
    emit(report, lambda: str(report["summary"]))
