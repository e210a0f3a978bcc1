"""PEFT LoRA adapters: ``adapter_model.safetensors``, and a folder that also holds its config.

Files are read header first and then one tensor at a time, so that memory follows the largest
tensor. They are written in one canonical order: the same weights always give the same bytes.
"""

import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from io import FileIO
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hf_lorameta.errors import AdapterError, sanitize
from hf_lorameta.files import atomic_file
from hf_lorameta.formats.lora_layout import FACTORS, Factor, Layout, read_layout, tensor_name
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig, read_config
from hf_lorameta.formats.safetensors import (
    CODES,
    DTYPES,
    Read,
    TensorInfo,
    build_header,
    narrow,
    read_header,
    read_header_bytes,
    widen,
    widen_into,
)
from hf_lorameta.types import FloatArray

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")

ParsedHeader = tuple[Mapping[str, TensorInfo], Layout, int]
"""Tensor infos, layout and rank."""


def cache_headers(parse: Callable[[bytes, int], ParsedHeader]) -> Callable[..., ParsedHeader]:
    """Decorate a header parser so that equal headers give the very same object.

    The files of a bank mostly have equal headers; comparing their infos by identity is then enough.
    The lock keeps threads from parsing one header twice.
    """
    cached, lock = lru_cache(maxsize=4)(parse), threading.Lock()

    def parse_once(header: bytes, size: int) -> ParsedHeader:
        with lock:
            return cached(header, size)

    return parse_once


@cache_headers
def _parse(header: bytes, size: int) -> ParsedHeader:
    infos = read_header(lambda start, stop: header[start:stop], size)
    return MappingProxyType(infos), *read_layout(infos)


class UnbufferedFile(FileIO):
    """A file that is read into the caller's buffers, without one of its own."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start` on.

        Raises:
            AdapterError: the file ended early.
        """
        self.seek(start)
        filled = 0
        while filled < len(buffer):
            count = self.readinto(buffer[filled:])
            if not count:
                raise AdapterError(f"{self.name} ended at byte {start + filled}")
            filled += count


class AdapterFile:
    """A local safetensors LoRA file, read one tensor at a time.

    Args:
        path: the file.

    Attributes:
        layout: modules in canonical order.
        rank: r of all modules.

    Raises:
        AdapterError: the file is missing or not a plain LoRA file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            header = read_header_bytes(self._read, size)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from None
        self._infos, self.layout, self.rank = _parse(header, size)

    def _read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(stop - start)
        if len(raw) != stop - start:
            raise AdapterError(f"{self.path} ended at byte {start + len(raw)}, expected {stop}")
        return raw

    @property
    def tensor_infos(self) -> Mapping[str, TensorInfo]:
        """Tensor names and infos, in the order of the data."""
        return self._infos

    @property
    def dtypes(self) -> set[str]:
        """The safetensors dtype codes in the file."""
        return {info.dtype for info in self._infos.values()}

    def reading(self) -> UnbufferedFile:
        """Open the file for `UnbufferedFile.read_into`; the caller closes it."""
        return UnbufferedFile(self.path)

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """Return a factor as float32: lora_A is (r, in_features), lora_B is (out_features, r)."""
        info = self._infos[tensor_name(module, factor)]
        return widen(self._read(info.start, info.stop), info)

    def size(self, module: str, factor: Factor) -> int:
        """Return the number of values of a factor."""
        return math.prod(self._infos[tensor_name(module, factor)].shape)

    def flat(self, module: str, factor: Factor, start: int, stop: int) -> FloatArray:
        """Return values [start, stop) of a flattened factor: (stop − start,) float32."""
        info = self._infos[tensor_name(module, factor)]
        width = DTYPES[info.dtype].itemsize
        first, last = info.start + start * width, info.start + stop * width
        return widen(self._read(first, last), TensorInfo(info.dtype, (stop - start,), first, last))

    def stack_alike(
        self, files: Sequence["AdapterFile"], module: str, A: FloatArray, B: FloatArray
    ) -> bool:
        """Do the work of `stack_into` if a subclass has a faster method for these files.

        Returns:
            Whether it did.
        """
        return False


def stack(files: Sequence[AdapterFile], module: str) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return the lora_A and the lora_B of one module in each file."""
    return [f.tensor(module, "A") for f in files], [f.tensor(module, "B") for f in files]


