"""What the commands of ``hf-lorameta bank`` print about a bank."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.cli.output import megabytes
from hf_lorameta.quoting import shell
from hf_lorameta.tables import plural, table

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.discover import Discovery
    from hf_lorameta.bank.index import Packing, Skipped
    from hf_lorameta.hub.repo_info import ListedBank


def listing(bank: "Bank") -> str:
    """Return a table of a bank's entries, and why others were skipped."""
    index = bank.index
    head = ["adapter", "rank", "size", "commit", "license", "dataset", "rows"]
    rows = [
        [e.adapter, e.rank, megabytes(e.size), e.adapter_revision[:8], e.license or "unknown",
         e.title or e.dataset, e.rows]
        for e in index.entries
    ]  # fmt: skip
    first, *lines = _with_table(bank, head, rows)
    notes = _packing(index.packing) if index.packing else []
    if index.general:
        trained = f"trained on {len(index.general.tasks)} tasks"
        notes.insert(0, f"and a general adapter, {trained}" if rows else trained)
    return "\n".join([first, *notes, *lines, *reasons(index.skipped)])


def _with_table(bank: "Bank", head: list[str], rows: list[list[Any]]) -> list[str]:
    """Return lines that say what a bank holds, followed by a table if it has rows."""
    first = f"{bank.contents()} for {bank.index.base_model}"
    return [first, *(["", table(head, rows)] if rows else [])]


def reasons(skipped: "Iterable[Skipped]") -> list[str]:
    """Return a line with the reason for each skipped entry; no lines if none was skipped."""
    return _skipped([(entry.adapter, entry.reason) for entry in skipped])


def training_report(bank: "Bank", lines: Sequence[dict[str, Any]], url: str | None) -> str:
    """Return each task's losses before and after training, and why others were skipped.

    Args:
        bank: the bank that was trained.
        lines: from `hf_lorameta.training.bank.train_bank.training_log`.
        url: of the bank's repo, if it was published.
    """
    head = ["task", "rows", "base loss", "trained", "steps"]
    rows = [
        [t["task"], t["rows"], f"{t['base_loss']:.3f}", f"{t['loss']:.3f}", t["steps"]]
        for t in lines
        if "skipped" not in t
    ]
    skipped = _skipped([(t["task"], t["skipped"]) for t in lines if "skipped" in t])
    use = ["", f"Use it with --bank {url or bank.folder}"]
    return "\n".join([*_with_table(bank, head, rows), *skipped, *use])


def _skipped(skipped: Sequence[tuple[str, str]]) -> list[str]:
    lines = [f"  {name}: {reason}" for name, reason in skipped]
    return ["", f"{len(lines)} skipped:", *lines] if lines else []


def _packing(packing: "Packing") -> list[str]:
    sides = [size for space in packing.spaces for size in space]
    return [
        f"pack: {min(sides)} to {max(sides)} basis vectors per side, retains "
        f"{packing.retained_whole:.2%} of the updates' energy "
        f"({packing.retained_least:.2%} for the adapter that lost most)"
    ]


def pack_report(pack: "Bank", size_before: int) -> str:
    """Return what a pack retains, and its size next to that of the bank."""
    packing = pack.index.packing
    assert packing is not None
    shrunk = f"{megabytes(size_before)} to {megabytes(pack.size)}"
    return "\n".join([*_packing(packing), f"{shrunk} in {pack.folder}"])


def discovery_report(discovery: "Discovery", output: Path) -> str:
    """Return how many adapters can be used, why others cannot, and what to do next."""
    entries = discovery.entries
    datasets = {entry["dataset"] for entry in entries}
    unlicensed = sum("license" not in entry for entry in entries)
    lines = [
        f"{len(entries)} of {len(discovery.checked)} adapters of {discovery.base_model} can be "
        f"used, trained on {len(datasets)} datasets; {unlicensed} state no license"
    ]
    if discovery.left_out:
        head = ["left out", "adapters", "such as"]
        lines += [
            "",
            table(head, discovery.reasons()),
            "",
            "all of them, with details: run it again with --json and another -o",
        ]
    if discovery.more:
        lines.append("the Hub lists more adapters: raise --limit to look at them")
    if entries:
        lines.append(f"next: {shell('hf-lorameta', 'bank', 'build', output, '-o', 'my-bank')}")
    return "\n".join(lines)


def bank_facts(bank: "ListedBank") -> str:
    """Return what a published bank holds, on one line."""
    parts = [plural(bank.adapters, "adapter")] if bank.adapters or not bank.general else []
    parts += ["a general adapter"] if bank.general else []
    parts += [megabytes(bank.size)] if bank.size is not None else []
    parts += ["private"] if bank.private else []
    return ", ".join(
        [*parts, bank.license or "license unknown", plural(bank.downloads, "download")]
    )


def search_report(base: str, banks: "Sequence[ListedBank]") -> str:
    """Return the published banks for a base model, and what to do next."""
    from hf_lorameta.embedded import EMBEDDED

    if not banks and base in EMBEDDED:
        return f"no other bank for {base} is published; the one in this package is the default"
    if not banks:
        return (
            f"no bank for {base} is published; train one: hf-lorameta bank train TASKS -o my-bank "
            f"--base {base}"
        )
    lines = [f"{bank.repo_id}: {bank_facts(bank)}" for bank in banks]
    command = shell("hf-lorameta", "push", "DATASET", "--base", base, "--bank", banks[0].repo_id)
    return "\n".join([*lines, "", f"use one if you trust its owner: {command}"])
