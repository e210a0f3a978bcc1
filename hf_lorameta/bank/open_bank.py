"""Open a bank: the one that is named, an embedded one for the base model, or an empty one."""

import os
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.bank_files import Remote
from hf_lorameta.bank.index import EMBEDDED_BANK, INDEX_FILE, NO_BANK, TOKENIZER_FILE, Index
from hf_lorameta.data.counts.tokenizer import vocab_size
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.errors import BankError, LoraMetaError, Option, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.hub.base_model_info import BaseModelInfo
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.hub.repo import Token
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.quoting import shell_word

BANK_VARIABLE = "HF_LORAMETA_BANK"
"""Environment variable that names the default bank."""


def open_bank(
    bank: Bank | str | Path | None = None,
    base: str | Path | None = None,
    *,
    revision: str | None = None,
    base_revision: str | None = None,
    token: Token = None,
    hub: Hub | None = None,
) -> Bank:
    """Open a bank, or the bank for a base model.

    Args:
        bank: a folder, the Hub id of a dataset repo published by ``bank push``, an opened bank, or
            ``none`` for an empty bank. None is the default bank if it fits `base`, else the
            embedded one for it, else an empty one. The default bank is that in ``HF_LORAMETA_BANK``
            if it is set, else the one embedded in this package.
        base: Hub id, folder or GGUF file of the base model; None is that of the bank.
        revision: branch, tag or commit of a bank repo.
        base_revision: branch, tag or commit of the base model, for an empty bank; other banks state
            it themselves.
        token: Hub token; None uses the saved one.
        hub: client to use instead of one with `token`.

    Raises:
        UsageError: the bank is ``none`` and no base model is named, the base model cannot be used,
            `revision` is given for a bank that is not a repo, or `base_revision` for a bank that
            states it.
        BankError: not a bank, or one for another base model.
        HubError: a repo is missing or cannot be reached.

    Example:
        >>> len(open_bank(base="HuggingFaceTB/SmolLM2-135M-Instruct"))
        121
    """
    hub = hub or Hub(token)
    asks_for_none = bank == NO_BANK
    if asks_for_none and base is None:
        raise UsageError(
            "without a bank, the base model has to be named",
            code="base.unnamed",
            hint=Option("base", SMOLLM2),
        )
    if asks_for_none or isinstance(bank, Bank):
        refuse_revision(revision)
    found = None if asks_for_none else _bank_for(bank, base, revision, hub)
    if found is None:
        return EmptyBank(BaseModelInfo.find(str(base), hub, base_revision))
    if base_revision is not None:
        raise UsageError(
            f"{found.id} is for one commit of {found.index.base_model}, and a revision was given",
            code="bank.and-revision",
            hint=[Option("base_revision", change="leave out"), Option("bank", NO_BANK)],
        )
    return found


def require_bank(
    bank: Bank | str | Path | None, base: str | None = None, *, hub: Hub | None = None
) -> Bank:
    """Open a bank as `open_bank` does, but never an empty one.

    Raises:
        BankError: not a bank, one for another base model, or none is named and none is embedded.
        HubError: a repo is missing or cannot be reached.
    """
    return _required(_bank_for(bank, base, None, hub or Hub()), base)


def hub_bank(repo_id: str, revision: str | None = None, hub: Hub | None = None) -> Bank:
    """Open a bank repo at one commit; its files are fetched into the Hub cache when needed.

    Raises:
        BankError: the repo holds no bank.
        HubError: it is missing or cannot be reached.
    """
    hub = hub or Hub()
    repo = hub.resolve(repo_id, "dataset", revision, blobs=True)
    if INDEX_FILE not in repo.files:
        raise BankError(
            f"{repo_id} is not a bank: it holds no {INDEX_FILE}",
            code="bank.not-a-bank",
            hint="name the Hub id of a bank",
        )
    folder = hub.download(repo, INDEX_FILE).parent
    return Bank(folder, id=repo.repo_id, remote=Remote(hub, repo))


