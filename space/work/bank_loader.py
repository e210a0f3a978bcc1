"""The bank of a running Space: opened in the background, checked, and shared by all requests."""

import math
import shutil
import threading
from pathlib import Path
from typing import Literal

from hf_lorameta.bank.bank import EMBEDDED, Bank
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.base_model import config_json, find_at_hand, layers_and_width, locate
from hf_lorameta.pipeline.trial import require_llama
from settings import Settings, base_gguf
from work.jobs import Job, SpaceError, known_error, logger

State = Literal["opening", "checking", "ready", "failed", "unverified"]
_WAIT_SECONDS = 0.2
_SPARE_BYTES = 4 << 30
"""Disk space left free for downloads and uploads."""
_MOST_PARAMETERS = 1e9
"""Of a base model that is fetched to improve adapters; a larger one takes too long on two cores."""
_FOR_OWNER = "The owner of this Space can fix this in its variables."


class BankLoader:
    """Opens the bank in a thread, so that the page is served at once.

    Args:
        settings: name the bank.

    Attributes:
        state: what the loader is doing, or how it ended.
        verified: number of adapters downloaded and verified.
        problem: why the bank cannot be used; empty if it can.
        gguf: the base model for llama.cpp; None if it cannot be run here, or not yet.
        no_model: why it cannot be run here; empty if it can.
    """

    def __init__(self, settings: Settings) -> None:
        self.state: State = "opening"
        self.verified = 0
        self.problem = ""
        self.gguf: Path | None = None
        self.no_model = "The file of the base model is still being fetched."
        self._settings = settings
        self._bank: Bank | None = None
        self._opened = threading.Event()

    def start(self) -> "BankLoader":
        """Start opening the bank and return at once."""
        threading.Thread(target=self._load, name="lorameta-bank", daemon=True).start()
        return self

    def wait(self, job: Job) -> Bank:
        """Return the bank as soon as it is open.

        Raises:
            SpaceError: the bank cannot be used.
        """
        while not self._opened.wait(_WAIT_SECONDS):
            job.report("Opening the bank")
        return self.bank

    @property
    def opened(self) -> bool:
        """Whether opening has ended, with a bank or with a problem."""
        return self._opened.is_set()

    @property
    def bank(self) -> Bank:
        """The opened bank.

        Raises:
            SpaceError: the bank cannot be used, or is not open yet.
        """
        if self._bank is None:
            raise SpaceError(self.problem or "The bank is still being opened", hint=_FOR_OWNER)
        return self._bank

    def _load(self) -> None:
        try:
            self._bank = bank = self._open()
        except Exception as error:  # noqa: BLE001 - shown as a message
            self.problem = str(known_error(error))
            self.state = "failed"
            return
        finally:
            self._opened.set()
        self.gguf, self.no_model = find_model(bank, self._settings)
        try:
            self._verify(bank)
        except Exception as error:  # noqa: BLE001 - plans still work; generating raises it again
            self.problem = str(known_error(error))
            self.state = "unverified"
        fetch_base_model(bank)

    def _open(self) -> Bank:
        settings = self._settings
        wanted = settings.base_model
        if settings.bank is None and wanted in EMBEDDED:
            bank = Bank.embedded(wanted)
        else:
            bank = Bank.from_pretrained(settings.bank, revision=settings.bank_revision)
        if wanted not in (None, bank.index.base_model):
            raise SpaceError(
                f"The bank is for {bank.index.base_model}, and this Space is for {wanted}"
            )
        free = shutil.disk_usage(bank.folder).free
        if settings.bank and bank.size + _SPARE_BYTES > free + _downloaded_bytes(bank):
            raise SpaceError(
                f"The bank needs {bank.size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free"
            )
        bank.encode(["ready"])  # loads the tokenizer now rather than in a request
        if not bank.index.number:
            raise SpaceError("The bank contains no adapters")
        return bank

    def _verify(self, bank: Bank) -> None:
        """Download every adapter and verify its checksum."""
        self.state = "checking"
        _ = bank.basis  # shared factors of a pack
        bank.adapters(bank.index.adapters, self._count)
        self.state = "ready"

    def _count(self, done: int, total: int) -> None:
        self.verified = done


def find_model(bank: Bank, settings: Settings) -> tuple[Path | None, str]:
    """Return the file of the bank's base model for llama.cpp, or why it cannot be run here."""
    base_model = bank.index.base_model
    try:
        return require_llama(base_model, base_gguf(settings, base_model)), ""
    except LoraMetaError as error:
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
    except LoraMetaError as error:
        logger.warning("adapters cannot be improved here: %s", error)


def _downloaded_bytes(bank: Bank) -> int:
    files = (path for path in bank.folder.rglob("*.safetensors") if path.is_file())
    return sum(path.stat().st_size for path in files)
