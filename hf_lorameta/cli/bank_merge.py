"""The command ``hf-lorameta bank merge``: unite banks of several contributors."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli.options import JsonFlag, QuietFlag, TokenOption
from hf_lorameta.cli.output import emit, stage_bars
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank

EXAMPLE = "Example: hf-lorameta bank merge my-bank user/other-bank -o merged"


def merge(
    banks: Annotated[list[str], typer.Argument(help="Folders or Hub repos of banks or packs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the merged bank.")],
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Merge banks for the same base model into one; each adapter is stored once."""
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.merge import merge_banks
    from hf_lorameta.hub.client import Hub

    hub = Hub(token)
    opened = [Bank.from_pretrained(name, hub=hub) for name in banks]
    with stage_bars(quiet) as progress:
        merged = merge_banks(opened, output, lambda done, total: progress("merging", done, total))
    emit(json, merged.index.model_dump(mode="json", by_alias=True), lambda: _report(merged, opened))


def _report(merged: "Bank", banks: Sequence["Bank"]) -> str:
    from hf_lorameta.bank.merge import general_of, name_of

    index = merged.index
    licenses = sorted({entry.license or "unknown" for entry in index.entries})
    lines = [
        f"{plural(len(merged), 'adapter')} of {len(banks)} banks for {index.base_model} in "
        f"{merged.folder}",
        f"licenses: {', '.join(licenses)}",
    ]
    if index.skipped:
        lines.append(
            f"left out: {plural(len(index.skipped), 'adapter')}, with the reasons in "
            f"hf-lorameta bank list {shlex.quote(str(merged.folder))}"
        )
    kept = general_of(banks)
    if kept and index.general:
        lines.append(
            f"general adapter: that of {name_of(kept)}, trained on {len(index.general.tasks)} tasks"
        )
        others = [name_of(bank) for bank in banks if bank.index.general and bank is not kept]
        lines += [f"general adapter left out: that of {name}" for name in others]
    lines += [
        f"{name_of(bank)} is a pack: its adapters are stored as it has them, with "
        f"{bank.index.packing.retained_whole:.2%} of the energy"
        for bank in banks
        if bank.index.packing
    ]
    return "\n".join(lines)