def embedded_bank(base: str | Path = SMOLLM2) -> Bank:
    """Open the bank in this package for a base model.

    Raises:
        BankError: there is none.

    Example:
        >>> embedded_bank("qwen/qwen2.5-coder-0.5b-instruct").index.base_model
        'Qwen/Qwen2.5-Coder-0.5B-Instruct'
    """
    return _required(_embedded_for(base), base)


class EmptyBank(Bank):
    """A bank without adapters: an adapter made with it starts from the base model alone.

    Args:
        base: the base model's config and tokenizer.

    Raises:
        BankError: the tokenizer cannot be read.
    """

    def __init__(self, base: BaseModelInfo) -> None:
        index = Index.empty(
            base.name, base.revision, base.license, vocab_size(base.tokenizer),
            files={TOKENIZER_FILE: sha256(base.tokenizer)},
        )  # fmt: skip
        super().__init__(base.tokenizer.parent, id=NO_BANK, index=index)
        self.alternatives = base.banks
        self._base = base

    @property
    def private(self) -> bool:
        """Whether the base model is private."""
        return self._base.private

    @property
    def end_token(self) -> int | None:
        """Id of the token that ends an output; None if the config does not state it."""
        ends = self._base.config.get("eos_token_id")
        first = ends[0] if isinstance(ends, list) and ends else ends
        return first if isinstance(first, int) and first < self.index.vocab_size else None


def refuse_revision(revision: str | None) -> None:
    """Raise `UsageError` if a revision is given for a bank that is not a Hub repo."""
    if revision is not None:
        raise UsageError(
            f"revision {revision} is given, but no bank repo",
            code="bank.revision-without-repo",
            hint=Option("bank", "user/bank"),
        )


def _bank_for(
    bank: Bank | str | Path | None, base: str | Path | None, revision: str | None, hub: Hub
) -> Bank | None:
    """Open the bank for a base model; None if none is named and there is none."""
    opened = bank if isinstance(bank, Bank) else _named_bank(bank, revision, hub)
    if base is None or _is_same(opened.index.base_model, base):
        return opened
    if bank is None:
        return _embedded_for(base)
    raise BankError(
        f"{opened.id} is a bank for {opened.index.base_model}, expected one for {base}",
        code="bank.other-base",
        hint=[Option(name, change="leave out") for name in ("base", "bank")],
    )


def _named_bank(name: str | Path | None, revision: str | None, hub: Hub) -> Bank:
    """Open a bank folder, a bank repo on the Hub, or the default bank."""
    if not name and (default := os.environ.get(BANK_VARIABLE)):
        try:
            return _named_bank(default, revision, hub)
        except LoraMetaError as error:
            error.advise(f"unset {BANK_VARIABLE}, which names {default}")
            raise
    folder = expanded(name) if name else None
    if folder is None or folder.is_dir():
        refuse_revision(revision)
        return Bank(folder) if folder else embedded_bank()
    if len(folder.parts) != 2 or folder.is_absolute():
        raise BankError(
            f"{name} is neither a folder nor a Hub id of the form user/bank",
            code="bank.not-found",
            hint=f"name a folder with {INDEX_FILE}, or the Hub id of a bank",
        )
    return hub_bank(str(name), revision, hub)


def _embedded_for(base: str | Path) -> Bank | None:
    folders = [folder for name, folder in EMBEDDED.items() if _is_same(name, base)]
    return Bank(folders[0], id=EMBEDDED_BANK) if folders else None


def _required(bank: Bank | None, base: str | Path | None) -> Bank:
    if bank is None:
        raise BankError(
            f"this package has no bank for {base}, expected one of {', '.join(EMBEDDED)}",
            code="bank.none-for-base",
            hint=f"hf-lorameta bank search --base {shell_word(str(base))} lists those that others "
            "have published",
        )
    return bank


def _is_same(base_model: str, other: str | Path) -> bool:
    """Whether two names are of one base model: Hub ids, or paths of one folder."""
    one, two = (str(resolved(expanded(name))).lower() for name in (base_model, other))
    return one == two
