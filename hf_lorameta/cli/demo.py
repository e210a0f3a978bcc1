"""The command that runs every step on this machine."""

import sys
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
    """Run every step on this machine: a loopback Hub, the embedded bank, push, evaluate."""
    from tqdm import tqdm

    from hf_lorameta.demo.run import Console, run_demo

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(bar_format="{desc}", leave=False, disable=hidden) as line:
        console = Console(
            say=partial(log, False),
            progress=lambda step, seconds: line.set_description_str(f"{step}: {seconds:.0f} s"),
        )
        report = run_demo(None if quiet else console, max_rows=max_rows)
    emit(json, report, lambda: str(report["summary"]))
