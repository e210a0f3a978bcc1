"""Choose a bank: the one that is named, an embedded one for the base model, or an empty one."""

from pathlib import Path

from hf_lorameta.bank.bank import Bank, refuse_revision
from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.errors import BankError, Option, UsageError
from hf_lorameta.hub.base_model_info import BaseModelInfo
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.quoting import shell_word


def open_bank(
    bank: Bank | str | Path | None,
    base: str | Path | None,
    *,
    revision: str | None = None,
    base_revision: str | None = None,
    hub: Hub | None = None,
) -> Bank:
    """Open the bank for a base model.

    Args:
        bank: an opened bank, a folder, a Hub id, or ``none`` for an empty bank. None is the default
            bank if it fits `base`, else the embedded one for it, else an empty one.
        base: Hub id, folder or GGUF file of the base model; None is that of the bank.
        revision: branch, tag or commit of a bank repo.
        base_revision: branch, tag or commit of the base model, for an empty bank; other banks state
            it themselves.
        hub: None makes a client with the saved token.

    Raises:
        UsageError: the bank is ``none`` and no base model is named, the base model cannot be used,
            or `base_revision` is given for a bank that states it.
        BankError: not a bank, or one for another base model.
        HubError: a repo is missing or cannot be reached.

    Example:
        >>> len(open_bank(None, "HuggingFaceTB/SmolLM2-135M-Instruct"))
        121
    """
    hub = hub or Hub()
    asks_for_none = bank == NO_BANK
    if asks_for_none and base is None:
        raise UsageError(
            "without a bank, the base model has to be named", hint=Option("base", SMOLLM2)
        )
    if asks_for_none or isinstance(bank, Bank):
        refuse_revision(revision)
    found = None if asks_for_none else _bank_for(bank, base, revision, hub)
    if found is None:
        return Bank.empty(BaseModelInfo.find(str(base), hub, base_revision))
    if base_revision is not None:
        raise UsageError(
            f"{found.id} is for one commit of {found.index.base_model}, and a revision was given",
            hint=[Option("base_revision", change="leave out"), Option("bank", NO_BANK)],
        )
    return found


def require_bank(bank: str | None, base: str | None, *, hub: Hub | None = None) -> Bank:
    """Open the bank for a base model as `open_bank` does, but never an empty one.

    Raises:
        BankError: not a bank, one for another base model, or none is named and none is embedded.
        HubError: a repo is missing or cannot be reached.
    """
    found = _bank_for(bank, base, None, hub or Hub())
    if found is None:
        raise BankError(
            f"this package has no bank for {base}, expected one of {', '.join(EMBEDDED)}",
            hint=f"hf-lorameta bank search --base {shell_word(str(base))} lists those that others "
            "have published",
        )
    return found


def embedded_for(base: str | Path) -> Bank | None:
    """Open the bank in this package for a base model; None if there is none.

    Example:
        >>> embedded_for("qwen/qwen2.5-coder-0.5b-instruct").index.base_model
        'Qwen/Qwen2.5-Coder-0.5B-Instruct'
    """
    names = [name for name in EMBEDDED if _is_same(name, base)]
    return Bank.embedded(names[0]) if names else None


def _bank_for(
    bank: Bank | str | Path | None, base: str | Path | None, revision: str | None, hub: Hub
) -> Bank | None:
    """Open the bank for a base model; None if none is named and there is none."""
    opened = bank
    if not isinstance(opened, Bank):
        opened = Bank.from_pretrained(opened, revision=revision, hub=hub)
    if base is None or _is_same(opened.index.base_model, base):
        return opened
    if bank is None:
        return embedded_for(base)
    raise BankError(
        f"{opened.id} is a bank for {opened.index.base_model}, expected one for {base}",
        hint=[Option(name, change="leave out") for name in ("base", "bank")],
    )


def _is_same(base_model: str, other: str | Path) -> bool:
    """Whether two names are of one base model: Hub ids, or paths of one folder."""
    one, two = (str(resolved(expanded(name))).lower() for name in (base_model, other))
    return one == two
