"""Write ``THIRD_PARTY.md`` of the embedded bank: ``python -m tests.tools.third_party``."""

from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cards.markdown import code, prose
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.hub.packaged_model import SMOLLM2
from tests.benchmarks.tables import markdown_table

FILE = EMBEDDED[SMOLLM2].parent / "THIRD_PARTY.md"
HEAD = ("Task", "Own adapter", "General adapter", "Source", "Commit", "License")
TEXT = """# Sources of the embedded banks

The adapters in `smollm2-135m/` were trained for this project, each on rows made from the source
named here; the general adapter on many tasks together. So were the general adapters in
`qwen2.5-coder/`, whose base models are apache-2.0. None of the text is in this package.
Instructions and prompt forms are ours; rows were selected, shortened and brought into the form of
input and output. The sources' authors do not endorse the adapters. Base model: {base},
{license}.

{table}
"""


def render(bank: Bank) -> str:
    """Return the text."""
    index = bank.index
    general = {task.name: task for task in index.general.tasks} if index.general else {}
    entries = {entry.name: entry for entry in index.entries}
    rows = [
        (
            prose(name.removeprefix("local--")),
            "yes" if name in entries else "",
            "yes" if name in general else "",
            prose(used.source or "unknown"),
            code((used.source_revision or "")[:12]) if used.source_revision else "",
            prose(used.license or "unknown"),
        )
        for name, used in sorted((general | entries).items())
    ]
    table = markdown_table(HEAD, rows)
    return TEXT.format(base=index.base_model, license=index.base_license, table=table)


def main() -> None:
    Path(FILE).write_text(render(embedded_bank()), encoding="utf-8")


if __name__ == "__main__":
    main()
