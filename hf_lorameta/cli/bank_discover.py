"""The command ``hf-lorameta bank discover``: write a manifest of the Hub's adapters of a model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli.options import JsonFlag, QuietFlag, TokenOption
from hf_lorameta.cli.output import emit, stage_bars, table

if TYPE_CHECKING:
    from hf_lorameta.bank.discover import Discovery

EXAMPLE = "Example: hf-lorameta bank discover org/model -o manifest.yaml"


def discover(
    base: Annotated[str, typer.Argument(help="Hub id of a base model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    limit: Annotated[
        int, typer.Option(min=1, help="Adapters to look at, the most downloaded first.")
    ] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find a base model's adapters on the Hub and list them for `bank build`.

    Run it again to resume.
    """
    from hf_lorameta.bank.discover import discover
    from hf_lorameta.errors import BankError
    from hf_lorameta.hub.client import Hub

    with stage_bars(quiet) as progress:
        found = discover(
            base, output, hub=Hub(token), limit=limit, workers=workers, progress=progress
        )
    content = {
        "base_model": found.base_model,
        "entries": found.entries,
        "left_out": [
            {name: asdict(adapter)[name] for name in ("adapter", "reason", "detail")}
            for adapter in found.left_out
        ],
        "more": found.more,
    }
    emit(json, content, lambda: _report(found, output))
    if not found.entries:
        raise BankError(
            f"none of {len(found.checked)} adapters of {found.base_model} can be used",
            hint="train a bank instead: hf-lorameta bank train TASKS -o my-bank "
            f"--base {found.base_model}",
        )


def _report(found: "Discovery", output: Path) -> str:
    from hf_lorameta.bank.discover import left_out_path

    entries = found.entries
    datasets = {entry["dataset"] for entry in entries}
    unlicensed = sum("license" not in entry for entry in entries)
    lines = [
        f"{len(entries)} of {len(found.checked)} adapters of {found.base_model} can be used, "
        f"trained on {len(datasets)} datasets; {unlicensed} state no license"
    ]
    if found.left_out:
        head = ["left out", "adapters", "such as"]
        lines += ["", table(head, found.reasons()), "", f"all of them: {left_out_path(output)}"]
    if found.more:
        lines.append("the Hub lists more adapters: raise --limit to look at them")
    if entries:
        lines.append(f"next: hf-lorameta bank build {output} -o my-bank")
    return "\n".join(lines)
