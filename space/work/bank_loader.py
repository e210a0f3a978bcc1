"""The bank of a running Space, verified at the start, and its base model."""

import math
import shutil
import threading
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import BankError, LoraMetaError
from hf_lorameta.hub.base_model import config_json, find_at_hand, layers_and_width, locate
from hf_lorameta.pipeline.trial import require_llama
from settings import Settings, base_gguf
from work.jobs import logger

_SPARE_BYTES = 4 << 30
"""Disk space left free for downloads and uploads."""
_MOST_PARAMETERS = 1e9
"""Of a base model that is fetched to improve adapters; a larger one takes too long on two cores."""


class BankLoader:
    """Opens and verifies the bank, and fetches the base model in a thread.

    Args:
        settings: name the bank.

    Attributes:
        bank: the bank; all its files are on this machine.
        gguf: the base model for llama.cpp; None if it cannot be run here, or not yet.
        no_model: why it cannot be run here; empty if it can.

    Raises:
        LoraMetaError: the bank cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.bank = _open(settings)
        self.gguf: Path | None = None
        self.no_model = "The file of the base model is still being fetched."
        self._settings = settings

    def start(self) -> "BankLoader":
        """Start `load` in a thread and return at once."""
        threading.Thread(target=self.load, name="lorameta-model", daemon=True).start()
        return self

    def load(self) -> None:
        """Fetch the base model's file, and its weights; where that fails, the log says why."""
        self.gguf, self.no_model = find_model(self.bank, self._settings)
        fetch_base_model(self.bank)


def _open(settings: Settings) -> Bank:
    """Return the bank; every adapter is downloaded, and its checksum verified."""
    bank = open_bank(settings.bank, settings.base_model, revision=settings.bank_revision)
    if not bank.index.number:
        raise BankError(f"there are no adapters for {bank.index.base_model} in a bank here")
    free = shutil.disk_usage(bank.folder).free
    if settings.bank and bank.size + _SPARE_BYTES > free + _downloaded_bytes(bank):
        raise BankError(
            f"the bank needs {bank.size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free"
        )
    # as a warning, since lower levels are not shown
    logger.warning("Fetching and verifying the bank %s, %.1f GB", bank.id, bank.size / 1e9)
    bank.encode(["ready"])  # loads the tokenizer now rather than in a request
    _ = bank.basis  # shared factors of a pack
    bank.adapters(bank.index.adapters)
    return bank


def find_model(bank: Bank, settings: Settings) -> tuple[Path | None, str]:
    """Return the file of the bank's base model for llama.cpp, or why it cannot be run here."""
    base_model = bank.index.base_model
    try:
        return require_llama(base_model, base_gguf(settings, base_model)), ""
    except (LoraMetaError, OSError) as error:
        logger.warning("adapters cannot be tried or tested: %s", error)
        return None, "The base model cannot be run on this machine."


def fetch_base_model(bank: Bank) -> None:
    """Fetch the base model's weights, so that adapters can be improved, if it is not a large one.

    Visitors never act with the Space's token, so it is not used. Where the weights cannot be had,
    the page does not offer to improve adapters.
    """
    index = bank.index
    base = index.base_model, index.base_revision
    try:
        require_eval()
        if find_at_hand(*base) is not None:
            return
        layers, width = layers_and_width(config_json(*base, False)) or (math.inf, 1)
        parameters = 12 * layers * width**2 + index.vocab_size * width
        free = shutil.disk_usage(bank.folder).free
        if parameters <= min(_MOST_PARAMETERS, (free - _SPARE_BYTES) / 4):  # 4 bytes for each
            locate(*base, False)
    except (LoraMetaError, OSError) as error:
        logger.warning("adapters cannot be improved here: %s", error)


def _downloaded_bytes(bank: Bank) -> int:
    files = (path for path in bank.folder.rglob("*.safetensors") if path.is_file())
    return sum(path.stat().st_size for path in files)
