"""The files of a pack: small factors in bases that all adapters share.

Each module has an orthonormal basis V (R_a, in_features) for the rows of every lora_A and U
(out_features, R_b) for the columns of every lora_B, see [1] and [2]. An adapter is stored as small
factors a (r, R_a) and b (R_b, r) with ``A ≈ a V`` and ``B ≈ U b``, so that

    Σ c_i s_i B_i A_i  ≈  U (Σ c_i s_i b_i a_i) V.

Since U and V are orthonormal, norm and singular values of the sum are those of the small matrix in
the middle: adapters can be combined through (a, b) as through (A, B).

Small factors are a LoRA file of modules with R_a inputs and R_b outputs, in bfloat16, in float32,
or in int8 with one float32 scale per rank.

References:
    [1] Brüel-Gabrielsson et al., Compress then Serve, arXiv 2407.00066, 2024.
    [2] Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
        arXiv 2509.17786, 2025.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.index import PackDtype
from hf_lorameta.errors import AdapterError, IntegrityError
from hf_lorameta.formats import safetensors
from hf_lorameta.formats.lora_file import AdapterFile, ParsedHeader, cache_headers
from hf_lorameta.formats.lora_layout import FACTORS, Factor, Layout, read_layout, tensor_name
from hf_lorameta.formats.safetensors import DTYPES, TensorInfo
from hf_lorameta.types import FactorPair, FloatArray

_CODES = {"bf16": "BF16", "int8": "I8", "f32": "F32"}
_TORCH_DTYPES = {"bf16": "bfloat16", "f32": "float32"}
_SIZES: Mapping[str, np.dtype[Any]] = DTYPES | {"I8": np.dtype(np.int8)}
_MAX_CACHED_BYTES = 2 << 20  # of a file; most files of small factors are tiny


def scales_name(module: str, factor: Factor) -> str:
    """Return the name of the scales of an int8 tensor."""
    return f"base_model.model.{module}.lora_{factor}.scales"


def quantize(values: FloatArray, axis: int) -> tuple[NDArray[np.int8], FloatArray]:
    """Quantize to symmetric int8, ``values ≈ integers · scales``, with (r,) scales.

    The axis of the rank is 0 for a (r, R_a) and 1 for b (R_b, r).

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
    """Invert `quantize`: float32 in the shape of `integers`."""
    return np.asarray(integers * np.expand_dims(scales, 1 - axis), np.float32)


def encode(values: NDArray[Any], factor: Factor, dtype: PackDtype) -> bytes:
    """Return the stored bytes of a (r, R_a) or b (R_b, r); those of int8 scales follow."""
    if dtype != "int8":
        return safetensors.narrow(values, _TORCH_DTYPES[dtype])
    integers, scales = quantize(values, FACTORS.index(factor))
    return integers.tobytes() + scales.astype("<f4").tobytes()


def decode(raw: bytes, shape: tuple[int, int], factor: Factor, dtype: PackDtype) -> FloatArray:
    """Return the values that a reader of the pack gets from the bytes of `encode`."""
    if dtype != "int8":
        return safetensors.widen(raw, TensorInfo(_CODES[dtype], shape, 0, len(raw)))
    size = math.prod(shape)
    integers = np.frombuffer(raw[:size], np.int8).reshape(shape)
    scales = np.frombuffer(raw[size:], "<f4").astype(np.float32)
    return dequantize(integers, scales, FACTORS.index(factor))


def small_header(layout: Layout, rank: int, dtype: PackDtype) -> bytes:
    """Return the header of a file of small factors, whose encoded bytes follow, A before B."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for module in layout:
        for factor in FACTORS:
            name = tensor_name(module.name, factor)
            tensors.append((name, _CODES[dtype], module.shape(factor, rank)))
            if dtype == "int8":
                tensors.append((scales_name(module.name, factor), "F32", (rank,)))
    return safetensors.build_header(tensors, _SIZES)


def basis_header(layout: Layout, small: Layout, dtype: PackDtype) -> bytes:
    """Return the header of a pack's basis file; the bytes of V and U of each module follow."""
    code = _CODES[basis_dtype(dtype)]
    tensors = ((name, code, shape) for name, shape in _basis_shapes(layout, small))
    return safetensors.build_header(tensors, _SIZES)


def _basis_shapes(layout: Layout, small: Layout) -> Iterator[tuple[str, tuple[int, int]]]:
    for module, space in zip(layout, small, strict=True):
        yield f"{module.name}.A", (space.in_features, module.in_features)
        yield f"{module.name}.B", (module.out_features, space.out_features)


def basis_dtype(dtype: PackDtype) -> PackDtype:
    """Return the storage type of a pack's bases: ``f32`` in an ``f32`` pack, else ``bf16``."""
    return "f32" if dtype == "f32" else "bf16"


