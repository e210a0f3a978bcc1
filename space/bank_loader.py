"""The bank of a running Space: opened once, checked, and drawn; all requests share it."""

import shutil
import threading
from functools import lru_cache

import numpy as np

from hf_lorameta import Bank, BankMap, LoraMetaError, Recipe, bank_map
from jobs import Job
from settings import Settings

_WAIT_SECONDS = 0.2
_SPARE_BYTES = 4 << 30
"""Of the disk, left free for downloads and uploads."""


class UnusableBankError(LoraMetaError):
    """The bank that the owner of the Space named cannot be used; says why."""


class BankLoader:
    """Opens the bank in the background, so that the page is there at once.

    Args:
        settings: name the bank.
    """

    def __init__(self, settings: Settings) -> None:
        self.state = "opening"
        self.fetched = 0
        self._settings = settings
        self._bank: Bank | None = None
        self._problem = ""
        self._ready = threading.Event()
        self.map = lru_cache(maxsize=None)(self._map)

    def start(self) -> "BankLoader":
        """Begin to open the bank and return at once."""
        threading.Thread(target=self._open, name="lorameta-bank", daemon=True).start()
        return self

    def wait(self, job: Job) -> Bank:
        """The bank, as soon as it is there.

        Raises:
            UnusableBankError: it cannot be used.
        """
        while not self._ready.wait(_WAIT_SECONDS):
            job.say("Opening the bank")
        return self.bank

    @property
    def ready(self) -> bool:
        """Whether the bank is open, or known to be unusable."""
        return self._ready.is_set()

    @property
    def bank(self) -> Bank:
        """The opened bank.

        Raises:
            UnusableBankError: it cannot be used.
        """
        if self._bank is None:
            raise UnusableBankError(self._problem or "The bank is still being opened")
        return self._bank

    @property
    def problem(self) -> str:
        """Why the bank cannot be used; empty if it can."""
        return self._problem

    def has_neural(self) -> bool:
        """Whether the bank holds a fitted neural rule."""
        try:
            return bool(self.bank.neural())
        except LoraMetaError:
            return False

    def _map(self, metric: str) -> BankMap:
        return bank_map(self.bank, metric)

    def _open(self) -> None:
        try:
            bank = self._checked()
            self._bank = bank
        except LoraMetaError as error:
            self._problem = str(error)
            self.state = "failed"
            return
        finally:
            self._ready.set()
        self._fetch(bank)

    def _checked(self) -> Bank:
        asked = self._settings
        bank = Bank.from_pretrained(asked.bank, revision=asked.bank_revision)
        if asked.base_model not in (None, bank.index.base_model):
            raise UnusableBankError(
                f"The bank is for {bank.index.base_model}, and this Space is for {asked.base_model}"
            )
        free = shutil.disk_usage(bank.folder).free
        if asked.bank and bank.size + _SPARE_BYTES > free + _here(bank):
            raise UnusableBankError(
                f"The bank needs {bank.size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free"
            )
        bank.encode(["ready"])  # the tokenizer and the profiles, now rather than in a request
        if not len(bank.profiles):
            raise UnusableBankError("The bank holds no adapter")
        return bank

    def _fetch(self, bank: Bank) -> None:
        """Every adapter is brought here and its checksum compared, while plans are made already.

        So is the space that the adapters of a pack share.
        """
        try:
            self.state = "drawing"
            self.map(Recipe().metric)
            self.state = "checking"
            _ = bank.basis
            for number, entry in enumerate(bank.index.entries, 1):
                bank.adapter(entry)
                self.fetched = number
            self.state = "ready"
        except LoraMetaError as error:  # plans go on; a generation will meet it and say so
            self._problem = str(error)
            self.state = "damaged"


def _here(bank: Bank) -> int:
    """Bytes of the bank that are on the disk already."""
    files = (path for path in bank.folder.rglob("*.safetensors") if path.is_file())
    return int(np.sum([path.stat().st_size for path in files], dtype=np.int64))
