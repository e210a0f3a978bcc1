"""A bank on disk: adapters for one base model, each with the profile of its dataset.

    BANK/
      bank.json               the index (`Index`): what is in it, pinned and with checksums
      tokenizer.json          the base model's
      profiles.safetensors    every profile, in the order of the index (`ProfileTable`)
      adapters/<name>.safetensors   canonical bf16 weights, one file an adapter
      basis.safetensors       of a pack: the space its adapters share, see `hf_lorameta.bank.packed`
      distances.safetensors   how far its datasets are from each other, for the rule kernel
      neural.safetensors      the fitted neural rule, if there is one
      origin.json             of a pulled bank: where files not here yet come from
      .build/                 finished entries of a build, so that it can resume; and which files
                              were found right, so that they are not hashed each time

A bank is never loaded whole: the index and the profiles first, adapters one tensor at a time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from hf_lorameta.bank.index import (
    BASIS_FILE,
    DISTANCES_FILE,
    EMBEDDED_BANK,
    INDEX_FILE,
    NEURAL_FILE,
    ORIGIN_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    WORK_FOLDER,
    IndexEntry,
    adapter_path,
    parse_index,
)
from hf_lorameta.bank.packed import Basis, PackedFile
from hf_lorameta.data.profile import ProfileTable
from hf_lorameta.data.tokenizer import load_encode
from hf_lorameta.errors import (
    AdapterError,
    BankError,
    IntegrityError,
)
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.checksums import ChecksumCache
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Factor, Layout, Module
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.types import Encode, FloatArray

_SEEN_FILE = f"{WORK_FOLDER}/seen.json"
_OPENERS = 4
_BLOCK_BYTES = 64 << 20


class Bank:
    """An opened bank.

    Args:
        folder: of the bank.
        fetch: gets a file that is not here yet, by its name in the bank; None if all are here.
        id: name for cards and recipes: a Hub id, or ``embedded bank`` or ``local bank``.
        revision: commit of a bank repo.

    Attributes:
        index: what is in it.

    Raises:
        BankError: the folder holds no bank, or one of another schema.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fetch: Callable[[str], Path] | None = None,
        id: str = "local bank",
        revision: str | None = None,
    ) -> None:
        self.folder = folder
        self.id = id
        self.revision = revision
        self._fetch = fetch
        self._checksums = ChecksumCache(folder / _SEEN_FILE)
        self._raw_index = self._path(INDEX_FILE).read_bytes()
        self.index = parse_index(self._raw_index, folder)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> "Bank":
        """Open a bank folder, a bank repo on the Hub, or the default bank.

        Args:
            name: folder, Hub id of a dataset repo made by ``bank push``, or None for the default:
                ``HF_LORAMETA_BANK`` if set, else the bank embedded in this package.
            revision: of a repo.
            token: None uses the saved one.

        Raises:
            BankError: not a bank.
            HubError: the repo is missing or out of reach.

        Example:
            >>> Bank.from_pretrained().index.base_model
            'HuggingFaceTB/SmolLM2-135M-Instruct'
        """

        return open_bank(name, revision=revision, token=token)

    def __len__(self) -> int:
        return len(self.index.entries)

    def __repr__(self) -> str:
        return f"Bank({self.id}, {len(self)} adapters for {self.index.base_model})"

    @property
    def digest(self) -> str:
        """SHA-256 of the index, which pins everything else."""
        return hashlib.sha256(self._raw_index).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all weights, those not fetched yet included; of a pack with its basis."""
        weights = sum(entry.size for entry in self.index.entries)
        packing = self.index.packing
        if packing is None:
            return weights
        width = 4 if packing.dtype == "f32" else 2
        sides = zip(self.layout, packing.spaces, strict=True)
        return weights + width * sum(
            a * module.in_features + b * module.out_features for module, (a, b) in sides
        )

    @property
    def layout(self) -> Layout:
        """Every adapted module, in canonical order."""
        return tuple(Module(*module) for module in self.index.layout)

    @cached_property
    def stored_layout(self) -> Layout:
        """The modules as the files here have them: in a pack, with the sizes of its spaces."""
        packing = self.index.packing
        if packing is None:
            return self.layout
        sizes = zip(self.layout, packing.spaces, strict=True)
        return tuple(Module(module.name, *space) for module, space in sizes)

    @cached_property
    def basis(self) -> Basis | None:
        """The space that the adapters of a pack share; None for a bank of whole adapters."""
        if self.index.packing is None:
            return None
        return Basis(self._checked(BASIS_FILE), self.layout, self.stored_layout)

    def expand(self, module: str, A: FloatArray, B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Factors made of this bank's, as the base model needs them.

        Args:
            module: its name.
            A: (r, R_a) of a pack, (r, in_features) of a bank of whole adapters.
            B: (R_b, r) or (out_features, r).

        Returns:
            (r, in_features) and (out_features, r); of a bank of whole adapters, what was given.
        """
        return (A, B) if self.basis is None else self.basis.space(module).expand(A, B)

    @cached_property
    def profiles(self) -> ProfileTable:
        """The profiles, in the order of ``index.entries``."""
        table = ProfileTable(load_arrays(self._checked(PROFILES_FILE)))
        table.check(self.index.vocab_size)
        if len(table) != len(self):
            raise IntegrityError(f"{len(table)} profiles for {len(self)} entries in {self.folder}")
        return table

    @cached_property
    def encode(self) -> Encode:
        """The base model's tokenizer, without special tokens."""
        return load_encode(self._checked(TOKENIZER_FILE))

    def verified_file(self, name: str) -> Path:
        """One of ``index.files``, here and right, fetched if need be."""
        return self._checked(name)

    @cached_property
    def distances(self) -> dict[str, NDArray[Any]]:
        """Per metric, the stored (N, N) distances among the bank's datasets, if there are any."""
        if DISTANCES_FILE not in self.index.files:
            return {}
        found = load_arrays(self._checked(DISTANCES_FILE))
        if any(array.shape != (len(self), len(self)) for array in found.values()):
            raise IntegrityError(f"{DISTANCES_FILE} does not fit the {len(self)} entries")
        return found

    def neural(self) -> dict[str, NDArray[Any]]:
        """Arrays of the fitted neural rule.

        Raises:
            BankError: the bank was never fitted.
        """
        if NEURAL_FILE not in self.index.files:
            raise BankError(
                f"{self.id} holds no neural rule", hint=f"hf-lorameta bank fit {self.folder}"
            )
        return load_arrays(self._checked(NEURAL_FILE))

    def adapter(self, entry: IndexEntry) -> AdapterFile:
        """Open one adapter's weights, fetching them first if they are not here.

        Of a pack these are the small factors, see `expand`.

        Raises:
            IntegrityError: the file is not the one that was indexed.
        """
        name = adapter_path(entry.name)
        here = (self.folder / name).exists()
        path = self._path(name)
        if not self._checksums.verify(name, path, entry.sha256):
            if here:
                raise IntegrityError(f"{path}: checksum differs from the index", hint=self._mend)
            discard(path)  # what was fetched just now must not be taken for good later
            raise IntegrityError(
                f"{name} of {self.id}: checksum differs from the index",
                hint=f"pull the bank again, and if it stays so, tell the owner of {self.id}",
            )
        file = AdapterFile(path) if self.index.packing is None else PackedFile(path)
        if file.layout != self.stored_layout or file.rank != entry.rank:
            raise IntegrityError(
                f"{path} has other modules or ranks than the index", hint=self._mend
            )
        return file

    def adapters(self, entries: Sequence[IndexEntry] | None = None) -> list[AdapterFile]:
        """Open many adapters, a few at a time; None opens all. Raises as `adapter`."""
        chosen = self.index.entries if entries is None else entries
        with ThreadPoolExecutor(_OPENERS) as pool:
            files = list(pool.map(self.adapter, chosen))
        self.save_checksums()
        return files

    def blocks(self, columns: int = 1 << 18) -> Iterator[FloatArray]:
        """All adapters flattened, as blocks (N, m) with m ≤ `columns`, for Gram matrices.

        A block holds 64 MB at most. Of a pack these are the small factors, whose products are those
        of the adapters as far as the shared space keeps them.
        """
        files = self.adapters()
        columns = max(1, min(columns, _BLOCK_BYTES // (4 * len(files))))
        for module in self.stored_layout:
            factors: tuple[Factor, ...] = ("A", "B")
            for factor in factors:
                size = min(f.size(module.name, factor) for f in files)
                if any(f.size(module.name, factor) != size for f in files):
                    raise AdapterError("the adapters differ in rank, expected one rank in the bank")
                for start in range(0, size, columns):
                    stop = min(size, start + columns)
                    yield np.stack([f.flat(module.name, factor, start, stop) for f in files])

    def verify(self) -> list[str]:
        """Recompute every checksum of what is here.

        Returns:
            One line for each file that is wrong or missing; empty if the bank is whole.
        """
        expected = dict(self.index.files)
        expected |= {adapter_path(e.name): e.sha256 for e in self.index.entries}
        problems = []
        for name, digest in sorted(expected.items()):
            path = self.folder / name
            if not path.exists():
                if self._fetch is None:
                    problems.append(f"{name}: missing")
            elif sha256(path) != digest:
                problems.append(f"{name}: checksum differs from the index")
        return problems

    def store_neural(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put a fitted neural rule into the bank.

        Raises:
            BankError: the bank was fetched from the Hub.
        """
        self.require_local()
        path = self.folder / NEURAL_FILE
        write_atomically(path, safetensors.numpy.save(dict(arrays)))
        self.update_index(files=self.index.files | {NEURAL_FILE: sha256(path)})

    def save_checksums(self) -> None:
        """Keep which files were right, in a bank that was built, packed or pulled here.

        The Hub client's cache and the embedded bank are left as they are.
        """
        if any((self.folder / name).exists() for name in (WORK_FOLDER, ORIGIN_FILE)):
            self._checksums.save()

    def require_local(self) -> None:
        """Refuse to change a copy of a repo: its commit must tell what it holds.

        Raises:
            BankError: the bank was fetched from the Hub.
        """
        if self._fetch is not None:
            raise BankError(
                f"{self.id} was fetched from the Hub and stays as its commit says",
                hint="fit the bank where it was built, then push it: hf-lorameta bank fit DIR",
            )

    def update_index(self, **changes: object) -> None:
        """Replace fields of the index, here and in ``bank.json``."""
        self.index = self.index.model_copy(update=changes)
        self._raw_index = self.index.to_bytes()
        write_atomically(self.folder / INDEX_FILE, self._raw_index)

    @property
    def _mend(self) -> str:
        return f"delete the file, then run: hf-lorameta bank verify {self.folder}"

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if path.exists():
            return path
        if self._fetch is None:
            what = "no bank" if name == INDEX_FILE else f"no {name}"
            raise BankError(
                f"{self.folder} holds {what}",
                hint="hf-lorameta bank build bank_manifest.yaml -o DIR makes one",
            )
        return self._fetch(name)

    def _checked(self, name: str) -> Path:
        here = (self.folder / name).exists()
        path = self._path(name)
        if not self._checksums.verify(name, path, self.index.files.get(name)):
            if not here:
                discard(path)
            raise IntegrityError(f"{path}: checksum differs from the index", hint=self._mend)
        return path


def discard(path: Path) -> None:
    """Delete a fetched file, in the client's cache together with what its link points to."""
    target = path.resolve()
    path.unlink()
    target.unlink(missing_ok=True)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a safetensors file.

    Raises:
        BankError: the file is missing or malformed.
    """
    try:
        return dict(safetensors.numpy.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise BankError(f"{path} cannot be read: {error}") from None


BANK_VARIABLE = "HF_LORAMETA_BANK"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "demo" / "bank"


def open_bank(
    name: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Bank:
    """Open a bank; see `Bank.from_pretrained`, which calls this."""
    name = name or os.environ.get(BANK_VARIABLE) or None
    if name is None:
        return Bank(EMBEDDED_FOLDER, id=EMBEDDED_BANK)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(folder, token)
    if len(folder.parts) != 2 or folder.is_absolute():
        raise BankError(
            f"{name} is neither a folder here nor a Hub id of the form user/bank",
            hint="hf-lorameta bank build bank_manifest.yaml -o DIR makes a bank",
        )
    connection = Hub(token)
    repo = connection.resolve(str(name), "dataset", revision, blobs=True)
    index = connection.download(repo, INDEX_FILE)
    return Bank(
        index.parent,
        fetch=lambda file: connection.download(repo, file),
        id=repo.repo_id,
        revision=repo.sha,
    )


def _open_folder(folder: Path, token: str | None) -> Bank:
    origin = folder / ORIGIN_FILE
    if not origin.exists():
        return Bank(folder)
    try:
        stored = json.loads(origin.read_bytes())
        repo = PinnedRepo(stored["repo_id"], "dataset", stored["sha"])
    except (ValueError, KeyError, TypeError):
        raise BankError(
            f"{origin} is damaged", hint=f"hf-lorameta bank pull REPO -o {folder}"
        ) from None
    return Bank(
        folder,
        fetch=lambda file: Hub(token).download(repo, file, local_dir=folder),
        id=repo.repo_id,
        revision=repo.sha,
    )
