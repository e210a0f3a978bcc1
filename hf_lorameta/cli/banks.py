"""The commands of ``hf-lorameta bank``: build, inspect, verify and publish banks."""

from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli import bank_reports as reports
from hf_lorameta.cli import bank_train
from hf_lorameta.cli.options import (
    BankBaseOption,
    Commands,
    DaskOption,
    FolderArgument,
    TokenOption,
)
from hf_lorameta.cli.output import emit, stage_bars
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.paths import resolved
from hf_lorameta.tables import plural, table

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank


app = Commands(
    help="Build, inspect, verify and publish banks of adapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
BankArgument = Annotated[
    str | None,
    typer.Argument(help="Folder or Hub repo. Default: the default bank.", show_default=False),
]


@app.command(epilog="Example: hf-lorameta bank build bank_manifest.yaml -o mistral-bank")
def build(
    manifest: Annotated[Path, typer.Argument(help="YAML list of adapters and datasets.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bank.")],
    workers: Annotated[int, typer.Option(min=1, help="Entries fetched in parallel.")] = 8,
    keep_outliers: Annotated[
        bool,
        typer.Option(help="Keep adapters whose updates, or modules of them, are far too large."),
    ] = False,
    dask: DaskOption = None,
    token: TokenOption = None,
) -> None:
    """Build a bank from a manifest; run it again to resume or to extend."""
    from hf_lorameta.bank.build import build_bank
    from hf_lorameta.bank.executors import dask_executor
    from hf_lorameta.bank.manifest import load
    from hf_lorameta.hub.client import Hub

    with (
        stage_bars() as progress,
        dask_executor(dask) if dask else nullcontext(workers) as executor,
    ):
        bank = build_bank(
            load(manifest), resolved(output), hub=Hub(token), executor=executor,
            keep_outliers=keep_outliers, progress=progress,
        )  # fmt: skip
    _show_list(bank)


@app.command(epilog="Example: hf-lorameta bank discover org/model -o manifest.yaml")
def discover(
    base: Annotated[str, typer.Argument(help="Hub id of a base model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write.")],
    limit: Annotated[
        int, typer.Option(min=1, help="Adapters to examine, the most downloaded first.")
    ] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Parallel requests.")] = 8,
    token: TokenOption = None,
) -> None:
    """Find a base model's adapters on the Hub and list them for `bank build`.

    Run it again to resume.
    """
    from hf_lorameta.bank.discover import discover
    from hf_lorameta.hub.client import Hub

    with stage_bars() as progress:
        discovery = discover(
            base, output, hub=Hub(token), limit=limit, workers=workers, progress=progress
        )
    content = {
        "base_model": discovery.base_model,
        "entries": discovery.entries,
        "left_out": [
            {name: asdict(adapter)[name] for name in ("adapter", "reason", "detail")}
            for adapter in discovery.left_out
        ],
        "more": discovery.more,
    }
    emit(content, lambda: reports.discovery_report(discovery, output))
    if not discovery.entries:
        raise BankError(
            f"none of {len(discovery.checked)} adapters of {discovery.base_model} can be used",
            code="discover.none-usable",
            hint="train a bank instead: hf-lorameta bank train TASKS -o my-bank "
            f"--base {discovery.base_model}",
        )


app.command("train", epilog=bank_train.EXAMPLES)(bank_train.command)


@app.command("list", epilog="Example: hf-lorameta bank list my-bank --json")
def list_(
    bank: BankArgument = None,
    base: BankBaseOption = None,
    token: TokenOption = None,
) -> None:
    """List entries with ranks, sizes, commits and licenses, and why others were skipped."""
    from hf_lorameta.bank.open_bank import require_bank
    from hf_lorameta.hub.client import Hub

    _show_list(require_bank(bank, base, hub=Hub(token)))


def _show_list(bank: "Bank") -> None:
    index = bank.index.model_dump(mode="json")
    emit(index, lambda: reports.listing(bank))


@app.command(epilog="Example: hf-lorameta bank pack my-bank -o my-pack --basis 128")
def pack(
    folder: FolderArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the pack.")],
    basis: Annotated[
        int,
        typer.Option(
            min=1,
            help="At most this many basis vectors on each side of a module; with 128, the loss of "
            "generated adapters stayed as it was.",
        ),
    ] = 128,
    token: TokenOption = None,
) -> None:
    """Compress a bank: one shared basis per module. A pack is used like a bank."""
    from hf_lorameta.bank.open_bank import require_bank
    from hf_lorameta.bank.pack import pack
    from hf_lorameta.hub.client import Hub

    bank = require_bank(folder, hub=Hub(token))
    with stage_bars() as stage:
        packed = pack(bank, output, basis=basis, progress=partial(stage, "Packing"))
    packing = packed.index.packing
    assert packing is not None
    content = packing.model_dump(mode="json") | {"before": bank.size, "after": packed.size}
    emit(content, lambda: reports.pack_report(packed, bank.size))


@app.command(epilog="Example: hf-lorameta bank verify my-bank")
def verify(folder: FolderArgument) -> None:
    """Recompute every checksum; exits with 4 if one is wrong."""
    from hf_lorameta.bank import maintain
    from hf_lorameta.bank.bank import Bank

    bank = Bank(folder)
    with stage_bars() as stage:
        problems = maintain.verify(bank, partial(stage, "Verifying files"))
    emit(
        {"problems": problems},
        lambda: "\n".join(problems) or f"{bank.contents()}, all checksums match",
    )
    if problems:
        raise IntegrityError(
            f"the checksums of {plural(len(problems), 'file')} of {folder} do not match",
            code="bank.wrong-checksums",
            hint="delete them, and build or download the bank again",
        )


@app.command(epilog="Example: hf-lorameta bank push my-bank user/my-bank")
def push(
    folder: FolderArgument,
    repo: Annotated[str, typer.Argument(help="Dataset repo, user/name.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility of a new repo. Default: private if an entry is, else public.",
            show_default=False,
        ),
    ] = None,
    token: TokenOption = None,
) -> None:
    """Publish a bank as a dataset repo; prints its URL. Run it again to resume."""
    from hf_lorameta.bank.share import push_bank
    from hf_lorameta.hub.client import Hub

    with stage_bars() as stage:
        url = push_bank(folder, repo, private=private, hub=Hub(token), progress=stage)
    emit({"url": url}, lambda: url)


@app.command(epilog="Example: hf-lorameta bank search --base org/model")
def search(
    base: Annotated[str, typer.Option(help="Hub id of a base model.")],
    token: TokenOption = None,
) -> None:
    """List the banks that others have published for a base model."""
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.hub.repo_info import list_banks

    hub = Hub(token)
    base = hub.resolve(base, "model").repo_id
    banks = list(list_banks(hub, base))
    listed = [asdict(bank) for bank in banks]
    emit({"base_model": base, "banks": listed}, lambda: reports.search_report(base, banks))


@app.command(epilog="Example: hf-lorameta bank train-rule my-bank")
def train_rule(
    folder: FolderArgument,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the network; paper: 4000.")] = 256,
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the initial weights.")] = 0,
) -> None:
    """Train the neural rule on the bank and store it there (extra: eval)."""
    from hf_lorameta.bank.open_bank import require_bank
    from hf_lorameta.bank.train_neural_rule import train_neural_rule

    bank = require_bank(folder)
    with stage_bars() as progress:
        reports = train_neural_rule(bank, hidden=hidden, steps=steps, seed=seed, progress=progress)
    head = ["metric", "validation before", "after", "normalized", "uniform"]
    rows = [
        [name, *(f"{losses.validation:.4f}" for losses in vars(report).values())]
        for name, report in reports.items()
    ]
    content = {
        name: {kind: losses._asdict() for kind, losses in vars(report).items()}
        for name, report in reports.items()
    }
    emit(content, lambda: table(head, rows))
