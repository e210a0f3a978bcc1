"""Maintain an opened bank: check its files, and change its index."""

from hf_lorameta.bank.adapter_shards import fetch_adapters
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import write_index
from hf_lorameta.errors import BankError
from hf_lorameta.files import sha256
from hf_lorameta.quoting import shell
from hf_lorameta.types import Progress, no_progress


def verify(bank: Bank, progress: Progress = no_progress) -> list[str]:
    """Recompute all checksums; return one line per file that is missing or differs.

    Raises:
        IntegrityError: an adapter in a shard differs from the index.

    Example:
        >>> from hf_lorameta.bank.open_bank import embedded_bank
        >>> verify(embedded_bank())
        []
    """
    split_shards(bank)
    expected, problems = bank.index.digests, []
    for done, (name, digest) in enumerate(sorted(expected.items())):
        progress(done, len(expected))
        path = bank.files.local(name)
        if path is None:
            problems.append(f"{name}: missing")
        elif sha256(path) != digest:
            problems.append(f"{name}: checksum differs from the index")
    return problems


def split_shards(bank: Bank) -> None:
    """Split the shards that a downloaded folder may hold into one file per adapter."""
    fetch_adapters(bank.files, bank.index, bank.index.names())


def require_local(bank: Bank) -> None:
    """Raise `BankError` if the bank is a commit on the Hub, which cannot be changed."""
    if bank.files.remote is not None:
        raise BankError(
            f"{bank.id} is on the Hub and cannot be changed here",
            code="bank.on-hub",
            hint=f"hf download {shell(bank.id)} --repo-type dataset --local-dir DIR, then name DIR",
        )
    split_shards(bank)


def update_index(bank: Bank, **changes: object) -> None:
    """Replace fields of the index, in memory and on disk."""
    bank.use_index(write_index(bank.folder, bank.index.model_copy(update=changes)))
