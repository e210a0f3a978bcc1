"""A pack: adapters kept as small adapters inside one space that all of them share.

Per module there is one orthonormal basis V (R_a, in_features) for the rows of every lora_A and one
U (out_features, R_b) for the columns of every lora_B, see [1] and [2]. An adapter is then two small
factors a (r, R_a) and b (R_b, r) with ``A ≈ a V`` and ``B ≈ U b``, so that

    Σ c_i s_i B_i A_i  ≈  U (Σ c_i s_i b_i a_i) V,

and since U and V are orthonormal, the sum, its norm and its singular values are those of the small
matrix in the middle: everything that adds adapters up works on (a, b) as it does on (A, B).

The small factors are stored as a LoRA file whose layers have R_a inputs and R_b outputs, in
bfloat16 or float32, or as int8 with one float32 scale a rank.

References:
    [1] Brüel-Gabrielsson et al., Compress then Serve, arXiv 2407.00066, 2024.
    [2] Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
        arXiv 2509.17786, 2025.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.index import PackDtype
from hf_lorameta.errors import AdapterError, IntegrityError
from hf_lorameta.formats.lora_file import AdapterFile, ParsedHeader, cache_headers
from hf_lorameta.formats.lora_layout import FACTORS, Factor, Layout, read_layout, tensor_name
from hf_lorameta.formats.safetensors import (
    DTYPES,
    TensorInfo,
    build_header,
    narrow,
    read_header,
    read_header_bytes,
    widen,
    widen_into,
)
from hf_lorameta.types import FloatArray

_CODES = {"bf16": "BF16", "int8": "I8", "f32": "F32"}
_NAMES = {"bf16": "bfloat16", "f32": "float32", "int8": "bfloat16"}
_SIZES: Mapping[str, np.dtype[Any]] = DTYPES | {"I8": np.dtype(np.int8)}
_HELD = 2 << 20
"""Bytes up to which a file is read at once, and kept: small factors are many and tiny."""


def scales_name(module: str, factor: Factor) -> str:
    """Name of the scales beside an int8 tensor.

    Example:
        >>> scales_name("h.0.q", "A")
        'base_model.model.h.0.q.lora_A.scales'
    """
    return f"base_model.model.{module}.lora_{factor}.scales"


def quantize(values: FloatArray, axis: int) -> tuple[NDArray[np.int8], FloatArray]:
    """Symmetric int8: ``values ≈ integers · scales``, one scale for each rank.

    Args:
        values: lora_A (r, R) or lora_B (R, r).
        axis: of the rank: 0 for A, 1 for B.

    Returns:
        The integers in [-127, 127], shaped as `values`, and the (r,) scales.

    Example:
        >>> quantize(np.array([[1.0, -2.0], [0.0, 0.0]], np.float32), 0)[0].tolist()
        [[64, -127], [0, 0]]
    """
    largest = np.abs(values).max(axis=1 - axis, initial=0.0)
    scales = (largest / 127).astype(np.float32)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    integers = np.rint(values / np.expand_dims(steps, 1 - axis)).clip(-127, 127)
    return integers.astype(np.int8), scales


def dequantize(integers: NDArray[np.int8], scales: FloatArray, axis: int) -> FloatArray:
    """What `quantize` stored, as float32 in the shape of `integers`."""
    return np.asarray(integers * np.expand_dims(scales, 1 - axis), np.float32)


def encode(values: FloatArray, factor: Factor, dtype: PackDtype) -> bytes:
    """One small factor as it stands in a file, its scales behind it.

    Args:
        values: a (r, R_a) or b (R_b, r).
        factor: which of the two.
        dtype: how it is stored.
    """
    if dtype != "int8":
        return narrow(values, _NAMES[dtype])
    integers, scales = quantize(values, FACTORS.index(factor))
    return integers.tobytes() + scales.astype("<f4").tobytes()


def decode(raw: bytes, shape: tuple[int, int], factor: Factor, dtype: PackDtype) -> FloatArray:
    """What `encode` wrote: the values a reader of the pack will see."""
    if dtype != "int8":
        return widen(raw, TensorInfo(_CODES[dtype], shape, 0, len(raw)))
    size = math.prod(shape)
    integers = np.frombuffer(raw[:size], np.int8).reshape(shape)
    scales = np.frombuffer(raw[size:], "<f4").astype(np.float32)
    return dequantize(integers, scales, FACTORS.index(factor))


def small_header(layout: Layout, rank: int, dtype: PackDtype) -> bytes:
    """The header of a file of small factors; their `encode` d bytes follow, A before B.

    Args:
        layout: modules with R_a as in_features and R_b as out_features.
        rank: r of the adapter.
        dtype: how factors are stored.
    """
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for module in layout:
        for factor in FACTORS:
            name = tensor_name(module.name, factor)
            tensors.append((name, _CODES[dtype], module.shape(factor, rank)))
            if dtype == "int8":
                tensors.append((scales_name(module.name, factor), "F32", (rank,)))
    return build_header(tensors, _SIZES)[0]


def basis_header(layout: Layout, small: Layout, dtype: PackDtype) -> bytes:
    """The header of a basis file; per module the bytes of V and then of U follow.

    Args:
        layout: modules of the base model.
        small: the same with R_a and R_b as sizes.
        dtype: of the pack; a basis is float32 in an ``f32`` pack, else bfloat16.
    """
    code = "F32" if dtype == "f32" else "BF16"
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for module, space in zip(layout, small, strict=True):
        tensors.append((f"{module.name}.A", code, (space.in_features, module.in_features)))
        tensors.append((f"{module.name}.B", code, (module.out_features, space.out_features)))
    return build_header(tensors, _SIZES)[0]


def encode_basis(values: NDArray[Any], dtype: PackDtype) -> bytes:
    """A basis matrix as it stands in its file."""
    return narrow(values, _NAMES[dtype])


def decode_basis(raw: bytes, shape: tuple[int, int], dtype: PackDtype) -> FloatArray:
    """What `encode_basis` wrote."""
    return widen(raw, TensorInfo("F32" if dtype == "f32" else "BF16", shape, 0, len(raw)))


@cache_headers
def _parsed(head: bytes, size: int) -> ParsedHeader:
    """Header, layout and rank; the files of a pack mostly begin with the very same bytes."""
    infos = read_header(lambda start, stop: head[start:stop], size, _SIZES)
    scales = {name: info for name, info in infos.items() if name.endswith(".scales")}
    layout, rank = read_layout({n: info for n, info in infos.items() if n not in scales})
    wanted = {
        scales_name(module.name, factor): ("F32", (rank,))
        for module in layout
        for factor in FACTORS
        if infos[tensor_name(module.name, factor)].dtype == "I8"
    }
    if {name: info[:2] for name, info in scales.items()} != wanted:
        raise AdapterError("scales are missing for an int8 tensor, or idle")
    return MappingProxyType(infos), layout, rank


class PackedFile(AdapterFile):
    """The small factors of one adapter: an `AdapterFile` of the shared space.

    Args:
        path: the file. One of up to 2 MB is read at once and kept.

    Raises:
        AdapterError: the file is missing or is not a file of small factors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw: bytes | None = None
        try:
            size = path.stat().st_size
            self._raw = path.read_bytes() if size <= _HELD else None
            size = size if self._raw is None else len(self._raw)
            head = read_header_bytes(self._read, size)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from None
        self._infos, self.layout, self.rank = _parsed(head, size)

    def _read(self, start: int, stop: int) -> bytes:
        if self._raw is None:
            return super()._read(start, stop)
        if stop > len(self._raw):
            raise AdapterError(f"{self.path} ended at byte {len(self._raw)}, expected {stop}")
        return self._raw[start:stop]

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """One small factor as float32: a is (r, R_a), b is (R_b, r)."""
        info = self._infos[tensor_name(module, factor)]
        raw = self._read(info.start, info.stop)
        if info.dtype != "I8":
            return widen(raw, info)
        place = self._infos[scales_name(module, factor)]
        scales = widen(self._read(place.start, place.stop), place)
        integers = np.frombuffer(raw, np.int8).reshape(info.shape)
        return dequantize(integers, scales, FACTORS.index(factor))

    def flat(self, module: str, factor: Factor, start: int, stop: int) -> FloatArray:
        """Values [start, stop) of one small factor, row after row."""
        return self.tensor(module, factor).reshape(-1)[start:stop]

    def stack_alike(
        self, files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray
    ) -> bool:
        """All files at once, if each was read at once and all are laid out alike."""
        held = [file._raw for file in files if isinstance(file, PackedFile)]
        if None in held or not all(file.tensor_infos is self.tensor_infos for file in files):
            return False
        names = [tensor_name(module, factor) for factor in FACTORS]
        names += [scales_name(module, factor) for factor in FACTORS]
        places = [self._infos[name] for name in names if name in self._infos]
        start, stop = min(p.start for p in places), max(p.stop for p in places)
        joined = b"".join([memoryview(raw)[start:stop] for raw in held if raw is not None])
        rows = np.frombuffer(joined, np.uint8).reshape(len(files), stop - start)
        parts = [rows[:, place.start - start : place.stop - start] for place in places]
        (rank, R_a), (R_b, _) = places[0].shape, places[1].shape
        a, b = A.reshape(-1, rank, R_a), B.reshape(R_b, -1, rank).transpose(1, 0, 2)
        for axis, (target, raw) in enumerate(zip((a, b), parts, strict=False)):
            _spread(raw, parts[2 + axis] if len(parts) > 2 else None, axis, target)
        return True