@cache_headers
def _parsed(head: bytes, size: int) -> ParsedHeader:
    """Parse a header of small factors and check that every int8 tensor has its scales."""
    infos = safetensors.read_header(lambda start, stop: head[start:stop], size, _SIZES)
    scales = {name: info for name, info in infos.items() if name.endswith(".scales")}
    layout, rank = read_layout({n: info for n, info in infos.items() if n not in scales})
    names = [(module.name, factor) for module in layout for factor in FACTORS]
    codes = {infos[tensor_name(*name)].dtype for name in names}
    if len(codes) > 1 or not codes <= set(_CODES.values()):
        expected_codes = ", ".join(_CODES.values())
        raise AdapterError(
            f"factors are {sorted(codes)}, expected all to be one of {expected_codes}"
        )
    scaled = names if codes == {_CODES["int8"]} else []
    expected = {scales_name(*name): ("F32", (rank,)) for name in scaled}
    if {name: info[:2] for name, info in scales.items()} != expected:
        raise AdapterError("expected scales for every int8 tensor, and for no other")
    return MappingProxyType(infos), layout, rank


class PackedFile(AdapterFile):
    """The small factors of one adapter, as an `AdapterFile` of the modules' shared spaces.

    A file of up to 2 MB is read at once and cached.
    """

    _parse = staticmethod(_parsed)

    @cached_property
    def _raw(self) -> bytes | None:
        small = self.path.stat().st_size <= _MAX_CACHED_BYTES
        return self.path.read_bytes() if small else None

    def _read(self, start: int, stop: int) -> bytes:
        if self._raw is None:
            return super()._read(start, stop)
        if stop > len(self._raw):
            raise AdapterError(f"{self.path} ended at byte {len(self._raw)}, expected {stop}")
        return self._raw[start:stop]

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """Return a small factor as float32: a is (r, R_a), b is (R_b, r)."""
        info = self.tensor_infos[tensor_name(module, factor)]
        raw = self._read(info.start, info.stop)
        if info.dtype != "I8":
            return safetensors.widen(raw, info)
        scales = self.tensor_infos[scales_name(module, factor)]
        integers = np.frombuffer(raw, np.int8).reshape(info.shape)
        values = safetensors.widen(self._read(scales.start, scales.stop), scales)
        return dequantize(integers, values, FACTORS.index(factor))

    def stack(
        self, files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray
    ) -> None:
        """Stack all files at once, if all are cached and have the same header."""
        cached = [file._raw for file in files if isinstance(file, PackedFile)]
        if None in cached or not all(file.tensor_infos is self.tensor_infos for file in files):
            super().stack(files, module, A, B)
            return
        names = [tensor_name(module, factor) for factor in FACTORS]
        names += [scales_name(module, factor) for factor in FACTORS]
        infos = [self.tensor_infos[name] for name in names if name in self.tensor_infos]
        start, stop = min(info.start for info in infos), max(info.stop for info in infos)
        joined = b"".join([memoryview(raw)[start:stop] for raw in cached if raw is not None])
        rows = np.frombuffer(joined, np.uint8).reshape(len(files), stop - start)
        parts = [rows[:, info.start - start : info.stop - start] for info in infos]
        (rank, R_a), (R_b, _) = infos[0].shape, infos[1].shape
        a, b = A.reshape(-1, rank, R_a), B.reshape(R_b, -1, rank).transpose(1, 0, 2)
        for axis, (target, raw) in enumerate(zip((a, b), parts, strict=False)):
            _widen_rows(raw, parts[2 + axis] if len(parts) > 2 else None, axis, target)


def _widen_rows(
    raw: NDArray[np.uint8], scales: NDArray[np.uint8] | None, axis: int, target: FloatArray
) -> None:
    """Convert the bytes of one factor of N files, (N, size), to float32, (N, …)."""
    if scales is not None:
        target[:] = raw.view(np.int8).reshape(target.shape)
        target *= np.expand_dims(scales.view("<f4"), 2 - axis)
    elif raw[0].size == 4 * target[0].size:
        target[:] = raw.view("<f4").reshape(target.shape)
    else:
        safetensors.widen_into(raw.view("<u2").reshape(target.shape), target)


class Basis:
    """The bases of a pack, read one module at a time; `small` has R_a and R_b as sizes."""

    def __init__(self, path: Path, layout: Layout, small: Layout) -> None:
        self._read = partial(safetensors.read_range, path, error=IntegrityError)
        try:
            self._infos = safetensors.read_header(self._read, path.stat().st_size)
        except AdapterError as error:
            raise IntegrityError(f"{path}: {error}") from None
        expected = dict(_basis_shapes(layout, small))
        if {name: info.shape for name, info in self._infos.items()} != expected:
            raise IntegrityError(f"{path} holds bases of other shapes than the index states")

    def module(self, name: str) -> FactorPair:
        """Read V (R_a, in_features) and U (out_features, R_b) of one module, in float32."""
        infos = (self._infos[f"{name}.{factor}"] for factor in FACTORS)
        V, U = (safetensors.widen(self._read(info.start, info.stop), info) for info in infos)
        return V, U
