"""The safetensors file format: headers, and conversion between raw bytes and arrays.

The safetensors library opens one file at a time, for about a millisecond, and maps it into memory.
A bank has thousands of files with few distinct headers, which are parsed once here; tensors of many
files are read by their byte ranges.

Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, LoraMetaError, sanitize
from hf_lorameta.types import FloatArray

MAX_HEADER_BYTES = 16 << 20
"""Largest header accepted; PEFT writes about 100 bytes a tensor."""
_DAMAGED = "fetch or copy the file again"
Read = Callable[[int, int], bytes]
"""Returns bytes [start, stop) of a file, exactly stop − start of them."""

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Safetensors codes by torch dtype name."""


SIZES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a value by safetensors code."""


class TensorInfo(NamedTuple):
    """A tensor's safetensors dtype code, shape, and bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    sizes: Mapping[str, int] = SIZES,
) -> bytes:
    """Build the header of a file that holds tensors (name, dtype code, shape) one after another.

    It is padded to a multiple of 8 bytes, which aligns the data.

    Example:
        >>> header = build_header([("x", "BF16", (2, 3)), ("y", "F32", (1,))])
        >>> parse_header(header, len(header) + 16)["y"].shape
        (1,)
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, code, shape in tensors:
        start, stop = stop, stop + math.prod(shape) * sizes[code]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (start, stop)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_header(read: Read, size: int) -> bytes:
    """Return a file's bytes up to the end of its header, without reading beyond it.

    Raises:
        AdapterError: the file is too short, or claims a longer header.
    """
    if size < 8:
        raise AdapterError(
            f"{size} bytes are too few for a safetensors file",
            code="safetensors.too-small",
            hint=_DAMAGED,
        )
    (length,) = struct.unpack("<Q", read(0, 8))
    limit = min(size - 8, MAX_HEADER_BYTES)
    if length > limit:
        raise AdapterError(
            f"the safetensors header claims {length} bytes, expected at most {limit} in a file of "
            f"{size}",
            code="safetensors.header-too-long",
            hint=_DAMAGED,
        )
    return read(0, 8 + length)


def parse_header(head: bytes, size: int, sizes: Mapping[str, int] = SIZES) -> dict[str, TensorInfo]:
    """Parse and check what `read_header` returned for a file of `size` bytes.

    No memory is allocated for sizes that a header merely claims. The tensors' infos are returned
    in the order of the data.

    Raises:
        AdapterError: the header is malformed, or its tensors do not fill the file without overlap.
    """
    data = len(head)
    try:
        header = json.loads(head[8:])
    except (ValueError, RecursionError):
        raise AdapterError(
            "the safetensors header is not JSON", code="safetensors.header-not-json", hint=_DAMAGED
        ) from None
    if not isinstance(header, dict):
        raise AdapterError(
            "the safetensors header is not a JSON object", code="safetensors.header-not-json"
        )
    header.pop("__metadata__", None)
    infos = {name: _tensor_info(name, entry, data, sizes) for name, entry in header.items()}
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)))
    position = data
    for name, info in infos.items():
        if info.start != position:
            raise AdapterError(
                f"tensor {sanitize(name)} starts at byte {info.start}, expected {position}",
                code="safetensors.gap",
            )
        position = info.stop
    if position != size:
        text = f"the header describes {position} bytes, the file has {size}"
        raise AdapterError(text, code="safetensors.other-size", hint=_DAMAGED)
    return infos


def _tensor_info(name: str, entry: Any, data: int, sizes: Mapping[str, int]) -> TensorInfo:
    """Check one entry of a header; `data` is the byte at which the tensors start."""
    name = sanitize(name)
    try:
        dtype, shape, (start, stop) = (entry[k] for k in ("dtype", "shape", "data_offsets"))
        numbers = (*shape, start, stop)
    except (TypeError, ValueError, KeyError):
        raise AdapterError(
            f"the header's entry for {name} is malformed", code="safetensors.entry-invalid"
        ) from None
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) > 8:
        raise AdapterError(
            f"the header's shape or offsets for {name} are not sizes",
            code="safetensors.entry-invalid",
        )
    if not isinstance(dtype, str) or dtype not in sizes:
        got = sanitize(str(dtype)[:20])
        raise AdapterError(
            f"{name} has dtype {got}, expected one of {', '.join(sizes)}",
            code="safetensors.other-dtype",
        )
    if math.prod(shape) * sizes[dtype] != stop - start:
        raise AdapterError(
            f"{name}: shape {shape} in {dtype} does not fill {stop - start} bytes",
            code="safetensors.entry-invalid",
        )
    return TensorInfo(dtype, tuple(shape), data + start, data + stop)


def read_range(
    path: Path, start: int, stop: int, error: type[LoraMetaError] = AdapterError
) -> bytes:
    """Return bytes [start, stop) of a file, or raise an error if it ended early."""
    with path.open("rb") as file:
        file.seek(start)
        raw = file.read(stop - start)
    if len(raw) != stop - start:
        problem = f"{path} ended at byte {start + len(raw)}, expected {stop}"
        raise error(problem, code="file.ended-early")
    return raw


def to_float32(raw: bytes | memoryview, info: TensorInfo) -> FloatArray:
    """Convert raw tensor bytes to a float32 array of ``info.shape``."""
    if info.dtype == "BF16":  # a shift by 16 bits, at the speed of memory
        bits = np.frombuffer(raw, np.uint16).astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32).reshape(info.shape)
    dtype = np.float16 if info.dtype == "F16" else np.float32
    return np.frombuffer(raw, dtype).reshape(info.shape).astype(np.float32)


def to_bytes(array: NDArray[Any], dtype: str) -> bytes:
    """Round float values to a torch dtype name, to nearest even, and return their bytes.

    Example:
        >>> to_bytes(np.array([1 + 2**-7 + 2**-8]), "bfloat16").hex()
        '823f'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return np.ascontiguousarray(array).astype(dtype).tobytes()
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        nearest = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        # rounding could make NaN an infinity: it keeps its upper bits, of which one is then set
        return np.where(np.isnan(array), bits >> 16 | 0x40, nearest).astype(np.uint16).tobytes()
