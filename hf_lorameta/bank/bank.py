"""An opened bank: LoRA adapters for one base model, each with the profile of its dataset.

The README of this folder describes its files. The index is read when a bank is opened, profiles
when an adapter is planned, and weights when adapters are combined, one tensor at a time. A bank is
only read here; `hf_lorameta.bank.maintain` checks and changes one.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hf_lorameta.bank.adapter_shards import fetch_adapters
from hf_lorameta.bank.arrays import load_arrays, prior_from_arrays
from hf_lorameta.bank.bank_files import BankFiles, Remote
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import (
    BASIS_FILE,
    DISTANCES_FILE,
    INDEX_FILE,
    LARGE,
    NEURAL_FILE,
    OUTPUT_PRIOR_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    GeneralEntry,
    Index,
    adapter_path,
    parse_index,
    sketches_file,
)
from hf_lorameta.bank.large_profiles import LargeProfiles, Sketches
from hf_lorameta.bank.pack_format import Basis, PackedFile, UnpackedFile
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.data.counts.tokenizer import load_encode
from hf_lorameta.errors import BankError, IntegrityError, Option
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.hub.repo_info import ListedBank
from hf_lorameta.method.output_prior import OutputPrior
from hf_lorameta.quoting import shell
from hf_lorameta.tables import plural
from hf_lorameta.types import Encode, FactorPair, FloatArray, Progress, no_progress

_OPENING_THREADS = 4


class Bank:
    """An opened bank; `hf_lorameta.bank.open_bank` opens one by its name.

    Args:
        folder: folder of the bank.
        id: name for cards and recipes: a Hub id, ``embedded bank``, ``local bank`` or ``none``.
        remote: where its files are fetched from; None if all are in the folder.
        index: None reads ``bank.json``.

    Attributes:
        index: content of ``bank.json``.
        files: access to its files.
        revision: commit of a bank repo.
        alternatives: where no bank is used, those that others have published for the base model.

    Raises:
        BankError: the folder holds no bank, or one of an unknown schema version.
    """

    alternatives: tuple[ListedBank, ...] = ()

    def __init__(
        self,
        folder: Path,
        *,
        id: str = "local bank",
        remote: Remote | None = None,
        index: Index | None = None,
    ) -> None:
        self.folder = folder
        self.id = id
        self.revision = remote.repo.sha if remote else None
        self.files = BankFiles(folder, remote)
        self._raw_index = index.to_bytes() if index else self.files.path(INDEX_FILE).read_bytes()
        self.index = index or parse_index(self._raw_index, folder)
        if self.is_large:
            lines = self.verified_file(self.index.entries_file).read_bytes()
            self.index = self.index.with_entries(lines)

    def __len__(self) -> int:
        return len(self.index.entries)

    def __repr__(self) -> str:
        return f"Bank({self.id}, {self.contents()} for {self.index.base_model})"

    def contents(self, kind: str = "adapter") -> str:
        """Say what the bank holds, calling each adapter `kind`."""
        if self.has_datasets:
            return plural(len(self), kind)
        return f"a general {kind}" if self.index.general else f"no {kind}s"

    @property
    def is_empty(self) -> bool:
        """Whether it holds no adapter at all: adapters start from the base model alone."""
        return not self.index.number

    @property
    def has_datasets(self) -> bool:
        """Whether it holds adapters of single datasets, with which a new one is compared.

        Not if it is empty, or holds only a general adapter.

        Example:
            >>> from hf_lorameta.bank.open_bank import embedded_bank
            >>> from hf_lorameta.embedded import EMBEDDED
            >>> [embedded_bank(base).has_datasets for base in EMBEDDED]
            [True, False, False]
        """
        return len(self) > 0

    @property
    def digest(self) -> str:
        """SHA-256 of the index, which pins all other files."""
        return hashlib.sha256(self._raw_index).hexdigest()

    @property
    def reference(self) -> dict[str, str | None] | None:
        """This bank in ``recipe.json``: id, commit and digest of its index; None if empty."""
        if self.is_empty:
            return None
        return {"id": self.id, "revision": self.revision, "sha256": self.digest}

    @property
    def public_base(self) -> str:
        """Name of the base model as cards show it: no path of this machine."""
        name = self.index.base_model
        return "path/to/base/model" if Path(name).is_absolute() else name

    @property
    def private(self) -> bool:
        """Whether an adapter or a dataset of the bank is private."""
        return self.index.private_parts > 0

    @property
    def end_token(self) -> int | None:
        """Id of the token that ends an output; None if output tokens are not counted."""
        stated = self.index.output_prior or self.index.general
        return stated.end if stated else None

    @property
    def size(self) -> int:
        """Size of all weights in bytes, fetched or not; for a pack, with its bases."""
        adapters, packing = sum(entry.size for entry in self.index.adapters), self.index.packing
        if packing is None:
            return adapters
        spaces = zip(self.layout, packing.spaces, strict=True)
        values = sum(m.in_features * R_a + m.out_features * R_b for m, (R_a, R_b) in spaces)
        return adapters + 2 * values

    @property
    def layout(self) -> Layout:
        """Every adapted module of the base model, in canonical order."""
        return self.index.layout

    @cached_property
    def stored_layout(self) -> Layout:
        """The modules with the sizes of the stored factors, which are smaller in a pack."""
        packing = self.index.packing
        if packing is None:
            return self.layout
        spaces = zip(self.layout, packing.spaces, strict=True)
        return tuple(Module(module.name, *space) for module, space in spaces)

    @cached_property
    def basis(self) -> Basis | None:
        """The shared bases of a pack; None for a bank that is not packed."""
        if self.index.packing is None:
            return None
        return Basis(self.verified_file(BASIS_FILE), self.layout, self.stored_layout)

    def expand(self, module: str, A: FloatArray, B: FloatArray) -> FactorPair:
        """Map stored factors of a module to (r, in_features) and (out_features, r).

        In a pack, the stored factors are (r, R_a) and (R_b, r); otherwise they are returned as they
        are.
        """
        if self.basis is None:
            return A, B
        V, U = self.basis.module(module)
        return A @ V, U @ B

    @property
    def is_large(self) -> bool:
        """Whether plans compare candidates only; see `hf_lorameta.bank.index.LARGE`."""
        return self.index.is_large

    @cached_property
    def profiles(self) -> ProfileTable:
        """The profiles, in the order of ``index.entries``, of a bank that is not large.

        Raises:
            BankError: the bank is large.
        """
        if self.is_large:
            raise BankError(
                f"this compares all {len(self):,} datasets of {self.id} with each other, expected "
                f"a bank of at most {LARGE:,}",
                code="bank.too-large",
            )
        if not self.has_datasets:
            return ProfileTable.from_profiles([])
        table = ProfileTable(load_arrays(self.verified_file(PROFILES_FILE)))
        table.check(self.index.vocab_size)
        if len(table) != len(self):
            raise IntegrityError(
                f"{len(table)} profiles for {len(self)} entries in {self.folder}",
                code="bank.profiles-mismatch",
            )
        return table

    @cached_property
    def large_profiles(self) -> LargeProfiles:
        """The profiles of a large bank, with their sketches."""
        sketches = Sketches(load_arrays(self.verified_file(sketches_file(len(self)))))
        sketches.check(len(self))
        return LargeProfiles(self.files.read, self.index.files, sketches, self.index.vocab_size)

    @property
    def stored_profiles(self) -> ProfileTable | LargeProfiles:
        """The profiles of a bank of any size."""
        return self.large_profiles if self.is_large else self.profiles

    @cached_property
    def encode(self) -> Encode:
        """The base model's tokenizer, without special tokens."""
        return load_encode(self.verified_file(TOKENIZER_FILE))

    @cached_property
    def output_prior(self) -> OutputPrior | None:
        """The output prior for the base model; None if the bank has none."""
        stated = self.index.output_prior
        if stated is None:
            return None
        arrays = load_arrays(self.verified_file(OUTPUT_PRIOR_FILE))
        return prior_from_arrays(arrays, stated.module, self.index.vocab_size)

    @property
    def adapted_layout(self) -> Layout:
        """The modules of the layout, and that of the output prior if there is one."""
        stated = self.index.output_prior
        return (*self.layout, stated.module) if stated else self.layout

    @cached_property
    def distances(self) -> dict[str, NDArray[Any]]:
        """The stored (N, N) distances among the datasets by metric; empty if none are stored."""
        if DISTANCES_FILE not in self.index.files:
            return {}
        arrays = load_arrays(self.verified_file(DISTANCES_FILE))
        if any(array.shape != (len(self), len(self)) for array in arrays.values()):
            raise IntegrityError(
                f"{DISTANCES_FILE} does not fit the {len(self)} entries",
                code="bank.distances-mismatch",
            )
        return arrays

    def neural(self, metric: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of the neural rule for a metric; raise `BankError` if it has none."""
        train = shell("hf-lorameta", "bank", "train-rule", self.folder)
        if NEURAL_FILE not in self.index.files:
            raise BankError(
                f"{self.id} holds no neural rule", code="bank.no-neural-rule", hint=train
            )
        arrays = load_arrays(self.verified_file(NEURAL_FILE))
        trained = dict.fromkeys(name.partition(".")[0] for name in arrays)
        if metric not in trained:
            raise BankError(
                f"the neural rule of {self.id} is for {', '.join(trained)}, and not for {metric}",
                code="bank.other-metric",
                hint=[train, Option("coefficients", "kernel")],
            )
        prefix = f"{metric}."
        return {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    def adapter(self, entry: IndexEntry | GeneralEntry) -> AdapterFile:
        """Open one adapter's weights, fetching them if needed; in a pack, its small factors."""
        return self.adapters([entry])[0]

    def unpacked(self, entry: IndexEntry | GeneralEntry) -> AdapterFile:
        """Open one adapter's weights, fetching them if needed, in the base model's sizes."""
        file = self.adapter(entry)
        return UnpackedFile(file.path, self.basis, self.layout) if self.basis else file

    def _open(self, entry: IndexEntry | GeneralEntry) -> AdapterFile:
        path = self.files.verified(adapter_path(entry.name), entry.sha256)
        file = AdapterFile(path) if self.index.packing is None else PackedFile(path)
        if file.layout != self.stored_layout or file.rank != entry.rank:
            raise self.files.differs(f"{path} has other modules or ranks than the index")
        return file

    def adapters(
        self,
        entries: Sequence[IndexEntry | GeneralEntry] | None = None,
        progress: Progress = no_progress,
    ) -> list[AdapterFile]:
        """Open the adapters of `entries`, or of all of ``index.entries``, in parallel.

        On first use, they are fetched if needed, and their checksums are verified. `progress`
        is called after each with (done, total).
        """
        entries = self.index.entries if entries is None else entries
        names = [entry.name for entry in entries if isinstance(entry, IndexEntry)]
        fetched = count(1)
        fetch_adapters(self.files, self.index, names, lambda: progress(next(fetched), len(entries)))
        files: list[AdapterFile] = []
        with ThreadPoolExecutor(_OPENING_THREADS) as pool:
            for file in pool.map(self._open, entries):
                files.append(file)
                progress(len(files), len(entries))
        return files

    def verified_file(self, name: str) -> Path:
        """Return the path of one of ``index.files``, fetching it if needed."""
        return self.files.verified(name, self.index.files.get(name))

    def use_index(self, index: Index) -> None:
        """Take an index that was written to the folder in place of the present one.

        What was read before stays.
        """
        self.index, self._raw_index = index, index.to_bytes()
