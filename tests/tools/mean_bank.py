"""Mean of the general adapters of two banks: ``python -m tests.tools.mean_bank OLD NEW OUTPUT``.

OLD is a bank, and NEW the folder of one whose general adapter is trained, by ``bank train``. OUTPUT
gets the mean of both general adapters, and OLD's other adapters, each as the mean plus what it adds
to OLD's general adapter, at the same rank. All else is OLD's.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import (
    BASIS_FILE,
    GENERAL,
    WORK_FOLDER,
    GeneralEntry,
    adapter_path,
    write_index,
)
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.method.merging import exact
from hf_lorameta.training.bank.general import general_weights
from hf_lorameta.types import FactorPair

Scaled = tuple[Sequence[FactorPair], float]


def mean_bank(old: Bank, new: Path, output: Path) -> Bank:
    """Write the mean of two banks of the same layout; see the module."""
    general = old.index.general
    assert general is not None
    (output / "adapters").mkdir(parents=True)
    before, after = _factors(old, general), general_weights(new).pairs
    mean = list(_sums([(before, 0.5 * general.scaling), (after, 0.5)], general.rank))
    facts = _write(old, output, GENERAL, mean, general.rank)
    record = json.loads((new / WORK_FOLDER / f"{GENERAL}.json").read_bytes())["result"]
    trained = GeneralEntry.model_validate(record)
    rows = general.rows + trained.rows
    entries: list[IndexEntry] = []
    for entry in old.index.entries:
        parts = [(mean, 1.0), (_factors(old, entry), entry.scaling), (before, -general.scaling)]
        changed = _write(old, output, entry.name, list(_sums(parts, entry.rank)), entry.rank)
        entries.append(entry.model_copy(update=changed))
    files = {}
    for name in set(old.index.files) - {BASIS_FILE}:
        shutil.copyfile(old.verified_file(name), output / name)
        files[name] = old.index.files[name]
    changes = {
        "entries": tuple(entries),
        "general": trained.model_copy(update={**facts, "rows": rows}),
        "files": dict(sorted(files.items())),
        "packing": None,
        "schema_version": 1,
    }
    write_index(output, old.index.model_copy(update=changes))
    return Bank(output)


def _factors(bank: Bank, entry: IndexEntry | GeneralEntry) -> list[FactorPair]:
    file = bank.unpacked(entry)
    return [file.factors(module.name) for module in bank.layout]


def _sums(parts: Sequence[Scaled], rank: int) -> Iterator[FactorPair]:
    """Yield the weighted sums of adapters, module by module."""
    for pairs in zip(*(factors for factors, _ in parts), strict=True):
        As, Bs = ([pair[i] for pair in pairs] for i in (0, 1))
        yield exact(As, Bs, [scale for _, scale in parts], [1.0] * len(parts), rank)


def _write(
    bank: Bank, folder: Path, name: str, factors: Sequence[FactorPair], rank: int
) -> dict[str, object]:
    path = folder / adapter_path(name)
    write_tensors(path, bank.layout, rank, "bfloat16", factors)
    size = path.stat().st_size
    return {"rank": rank, "scaling": 1.0, "size": size, "sha256": sha256(path)}


def main() -> None:
    old, new, output = sys.argv[1:]
    mean_bank(open_bank(old), Path(new), Path(output))


if __name__ == "__main__":
    main()
