"""The LoRA file format: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

Headers are read before tensors, tensors one at a time, and files are written in one canonical
order, so that memory follows the largest tensor and the same weights always give the same bytes.
"""

import json
import math
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hf_lorameta.errors import AdapterError
from hf_lorameta.files import AtomicFile
from hf_lorameta.formats.lora_layout import (
    FACTORS,
    Factor,
    Layout,
    read_layout,
    tensor_name,
)
from hf_lorameta.formats.peft_config import (
    CONFIG_FILE,
    LoraConfig,
    read_config,
)
from hf_lorameta.formats.safetensors import (
    CODES,
    DTYPES,
    Read,
    TensorInfo,
    narrow,
    read_head,
    read_header,
    sanitize,
    widen,
    widen_into,
)
from hf_lorameta.types import FloatArray

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")


Parsed = tuple[Mapping[str, TensorInfo], Layout, int]


def parsed_once(parse: Callable[[bytes, int], Parsed]) -> Callable[[bytes, int], Parsed]:
    """Keep what the last few headers gave: one object for all files that begin alike.

    Whatever threads open them: who reads many files at once tells their likeness by it.
    """
    cached, lock = lru_cache(maxsize=4)(parse), threading.Lock()

    def found(head: bytes, size: int) -> Parsed:
        with lock:
            return cached(head, size)

    return found


@parsed_once
def _parsed(head: bytes, size: int) -> Parsed:
    """Header, layout and rank; the files of a bank mostly begin with the very same bytes."""
    infos = read_header(lambda start, stop: head[start:stop], size)
    return MappingProxyType(infos), *read_layout(infos)


class UnbufferedFile(FileIO):
    """A file whose bytes go where they are wanted, without buffering in between."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start` on.

        Raises:
            AdapterError: the file ended early.
        """
        self.seek(start)
        filled = self.readinto(buffer)
        while filled < len(buffer):
            got = self.readinto(buffer[filled:])
            if not got:
                raise AdapterError(f"{self.name} ended at byte {start + filled}")
            filled += got


