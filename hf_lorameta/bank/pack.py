"""Packing a bank: one shared basis a module, found while the bank is read once from the disk.

The basis is the one that keeps most of the *updates*: V is spanned by the leading right singular
vectors of all ``s_i B_i A_i`` stacked on one another, U by the left ones of all side by side (a
truncated HOSVD [1]). Rows of A are therefore weighted with ``S_i``, ``S_iᵀS_i = s_i² B_iᵀB_i``: the
stack has r rows an adapter instead of out_features.

The basis comes from products with the Gram matrix G of the weighted rows: with the whole of G where
a side of the module is small, else by subspace iteration and the Nyström approximation [2]. G is
never held; its products are summed over a few adapters at a time, so that memory does not grow with
the bank. A module is read from the disk once, and again from the system's cache.

References:
    [1] De Lathauwer, De Moor, Vandewalle, A Multilinear Singular Value Decomposition,
        SIAM J. Matrix Anal. Appl. 21, 2000.
    [2] Tropp, Yurtsever, Udell, Cevher, Fixed-Rank Approximation of a Positive-Semidefinite Matrix
        from Streaming Data, arXiv 1706.05736, 2017, algorithm 3.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import (
    BASIS_FILE,
    INDEX_FILE,
    WORK_FOLDER,
    IndexEntry,
    PackDtype,
    Packing,
    adapter_path,
)
from hf_lorameta.bank.packed import (
    basis_header,
    decode,
    decode_basis,
    encode,
    encode_basis,
    small_header,
)
from hf_lorameta.errors import AdapterError, BankError, UsageError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import AdapterFile, stack
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.types import Array, FloatArray

DEFAULT_RETENTION = 0.98
_START = 64  # dimensions tried first where a retention is wanted
_WHOLE = 1024  # side up to which G is held and its eigenvectors are exact
_PASSES = 2  # over a module, before the one that projects
_CHUNK_BYTES = 32 << 20
_WORKERS = min(4, os.cpu_count() or 1)
_SHIFT = 1e-6  # of Nyström, relative to the product's norm: what float32 leaves


class _Wanted(NamedTuple):
    basis: int | None
    retention: float | None
    dtype: PackDtype
    seed: int


def pack(
    source: Bank,
    target: Path,
    *,
    basis: int | None = None,
    retention: float | None = None,
    dtype: PackDtype = "bf16",
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bank:
    """Write a bank as a pack: the same entries and profiles, adapters in a shared space.

    With a basis as large as all adapters span nothing is lost but rounding. The same bank, settings
    and numerical libraries give the same bytes.

    Args:
        source: the bank; all its adapters are read.
        target: folder of the pack; must not exist, and appears only when complete.
        basis: at most so many dimensions on each side of a module; None is no bound.
        retention: in every module take as few dimensions as keep this share of the updates' energy
            ``Σ‖s_i B_i A_i‖²``. None takes `basis`, or 0.98 if that is None too.
        dtype: of the small factors: ``bf16``, ``int8`` with scales, or ``f32`` (bases then too).
        seed: of the range finder's start.
        progress: called after each module with (done, total).

    Raises:
        UsageError: a setting is out of range, or `target` exists.
        BankError: `source` is a pack, or the disk is full.
        AdapterError: an adapter is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = pack(Bank.from_pretrained(), Path(folder) / "pack", basis=8)
        ...     made.stored_layout[0].in_features, 0.5 < made.index.packing.retained_whole < 1.0
        (8, True)
    """
    wanted = _checked(_Wanted(basis, retention, dtype, seed))
    if source.index.packing:
        raise BankError(f"{source.folder} is a pack already", hint="name the bank it was made from")
    if target.exists():
        raise UsageError(f"{target} exists", hint="name a new folder with -o")
    scratch = target.resolve().with_name(f".{target.name}.packing")
    try:
        with _owned(scratch):
            _pack(source, scratch, wanted, progress).rename(target)
    except Timeout:
        raise BankError(f"{target} is being packed by another command") from None
    except OSError as error:
        raise BankError(
            f"{target} could not be written: {error.strerror or error}",
            hint="free some space or name another folder with -o",
        ) from None
    return Bank(target)


@contextmanager
def _owned(scratch: Path) -> Iterator[None]:
    """A folder of this process alone, gone at the end however that comes; kill -9 leaves it."""
    scratch.mkdir(parents=True, exist_ok=True)
    with FileLock(scratch / "lock", timeout=0):
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _checked(wanted: _Wanted) -> _Wanted:
    if wanted.basis is not None and wanted.basis < 1:
        raise UsageError(f"--basis is {wanted.basis}, expected at least 1")
    if wanted.retention is not None and not 0 < wanted.retention <= 1:
        raise UsageError(f"--retention is {wanted.retention}, expected above 0 and at most 1")
    if wanted.basis is None and wanted.retention is None:
        return wanted._replace(retention=DEFAULT_RETENTION)
    return wanted


def _pack(
    source: Bank, scratch: Path, wanted: _Wanted, progress: Callable[[int, int], None]
) -> Path:
    fresh = scratch / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    (fresh / "adapters").mkdir(parents=True)
    (fresh / WORK_FOLDER).mkdir()
    entries, layout = source.index.entries, source.layout
    scalings = np.array([entry.scaling for entry in entries])
    files = source.adapters()

    def one(number: int) -> _Made:
        stacks = _Stacks(files, scalings, layout[number])
        return _pack_module(stacks, wanted, number, scratch / f"{number}.part")

    made: list[_Made] = []
    # one BLAS thread a module, as in `generation`: the same bits on any number of cores
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_WORKERS) as pool:
        for result in pool.map(one, range(len(layout))):
            made.append(result)
            progress(len(made), len(layout))
    small = tuple(Module(m.name, *r.space) for m, r in zip(layout, made, strict=True))
    parts = [scratch / f"{number}.part" for number in range(len(layout))]
    with (fresh / BASIS_FILE).open("wb") as file:
        file.write(basis_header(layout, small, wanted.dtype))
        for part, result in zip(parts, made, strict=True):
            file.write(_slice(part, 0, result.starts[0]))
        os.fsync(file.fileno())
    packed = []
    for i, entry in enumerate(entries):
        pieces = [_slice(p, *r.starts[i : i + 2]) for p, r in zip(parts, made, strict=True)]
        path = fresh / adapter_path(entry.name)
        write_atomically(path, small_header(small, entry.rank, wanted.dtype) + b"".join(pieces))
        packed.append((path.stat().st_size, sha256(path)))
    for part in parts:
        part.unlink()
    _write_index(source, fresh, wanted.dtype, made, packed)
    return fresh


def _slice(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _write_index(
    source: Bank,
    fresh: Path,
    dtype: PackDtype,
    made: "Sequence[_Made]",
    packed: list[tuple[int, str]],
) -> None:
    index = source.index
    for name in index.files:
        shutil.copyfile(source.verified_file(name), fresh / name)
    entries: list[IndexEntry] = [
        entry.model_copy(update={"size": size, "sha256": digest})
        for entry, (size, digest) in zip(index.entries, packed, strict=True)
    ]
    total, lost = (np.sum([getattr(r, k) for r in made], axis=0) for k in ("total", "lost"))
    packing = Packing(
        dtype=dtype,
        spaces=tuple(result.space for result in made),
        retained=tuple(_share(r.lost.sum(), r.total.sum()) for r in made),
        retained_whole=_share(lost.sum(), total.sum()),
        retained_least=min(_share(*pair) for pair in zip(lost, total, strict=True)),
        source=source.digest,
        source_id=source.id if source.revision else None,
        source_revision=source.revision,
    )
    files = index.files | {BASIS_FILE: sha256(fresh / BASIS_FILE)}
    changes = {"entries": tuple(entries), "files": files, "packing": packing, "schema_version": 2}
    write_atomically(fresh / INDEX_FILE, index.model_copy(update=changes).to_bytes())


def _share(lost: float, total: float) -> float:
    return float(1.0 - lost / total) if total else 1.0


# --- one module ---------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    """Some adapters of one module, equal in rank: A (n, r, in), B (n, out, r), s (n,)."""

    A: FloatArray
    B: FloatArray
    s: Array


class _Stacks:
    """One module of all adapters, read a few at a time, as often as is needed."""

    def __init__(self, files: Sequence[AdapterFile], scalings: Array, module: Module) -> None:
        self.files, self.scalings, self.module = files, scalings, module
        self.rank = sum(file.rank for file in files)

    def chunks(self) -> Iterator[_Chunk]:
        """Chunks of equal rank, in the order of the files."""
        width = 4 * (self.module.in_features + self.module.out_features)
        start = 0
        while start < len(self.files):
            rank = self.files[start].rank
            stop = start + 1
            most = start + max(1, _CHUNK_BYTES // (width * rank))
            while stop < min(most, len(self.files)) and self.files[stop].rank == rank:
                stop += 1
            As, Bs = stack(self.files[start:stop], self.module.name)
            yield _Chunk(np.stack(As), np.stack(Bs), self.scalings[start:stop])
            start = stop

    def rows(self, side: int) -> Iterator[FloatArray]:
        """Weighted rows (n · r, dim): of the As for side 0, of the Bᵀs for side 1."""
        for chunk in self.chunks():
            A, Bt = chunk.A, chunk.B.transpose(0, 2, 1)
            own, other = (A, Bt) if side == 0 else (Bt, A)
            weighted = _root(other, chunk.s) @ own
            yield weighted.reshape(-1, weighted.shape[-1])


def _root(rows: FloatArray, s: Array) -> FloatArray:
    """S (n, r, r) with ``SᵀS = s² X Xᵀ`` for X (n, r, dim)."""
    G = rows.astype(np.float64) @ rows.transpose(0, 2, 1) * np.square(s)[:, None, None]
    if not np.isfinite(G).all():
        raise AdapterError("an adapter holds NaN or infinite values")
    values, vectors = np.linalg.eigh(G)
    root = np.sqrt(values.clip(0))[:, :, None] * vectors.transpose(0, 2, 1)
    return np.asarray(root, np.float32)


@dataclass(frozen=True)
class _Made:
    """One packed module: sizes of its spaces, where adapters start in its part, energies (N,)."""

    space: tuple[int, int]
    starts: list[int]
    total: Array
    lost: Array


def _pack_module(stacks: _Stacks, wanted: _Wanted, number: int, part: Path) -> _Made:
    bases = [_basis(stacks, side, wanted, (wanted.seed, number, side)) for side in (0, 1)]
    raw = [encode_basis(bases[0].T, wanted.dtype), encode_basis(bases[1], wanted.dtype)]
    V = decode_basis(raw[0], bases[0].T.shape, wanted.dtype).astype(np.float64)
    U = decode_basis(raw[1], bases[1].shape, wanted.dtype).astype(np.float64)
    starts, energies = [sum(map(len, raw))], []
    with part.open("wb") as file:
        for piece in raw:
            file.write(piece)
        for chunk in stacks.chunks():
            pieces, energy = _project(chunk, V, U, wanted.dtype)
            energies.append(energy)
            for piece in pieces:
                file.write(piece)
                starts.append(starts[-1] + len(piece))
    total, lost = np.concatenate(energies, axis=1)
    return _Made((len(V), U.shape[1]), starts, total, lost)


def _project(chunk: _Chunk, V: Array, U: Array, dtype: PackDtype) -> tuple[list[bytes], Array]:
    """Least squares in the rounded bases; the stored bytes of each adapter, and (2, n) energies."""
    M_v, M_u = V @ V.T, U.T @ U
    inside = chunk.A @ V.T.astype(np.float32)  # (n, r, R_a)
    outside = U.T.astype(np.float32) @ chunk.B  # (n, R_b, r)
    a = (inside @ np.linalg.inv(M_v)).astype(np.float32)
    b = (np.linalg.inv(M_u) @ outside).astype(np.float32)
    pieces, kept = [], np.empty((2, len(a)))
    for i in range(len(a)):
        raw = encode(a[i], "A", dtype), encode(b[i], "B", dtype)
        pieces.append(b"".join(raw))
        a_i, b_i = decode(raw[0], a[i].shape, "A", dtype), decode(raw[1], b[i].shape, "B", dtype)
        A, B = (x.astype(np.float64) for x in (chunk.A[i], chunk.B[i]))
        total = np.vdot(B.T @ B, A @ A.T)
        cross = np.vdot(outside[i].T @ b_i, inside[i] @ a_i.T)
        own = np.vdot(b_i.T @ M_u @ b_i, a_i @ M_v @ a_i.T)
        kept[:, i] = total, max(0.0, total - 2 * cross + own)
    return pieces, kept * np.square(chunk.s)


# --- the basis ----------------------------------------------------------------------------------


def _basis(stacks: _Stacks, side: int, wanted: _Wanted, seed: tuple[int, ...]) -> Array:
    """(dim, R) orthonormal, by falling energy."""
    module = stacks.module
    dim = (module.in_features, module.out_features)[side]
    span = min(dim, stacks.rank)
    most = span if wanted.basis is None else min(span, wanted.basis)
    if wanted.retention is None and stacks.rank <= most and dim > stacks.rank:
        return _span(stacks, side)
    if dim <= _WHOLE or 2 * most > dim:
        return _cut(*_whole(stacks, side, dim), most, wanted.retention)
    size = most if wanted.retention is None else min(most, _START)
    while True:
        vectors, energies, total = _nystrom(stacks, side, dim, size, seed)
        found = _cut(vectors, energies, total, size, wanted.retention)
        if found.shape[1] < size or size == most:
            return found
        size = min(most, 2 * size)
        if 2 * size > dim:
            return _cut(*_whole(stacks, side, dim), most, wanted.retention)


def _cut(vectors: Array, energies: Array, total: float, most: int, share: float | None) -> Array:
    """The leading columns: `most`, or as few as leave half of what may be lost to this side."""
    if share is None or not total:
        return vectors[:, : most if share is None else 1]
    enough = total * (1 - (1 - share) / 2 * 0.99)
    needed = int(np.searchsorted(np.cumsum(energies), enough)) + 1
    return vectors[:, : min(most, needed)]


def _span(stacks: _Stacks, side: int) -> Array:
    """Everything the unweighted rows span."""
    chunks = [c.A if side == 0 else c.B.transpose(0, 2, 1) for c in stacks.chunks()]
    rows = np.concatenate([c.reshape(-1, c.shape[-1]) for c in chunks])
    return np.asarray(np.linalg.qr(rows.T.astype(np.float64))[0])


def _whole(stacks: _Stacks, side: int, dim: int) -> tuple[Array, Array, float]:
    G = np.zeros((dim, dim))
    for rows in stacks.rows(side):
        exact = rows.astype(np.float64)
        G += exact.T @ exact
    values, vectors = np.linalg.eigh(G)
    return vectors[:, ::-1], values[::-1].clip(0), float(np.trace(G))


def _nystrom(
    stacks: _Stacks, side: int, dim: int, size: int, seed: tuple[int, ...]
) -> tuple[Array, Array, float]:
    """Leading eigenvectors of G, their eigenvalues, and G's trace."""
    width = min(dim, size + max(16, size // 4))
    X = np.random.default_rng(seed).standard_normal((dim, width))
    total = 0.0
    for _ in range(_PASSES):
        X = np.linalg.qr(X)[0]
        Y, total, X32 = np.zeros_like(X), 0.0, X.astype(np.float32)
        for rows in stacks.rows(side):
            Y += rows.T @ (rows @ X32)
            total += float(np.vdot(rows, rows))
        X, last = Y, X
    shift = _SHIFT * float(np.linalg.norm(Y))
    Y = Y + shift * last
    core = last.T @ Y
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    F = Y @ (vectors / np.sqrt(values.clip(shift or 1.0)))
    U, s, _ = np.linalg.svd(F, full_matrices=False)
    return U, (np.square(s) - shift).clip(0), total
