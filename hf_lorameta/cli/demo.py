"""The command that makes an adapter of the demo's messages and scores it."""

import logging
from typing import Annotated

import typer

from hf_lorameta.cli.options import example
from hf_lorameta.cli.output import emit, stage_bars

logger = logging.getLogger(__name__)


@example("hf-lorameta demo")
def demo(
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
) -> None:
    """Make an adapter for messages to a shop on this machine, and score it on others."""
    from hf_lorameta.demo.run import run_demo

    with stage_bars() as progress:
        report = run_demo(logger.info, max_rows=max_rows, progress=progress)
    emit(report, lambda: str(report["summary"]))
