"""The bank of a running Space, verified at the start, and its base model."""

import math
import shutil
from os import environ

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.engines.transformers.dtype import available_memory, memory_needed, parameters
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import BankError, LoraMetaError
from hf_lorameta.hub.base_model import config_json, find_at_hand, layers_and_width, locate
from hf_lorameta.pipeline.resolve import NO_BASE
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.session import Session
from settings import SpaceSettings
from work import trying
from work.jobs import logger
from work.planning import PlanResult

_SPARE_BYTES = 4 << 30
"""Disk space left free for downloads and uploads."""
_MOST_PARAMETERS = 1e9
"""Most parameters of a base model that is fetched; a larger one takes too long on two cores."""
_NOT_HERE = "The base model cannot be run on this machine."
_TOO_LARGE = "The base model is too large for this machine."


class BankLoader:
    """Opens and verifies the bank, and fetches the base model.

    Args:
        settings: name the bank.

    Attributes:
        bank: the bank; all its files are on this machine.
        model: the base model, which stays in memory once it is used.
        no_model: why the base model cannot be run here; empty if it can.

    Raises:
        LoraMetaError: the bank cannot be used.
    """

    def __init__(self, settings: SpaceSettings) -> None:
        self.bank = _open(settings)
        session = Session(self.bank, token=False)  # visitors never act with the Space's token
        self.model = trying.Model(session)
        self.no_model = fetch_base_model(self.bank)

    def rows_to_improve(self, result: PlanResult) -> Rows:
        """Return the rows that will be trained and checked on; none if that cannot be done."""
        return Rows() if self.no_model or environ.get(NO_BASE) else trying.rows_of(result)


def _open(settings: SpaceSettings) -> Bank:
    """Return the bank; every adapter is downloaded, and its checksum verified."""
    bank = open_bank(settings.bank, settings.base_model, revision=settings.bank_revision)
    if bank.is_empty:
        raise BankError(
            f"there are no adapters for {bank.index.base_model} in a bank here",
            code="bank.none-for-base",
        )
    free = shutil.disk_usage(bank.folder).free
    if settings.bank and bank.size + _SPARE_BYTES > free + _downloaded_bytes(bank):
        raise BankError(
            f"the bank needs {bank.size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free",
            code="disk.too-little",
        )
    # as a warning, since lower levels are not shown
    logger.warning("Fetching and verifying the bank %s, %.1f GB", bank.id, bank.size / 1e9)
    bank.encode(["ready"])  # loads the tokenizer now rather than in a request
    _ = bank.basis  # shared factors of a pack
    bank.adapters(bank.index.adapters)
    return bank


def fetch_base_model(bank: Bank) -> str:
    """Fetch the base model's weights, without a token, unless it is too large to be run here.

    Returns:
        Why it cannot be run here; empty if it can. The log has the details.
    """
    index = bank.index
    base = index.base_model, index.base_revision
    try:
        require_eval()
        if path := find_at_hand(*base):
            count, most = float(parameters(path)), math.inf
        else:
            free = shutil.disk_usage(bank.folder).free - _SPARE_BYTES
            count, most = _likely_parameters(bank), min(_MOST_PARAMETERS, free / 4)  # 4 bytes each
        if count > most or memory_needed(count) > available_memory():
            return _TOO_LARGE
        if path is None:
            locate(*base, False)
    except (LoraMetaError, OSError) as error:
        logger.warning("adapters cannot be tried, counted or trained: %s", error)
        return _NOT_HERE
    return ""


def _likely_parameters(bank: Bank) -> float:
    """Return about how many parameters the base model has, from its configuration alone.

    Raises:
        HubError: the configuration cannot be fetched.
    """
    index = bank.index
    config = config_json(index.base_model, index.base_revision, False)
    layers, width = layers_and_width(config) or (math.inf, 1)
    return 12 * layers * width**2 + index.vocab_size * width


def _downloaded_bytes(bank: Bank) -> int:
    files = (path for path in bank.folder.rglob("*.safetensors") if path.is_file())
    return sum(path.stat().st_size for path in files)