def _spread(
    raw: NDArray[np.uint8], scales: NDArray[np.uint8] | None, axis: int, target: FloatArray
) -> None:
    """Bytes of one factor of N files, one a row, to float32: (N, size) → (N, …)."""
    if scales is not None:
        target[:] = raw.view(np.int8).reshape(target.shape)
        target *= np.expand_dims(scales.view("<f4"), 2 - axis)
    elif raw[0].size == 4 * target[0].size:
        target[:] = raw.view("<f4").reshape(target.shape)
    else:
        widen_into(raw.view("<u2").reshape(target.shape), target)


class Space(NamedTuple):
    """The shared space of one module: V (R_a, in_features) and U (out_features, R_b), float32."""

    V: FloatArray
    U: FloatArray

    def expand(self, A: FloatArray, B: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Small factors (r, R_a) and (R_b, r) back in the base model's space."""
        return A @ self.V, self.U @ B


class Basis:
    """The bases of a pack, read one module at a time.

    Args:
        path: the file.
        layout: modules of the base model.
        small: the same with R_a and R_b as sizes.

    Raises:
        IntegrityError: the file holds something else.
    """

    def __init__(self, path: Path, layout: Layout, small: Layout) -> None:
        self.path = path
        try:
            self._infos = read_header(self._read, path.stat().st_size)
        except AdapterError as error:
            raise IntegrityError(f"{path}: {error}") from None
        expected = dict(_shapes(layout, small))
        if {name: info.shape for name, info in self._infos.items()} != expected:
            raise IntegrityError(f"{path} holds other bases than the index says")

    def _read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(stop - start)
        if len(raw) != stop - start:
            raise IntegrityError(f"{self.path} ended at byte {start + len(raw)}, expected {stop}")
        return raw

    def space(self, module: str) -> Space:
        """V and U of one module."""
        infos = [self._infos[f"{module}.{factor}"] for factor in FACTORS]
        return Space(*(widen(self._read(info.start, info.stop), info) for info in infos))


def _shapes(layout: Layout, small: Layout) -> Iterator[tuple[str, tuple[int, int]]]:
    for module, space in zip(layout, small, strict=True):
        yield f"{module.name}.A", (space.in_features, module.in_features)
        yield f"{module.name}.B", (module.out_features, space.out_features)
