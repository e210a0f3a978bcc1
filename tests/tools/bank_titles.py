"""Store titles in the embedded bank: ``python -m tests.tools.bank_titles``.

They are those of ``bank_titles.tsv``, which name the sources that ``THIRD_PARTY.md`` lists. Only
the index ``bank.json`` changes.
"""

import csv
from pathlib import Path

from hf_lorameta.bank.index import Index
from hf_lorameta.bank.maintain import update_index
from hf_lorameta.bank.open_bank import embedded_bank

FILE = Path(__file__).with_suffix(".tsv")


def titles() -> dict[str, str]:
    """Return the title of every task."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return dict(csv.reader(file, delimiter="\t"))


def with_titles(index: Index) -> Index:
    """Return an index whose entries have the titles of their tasks."""
    known = titles()
    entries = tuple(
        entry.model_copy(update={"title": known.get(entry.name.removeprefix("local--"))})
        for entry in index.entries
    )
    return index.model_copy(update={"entries": entries})


def main() -> None:
    bank = embedded_bank()
    update_index(bank, entries=with_titles(bank.index).entries)


if __name__ == "__main__":
    main()
