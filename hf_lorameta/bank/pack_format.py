"""The files of a pack: small factors in bases that all adapters share.

Each module has an orthonormal basis V (R_a, in_features) for the rows of every lora_A and U
(out_features, R_b) for the columns of every lora_B, see [1] and [2]. An adapter is stored as small
factors a (r, R_a) and b (R_b, r) with ``A ≈ a V`` and ``B ≈ U b``, so that

    Σ c_i s_i B_i A_i  ≈  U (Σ c_i s_i b_i a_i) V.

Since U and V are orthonormal, norm and singular values of the sum are those of the small matrix in
the middle: adapters can be combined through (a, b) as through (A, B).

Small factors are a LoRA file of modules with R_a inputs and R_b outputs, in int8 with one float32
scale per rank. The bases are in bfloat16.

References:
    [1] Brüel-Gabrielsson et al., Compress then Serve, arXiv 2407.00066, 2024.
    [2] Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
        arXiv 2509.17786, 2025.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, IntegrityError
from hf_lorameta.formats import safetensors
from hf_lorameta.formats.lora_file import AdapterFile, ParsedHeader, cache_headers
from hf_lorameta.formats.lora_layout import FACTORS, Factor, Layout, read_layout, tensor_name
from hf_lorameta.formats.safetensors import SIZES, TensorInfo
from hf_lorameta.types import FactorPair, FloatArray

_MAX_CACHED_BYTES = 2 << 20  # of a file; most files of small factors are tiny


_SIZES = {**SIZES, "I8": 1}


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


def encode(values: FloatArray, factor: Factor) -> bytes:
    """Return the stored bytes of a (r, R_a) or b (R_b, r): the integers, then the scales."""
    integers, scales = quantize(values, FACTORS.index(factor))
    return integers.tobytes() + scales.astype("<f4").tobytes()


def decode(raw: bytes, shape: tuple[int, ...], factor: Factor) -> FloatArray:
    """Return the values that a reader of the pack gets from the bytes of `encode`."""
    size = math.prod(shape)
    integers = np.frombuffer(raw[:size], np.int8).reshape(shape)
    scales = np.frombuffer(raw[size:], "<f4").astype(np.float32)
    return dequantize(integers, scales, FACTORS.index(factor))


def small_header(layout: Layout, rank: int) -> bytes:
    """Return the header of a file of small factors, whose encoded bytes follow, A before B."""
    return safetensors.build_header(_small_tensors(layout, rank), _SIZES)


def _small_tensors(layout: Layout, rank: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for module in layout:
        for factor in FACTORS:
            yield tensor_name(module.name, factor), "I8", module.shape(factor, rank)
            yield scales_name(module.name, factor), "F32", (rank,)


def basis_header(layout: Layout, small: Layout) -> bytes:
    """Return the header of a pack's basis file; the bytes of V and U of each module follow."""
    tensors = ((name, "BF16", shape) for name, shape in _basis_shapes(layout, small))
    return safetensors.build_header(tensors, _SIZES)


def _basis_shapes(layout: Layout, small: Layout) -> Iterator[tuple[str, tuple[int, int]]]:
    for module, space in zip(layout, small, strict=True):
        yield f"{module.name}.A", (space.in_features, module.in_features)
        yield f"{module.name}.B", (module.out_features, space.out_features)


@cache_headers
def _parsed(head: bytes, size: int) -> ParsedHeader:
    """Parse a header of small factors and check that each has its scales."""
    infos = safetensors.parse_header(head, size, _SIZES)
    layout, rank = read_layout({n: i for n, i in infos.items() if not n.endswith(".scales")})
    found = {(name, info.dtype, info.shape) for name, info in infos.items()}
    if found != set(_small_tensors(layout, rank)):
        raise AdapterError("expected factors in int8, each with its scales", code="pack.not-int8")
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
        raw = self._raw
        return super()._read(start, stop) if raw is None else raw[start:stop]

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """Return a small factor as float32: a is (r, R_a), b is (R_b, r)."""
        integers, scales = self._infos(module, factor)
        raw = self._read(integers.start, integers.stop) + self._read(scales.start, scales.stop)
        return decode(raw, integers.shape, factor)

    def _infos(self, module: str, factor: Factor) -> tuple[TensorInfo, TensorInfo]:
        """Return where the integers and the scales of a small factor are."""
        names = tensor_name(module, factor), scales_name(module, factor)
        return self.tensor_infos[names[0]], self.tensor_infos[names[1]]

    def stack(
        self, files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray
    ) -> None:
        """Stack all files at once, if all are cached and have the same header."""
        raws = [file._raw for file in files if isinstance(file, PackedFile)]
        if None in raws or not all(file.tensor_infos is self.tensor_infos for file in files):
            super().stack(files, module, A, B)
            return

        def joined(info: TensorInfo, dtype: str) -> NDArray[Any]:
            parts = [memoryview(raw)[info.start : info.stop] for raw in raws if raw is not None]
            return np.frombuffer(b"".join(parts), dtype).reshape(len(files), *info.shape)

        a, b = A.reshape(len(files), self.rank, -1), B.reshape(len(B), len(files), self.rank)
        targets = a, b.transpose(1, 0, 2)
        for factor, axis, target in zip(FACTORS, (2, 1), targets, strict=True):
            integers, scales = self._infos(module, factor)
            target[:] = joined(integers, "i1")
            target *= np.expand_dims(joined(scales, "<f4"), axis)


class UnpackedFile(PackedFile):
    """One adapter of a pack, as an `AdapterFile` of the base model's modules."""

    def __init__(self, path: Path, basis: "Basis", layout: Layout) -> None:
        super().__init__(path)
        self._basis, self.layout = basis, layout

    def factors(self, module: str) -> FactorPair:
        """Return lora_A (r, in_features) and lora_B (out_features, r) of a module."""
        V, U = self._basis.module(module)
        a, b = super().factors(module)
        return a @ V, U @ b

    stack = AdapterFile.stack


class Basis:
    """The bases of a pack, read one module at a time; `small` has R_a and R_b as sizes."""

    def __init__(self, path: Path, layout: Layout, small: Layout) -> None:
        self._read = partial(safetensors.read_range, path, error=IntegrityError)
        try:
            size = path.stat().st_size
            self._infos = safetensors.parse_header(safetensors.read_header(self._read, size), size)
        except AdapterError as error:
            raise IntegrityError(f"{path}: {error}", code="pack.damaged") from None
        expected = dict(_basis_shapes(layout, small))
        if {name: info.shape for name, info in self._infos.items()} != expected:
            raise IntegrityError(
                f"{path} holds bases of other shapes than the index states",
                code="pack.other-shapes",
            )

    def module(self, name: str) -> FactorPair:
        """Read V (R_a, in_features) and U (out_features, R_b) of one module, in float32."""
        infos = (self._infos[f"{name}.{factor}"] for factor in FACTORS)
        V, U = (safetensors.to_float32(self._read(info.start, info.stop), info) for info in infos)
        return V, U