def stack_into(files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray) -> None:
    """Fill two arrays with the factors of one module in each file, one file after another.

    Args:
        files: N files.
        module: the module's name.
        A: output, (Σr, in_features).
        B: output, (out_features, Σr).
    """
    if files[0].stack_alike(files, module, A, B):
        return
    start = 0
    buffer = np.empty(0, np.uint16)
    for file in files:
        part = slice(start, start + file.rank)
        start = part.stop
        a, b = (file.tensor_infos[tensor_name(module, factor)] for factor in FACTORS)
        adjacent = (a.dtype, b.dtype, a.stop) == ("BF16", "BF16", b.start)
        if type(file) is not AdapterFile or not adjacent:
            A[part], B[:, part] = file.tensor(module, "A"), file.tensor(module, "B")
            continue
        if buffer.nbytes != b.stop - a.start:
            buffer = np.empty((b.stop - a.start) // 2, np.uint16)
        with file.reading() as opened:
            opened.read_into(buffer.view(np.uint8).data, a.start)
        split = (a.stop - a.start) // 2
        widen_into(buffer[:split].reshape(a.shape), A[part])
        widen_into(buffer[split:].reshape(b.shape), B[:, part])


# --- writing ------------------------------------------------------------------------------------


def canonicalize(
    read: Read, infos: Mapping[str, TensorInfo], path: Path, dtype: str = "bfloat16"
) -> None:
    """Copy a LoRA file into canonical order and one dtype, one tensor at a time.

    Args:
        read: ranged reader of the source. The ranges ascend and adjoin: a stream can serve them.
        infos: header of the source.
        path: the file to write; written by `atomic_file`.
        dtype: torch name of the dtype written.

    Raises:
        AdapterError: a value is NaN or infinite, before or after rounding.
    """
    header, targets = _canonical_header(*read_layout(infos), dtype)
    with atomic_file(path) as file:
        file.write(header)
        for name, info in infos.items():
            values = widen(read(info.start, info.stop), info)
            file.seek(targets[name].start)
            file.write(_narrow_finite(values, dtype, name))


def write_tensors(
    path: Path,
    layout: Layout,
    rank: int,
    dtype: str,
    pairs: Iterable[tuple[FloatArray, FloatArray]],
) -> None:
    """Write an adapter's weights in canonical order, one module at a time.

    Args:
        path: the file to write; written by `atomic_file`.
        layout: modules in canonical order.
        rank: r of all modules.
        dtype: torch name of the dtype written.
        pairs: (lora_A, lora_B) of each module, in the order of the layout.

    Raises:
        AdapterError: a factor has another shape than in the layout, or has NaN or infinite values.
    """
    header, _ = _canonical_header(layout, rank, dtype)
    with atomic_file(path) as file:
        file.write(header)
        for module, pair in zip(layout, pairs, strict=True):
            for factor, values in zip(FACTORS, pair, strict=True):
                name, expected = tensor_name(module.name, factor), module.shape(factor, rank)
                if values.shape != expected:
                    raise AdapterError(f"{name} has shape {values.shape}, expected {expected}")
                file.write(_narrow_finite(values, dtype, name))


def _canonical_header(layout: Layout, rank: int, dtype: str) -> tuple[bytes, dict[str, TensorInfo]]:
    return build_header(
        (tensor_name(module.name, factor), CODES[dtype], module.shape(factor, rank))
        for module in layout
        for factor in FACTORS
    )


def _narrow_finite(values: FloatArray, dtype: str, name: str) -> bytes:
    raw = narrow(values, dtype)
    if not np.isfinite(np.frombuffer(raw, DTYPES[CODES[dtype]]).astype(np.float32)).all():
        raise AdapterError(f"{sanitize(name)} has NaN or infinite values in {dtype}")
    return raw


# --- folders ------------------------------------------------------------------------------------


def check_adapter(folder: Path) -> tuple[LoraConfig, AdapterFile]:
    """Read an adapter folder and check everything that a loader relies on.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The config and the open weights.

    Raises:
        AdapterError: a file is missing or malformed, or the weights are a pickle.
        AdapterError: config and weights differ in rank.
        AdapterError: a value is NaN or infinite.
    """
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles and not (folder / WEIGHTS_FILE).exists():
        raise AdapterError(f"{pickles[0]} is a pickle, which can run code: expected {WEIGHTS_FILE}")
    try:
        config = read_config(json.loads((folder / CONFIG_FILE).read_bytes()))
    except OSError:
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}", hint="name a folder with a PEFT adapter"
        ) from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{folder / CONFIG_FILE} is not JSON") from None
    weights = AdapterFile(folder / WEIGHTS_FILE)
    if weights.rank != config.rank:
        raise AdapterError(f"{CONFIG_FILE} has rank {config.rank}, the weights have {weights.rank}")
    for module in weights.layout:
        for factor in FACTORS:
            if not np.isfinite(weights.tensor(module.name, factor)).all():
                raise AdapterError(
                    f"{sanitize(module.name)}.lora_{factor} has NaN or infinite values"
                )
    return config, weights
