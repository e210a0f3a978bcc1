"""The index of a bank whose adapters a test has written."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import TOKENIZER_FILE, Index
from hf_lorameta.bank.store_profiles import store_profiles
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_layout import Layout


def entry_of(path: Path, rank: int, *, scaling: float, rows: int) -> IndexEntry:
    """Return the entry of an adapter's weights, called by the file's name."""
    sha = "0" * 40
    return IndexEntry(
        name=path.stem, adapter=f"synthetic/{path.stem}", adapter_revision=sha,
        dataset=f"synthetic/{path.stem}-data", dataset_revision=sha, config=None, split="train",
        columns=Columns(input="input", output="output"), license="mit", rank=rank,
        scaling=scaling, rows=rows, size=path.stat().st_size, sha256=sha256(path),
    )  # fmt: skip


def index_of(
    folder: Path,
    base_model: str,
    layout: Layout,
    entries: Sequence[IndexEntry],
    profiles: Iterable[Profile],
    vocab_size: int,
) -> Index:
    """Store profiles in the folder of a bank, which has its tokenizer; return the bank's index."""
    stored = store_profiles(folder, profiles, len(entries), vocab_size)
    files = stored.files | {TOKENIZER_FILE: sha256(folder / TOKENIZER_FILE)}
    start = Index.empty(base_model, None, None, vocab_size, **stored._asdict() | {"files": files})
    return start.model_copy(update={"layout": layout, "entries": tuple(entries)})
