"""Pack a bank: store its adapters as small factors in bases that all of them share.

The bank is read from disk once, module by module. See `hf_lorameta.bank.pack_format` for the format
and `hf_lorameta.bank.shared_basis` for how the bases are found.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.executors import WORKERS, in_modules
from hf_lorameta.bank.index import (
    BASIS_FILE,
    Packing,
    adapter_path,
    write_index,
)
from hf_lorameta.bank.locked import new_bank_folder
from hf_lorameta.bank.pack_format import basis_header, decode, encode, small_header
from hf_lorameta.bank.shared_basis import Chunk, ModuleReader, find_basis
from hf_lorameta.errors import BankError, UsageError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats import safetensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.safetensors import TensorInfo, read_range
from hf_lorameta.types import Array, Progress, no_progress


@dataclass(frozen=True)
class _PackedModule:
    """A packed module in a temporary file: the bases, then the small factors of all adapters."""

    path: Path
    space: tuple[int, int]  # (R_a, R_b)
    starts: list[int]  # (N + 1,) of the adapters in the file, and its end
    total: Array  # (N,) energies of the updates
    lost: Array  # (N,) energies of the difference to the packed updates


def pack(
    source: Bank,
    target: Path,
    *,
    basis: int,
    progress: Progress = no_progress,
) -> Bank:
    """Write a bank as a pack: the same entries and profiles, with adapters in shared bases.

    A basis as large as the span of all adapters loses nothing but rounding, of 0.01 to 0.03%
    of the energy. The same bank, settings and numerical libraries give the same bytes.

    Args:
        target: folder of the pack, which must not exist; it appears only when complete.
        basis: largest number of dimensions on each side of a module.
        progress: called after each module with (done, total).

    Raises:
        UsageError: `target` exists, or `basis` is less than 1.
        BankError: `source` is a pack, or `target` cannot be written.
        AdapterError: an adapter is damaged.
    """
    if basis < 1:
        raise UsageError(f"basis={basis}, expected at least 1", code="pack.basis-too-low")
    if source.index.packing:
        raise BankError(
            f"{source.folder} is a pack already",
            code="bank.is-a-pack",
            hint="name the bank that it was packed from",
        )
    with new_bank_folder(target) as folder:
        _write_pack(source, folder, basis, progress)
    return Bank(target)


def _write_pack(source: Bank, folder: Path, basis: int, progress: Progress) -> None:
    """Write the pack into a folder; temporary parts are written beside it."""
    layout = source.layout
    modules = _pack_modules(source, folder.parent, basis, progress)
    small = tuple(Module(m.name, *packed.space) for m, packed in zip(layout, modules, strict=True))
    with (folder / BASIS_FILE).open("wb") as file:
        file.write(basis_header(layout, small))
        for module in modules:
            file.write(read_range(module.path, 0, module.starts[0]))
        os.fsync(file.fileno())
    entries = []
    for i, entry in enumerate(source.index.adapters):
        path = folder / adapter_path(entry.name)
        factors = b"".join(read_range(m.path, m.starts[i], m.starts[i + 1]) for m in modules)
        write_atomically(path, small_header(small, entry.rank) + factors)
        changes = {"size": path.stat().st_size, "sha256": sha256(path)}
        entries.append(entry.model_copy(update=changes))
    for module in modules:
        module.path.unlink()
    own = {source.index.entries_file} if source.is_large else set()
    kept = {name: digest for name, digest in source.index.files.items() if name not in own}
    for name in kept:
        shutil.copyfile(source.verified_file(name), folder / name)
    changes = {
        "entries": tuple(entries[: len(source)]),
        "general": entries[-1] if source.index.general else None,
        "files": kept | {BASIS_FILE: sha256(folder / BASIS_FILE)},
        "packing": _packing(source, modules),
        "schema_version": 2,
    }
    write_index(folder, source.index.model_copy(update=changes))


def _pack_modules(
    source: Bank, scratch: Path, basis: int, progress: Progress
) -> list[_PackedModule]:
    layout, files = source.layout, source.adapters(source.index.adapters)
    scalings = np.array([entry.scaling for entry in source.index.adapters])

    def pack_one(number: int) -> _PackedModule:
        reader = ModuleReader(files, scalings, layout[number])
        return _pack_module(reader, basis, number, scratch / f"{number}.part")

    modules: list[_PackedModule] = []
    for module in in_modules(pack_one, len(layout), WORKERS):
        modules.append(module)
        progress(len(modules), len(layout))
    return modules


def _pack_module(reader: ModuleReader, size: int, number: int, path: Path) -> _PackedModule:
    right, left = (find_basis(reader, side, size, (0, number, side)) for side in (0, 1))
    raw_V, raw_U = (safetensors.to_bytes(basis, "bfloat16") for basis in (right.T, left))
    V, U = (
        safetensors.to_float32(raw, TensorInfo("BF16", shape, 0, len(raw))).astype(np.float64)
        for raw, shape in ((raw_V, right.T.shape), (raw_U, left.shape))
    )
    starts, energies = [len(raw_V) + len(raw_U)], []
    with path.open("wb") as file:
        file.write(raw_V + raw_U)
        for chunk in reader.chunks():
            encoded, energy = _project(chunk, V, U)
            energies.append(energy)
            for factors in encoded:
                file.write(factors)
                starts.append(starts[-1] + len(factors))
    total, lost = np.concatenate(energies, axis=1)
    return _PackedModule(path, (len(V), U.shape[1]), starts, total, lost)


def _project(chunk: Chunk, V: Array, U: Array) -> tuple[list[bytes], Array]:
    """Project onto the rounded bases by least squares; return stored bytes and (2, n) energies."""
    M_v, M_u = V @ V.T, U.T @ U
    AV = chunk.A @ V.T.astype(np.float32)  # (n, r, R_a)
    UB = U.T.astype(np.float32) @ chunk.B  # (n, R_b, r)
    a = (AV @ np.linalg.inv(M_v)).astype(np.float32)
    b = (np.linalg.inv(M_u) @ UB).astype(np.float32)
    encoded, energies = [], np.empty((2, len(a)))
    for i in range(len(a)):
        raw = encode(a[i], "A"), encode(b[i], "B")
        encoded.append(b"".join(raw))
        a_i, b_i = decode(raw[0], a[i].shape, "A"), decode(raw[1], b[i].shape, "B")
        A, B = (x.astype(np.float64) for x in (chunk.A[i], chunk.B[i]))
        total = np.vdot(B.T @ B, A @ A.T)
        cross = np.vdot(UB[i].T @ b_i, AV[i] @ a_i.T)
        own = np.vdot(b_i.T @ M_u @ b_i, a_i @ M_v @ a_i.T)
        energies[:, i] = total, max(0.0, total - 2 * cross + own)
    return encoded, energies * np.square(chunk.s)


def _packing(source: Bank, modules: Sequence[_PackedModule]) -> Packing:
    total = np.sum([module.total for module in modules], axis=0)
    lost = np.sum([module.lost for module in modules], axis=0)
    return Packing(
        spaces=tuple(module.space for module in modules),
        retained=tuple(_retained(m.lost.sum(), m.total.sum()) for m in modules),
        retained_whole=_retained(lost.sum(), total.sum()),
        retained_least=min(_retained(*pair) for pair in zip(lost, total, strict=True)),
        source=source.digest,
        source_id=source.id if source.revision else None,
        source_revision=source.revision,
    )


def _retained(lost: float, total: float) -> float:
    return float(1.0 - lost / total) if total else 1.0