class AdapterFile:
    """A local safetensors LoRA file, read one tensor at a time.

    Args:
        path: the file.

    Attributes:
        layout: modules in canonical order.
        rank: r of every module.

    Raises:
        AdapterError: the file is missing or not a plain LoRA file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            head = read_head(self._read, size)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from None
        self._infos, self.layout, self.rank = _parsed(head, size)

    def _read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(stop - start)
        if len(raw) != stop - start:
            raise AdapterError(f"{self.path} ended at byte {start + len(raw)}, expected {stop}")
        return raw

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """One factor as float32: lora_A is (r, in_features), lora_B is (out_features, r)."""
        info = self._infos[tensor_name(module, factor)]
        return widen(self._read(info.start, info.stop), info)

    @property
    def tensor_infos(self) -> Mapping[str, TensorInfo]:
        """Where every tensor lies, in the order of the data."""
        return self._infos

    def reading(self) -> "UnbufferedFile":
        """Open the file, to be closed by the caller."""
        return UnbufferedFile(self.path)

    def size(self, module: str, factor: Factor) -> int:
        """Number of values of one factor."""
        return math.prod(self._infos[tensor_name(module, factor)].shape)

    def flat(self, module: str, factor: Factor, start: int, stop: int) -> FloatArray:
        """Values [start, stop) of one factor, row after row: (stop − start,) float32."""
        info = self._infos[tensor_name(module, factor)]
        width = DTYPES[info.dtype].itemsize
        first, last = info.start + start * width, info.start + stop * width
        return widen(self._read(first, last), TensorInfo(info.dtype, (stop - start,), first, last))

    def stack_alike(
        self, files: Sequence["AdapterFile"], module: str, A: FloatArray, B: FloatArray
    ) -> bool:
        """Do as `stack_into` if there is a faster way for these files; says whether there is."""
        return False

    @property
    def dtypes(self) -> set[str]:
        """The safetensors dtype codes in the file."""
        return {info.dtype for info in self._infos.values()}


def canonicalize(
    read: Read, infos: Mapping[str, TensorInfo], path: Path, dtype: str = "bfloat16"
) -> None:
    """Copy a LoRA file tensor by tensor into canonical order and one dtype.

    Args:
        read: ranged reader of the source; asked for rising, adjoining ranges.
        infos: the source's header.
        path: target; appears only when complete.
        dtype: torch name of the target's dtype.

    Raises:
        AdapterError: a value is NaN or infinite, before or after rounding.
    """
    layout, rank = read_layout(infos)
    header, places = _plan(layout, rank, dtype)
    with AtomicFile(path) as file:
        file.write(header)
        for name, info in infos.items():
            values = widen(read(info.start, info.stop), info)
            file.seek(places[name])
            file.write(_narrow_finite(values, dtype, name))


def write_tensors(
    path: Path,
    layout: Layout,
    rank: int,
    dtype: str,
    pairs: Iterable[tuple[FloatArray, FloatArray]],
) -> None:
    """Write an adapter's weights, streaming, in canonical order.

    Args:
        path: target; appears only when complete.
        layout: modules in canonical order.
        rank: r of every module.
        dtype: torch name of the dtype written.
        pairs: (lora_A, lora_B) of every module, in the order of the layout.

    Raises:
        AdapterError: a pair has another shape than the layout says, or holds NaN or infinity.
    """
    header, _ = _plan(layout, rank, dtype)
    with AtomicFile(path) as file:
        file.write(header)
        for module, pair in zip(layout, pairs, strict=True):
            for factor, values in zip(FACTORS, pair, strict=True):
                name, expected = tensor_name(module.name, factor), module.shape(factor, rank)
                if values.shape != expected:
                    raise AdapterError(f"{name} has shape {values.shape}, expected {expected}")
                file.write(_narrow_finite(values, dtype, name))


def _narrow_finite(values: FloatArray, dtype: str, name: str) -> bytes:
    raw = narrow(values, dtype)
    finite = np.isfinite(np.frombuffer(raw, DTYPES[CODES[dtype]]).astype(np.float32)).all()
    if not finite:
        raise AdapterError(f"{sanitize(name)} holds NaN or infinite values in {dtype}")
    return raw


def _plan(layout: Layout, rank: int, dtype: str) -> tuple[bytes, dict[str, int]]:
    """The header of a canonical file, and where in the file each tensor starts."""
    code = CODES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for module in layout:
        for factor in FACTORS:
            shape = module.shape(factor, rank)
            stop = position + math.prod(shape) * DTYPES[code].itemsize
            entry = {"dtype": code, "shape": list(shape), "data_offsets": [position, stop]}
            header[tensor_name(module.name, factor)] = entry
            position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    offset = 8 + len(text)
    starts = {k: offset + v["data_offsets"][0] for k, v in header.items() if k[0] != "_"}
    return struct.pack("<Q", len(text)) + text, starts


def check_adapter(folder: Path) -> tuple[LoraConfig, AdapterFile]:
    """Read an adapter folder back and check everything a loader relies on.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The config and the open weights.

    Raises:
        AdapterError: a file is missing or malformed, config and weights disagree on the rank, the
            weights are a pickle, or a value is not finite.
    """
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles and not (folder / WEIGHTS_FILE).exists():
        raise AdapterError(f"{pickles[0]} is a pickle, which can run code: expected {WEIGHTS_FILE}")
    try:
        config = read_config(json.loads((folder / CONFIG_FILE).read_bytes()))
    except OSError:
        raise AdapterError(
            f"{folder} holds no {CONFIG_FILE}", hint="name a folder that holds a PEFT adapter"
        ) from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{folder / CONFIG_FILE} is not JSON") from None
    weights = AdapterFile(folder / WEIGHTS_FILE)
    if weights.rank != config.rank:
        raise AdapterError(f"{CONFIG_FILE} has rank {config.rank}, the weights have {weights.rank}")
    for module in weights.layout:
        for factor in FACTORS:
            if not np.isfinite(weights.tensor(module.name, factor)).all():
                raise AdapterError(f"{sanitize(module.name)}.lora_{factor} holds NaN or infinity")
    return config, weights


def stack_into(files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray) -> None:
    """Every file's factors of one module, side by side in two arrays.

    Args:
        files: N files.
        module: its name.
        A: (Σr, in_features), filled.
        B: (out_features, Σr), filled.
    """
    if files[0].stack_alike(files, module, A, B):
        return
    start = 0
    buffer = np.empty(0, np.uint16)
    for file in files:
        part = slice(start, start + file.rank)
        a, b = (file.tensor_infos[tensor_name(module, factor)] for factor in FACTORS)
        if type(file) is AdapterFile and (a.dtype, b.dtype, a.stop) == ("BF16", "BF16", b.start):
            if buffer.nbytes != b.stop - a.start:
                buffer = np.empty((b.stop - a.start) // 2, np.uint16)
            with file.reading() as opened:
                opened.read_into(buffer.view(np.uint8).data, a.start)
            split = (a.stop - a.start) // 2
            widen_into(buffer[:split].reshape(a.shape), A[part])
            widen_into(buffer[split:].reshape(b.shape), B[:, part])
        else:
            A[part], B[:, part] = file.tensor(module, "A"), file.tensor(module, "B")
        start = part.stop


def stack(files: Sequence[AdapterFile], module: str) -> tuple[list[FloatArray], list[FloatArray]]:
    """Every file's lora_A and lora_B of one module."""
    return [f.tensor(module, "A") for f in files], [f.tensor(module, "B") for f in files]
