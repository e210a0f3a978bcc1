"""The LoRA file format: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

Headers are read before tensors, tensors one at a time, and files are written in one canonical
order, so that memory follows the largest tensor and the same weights always give the same bytes.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError
from hf_lorameta.types import FloatArray

MAX_HEADER_BYTES = 16 << 20
"""Largest header accepted; PEFT writes about 100 bytes a tensor."""
Read = Callable[[int, int], bytes]
"""Bytes [start, stop) of a file, exactly stop − start of them."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class TensorInfo(NamedTuple):
    """Where a tensor lies: safetensors dtype code, shape, and bytes [start, stop) of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


# --- the header ---------------------------------------------------------------------------------


def read_header(
    read: Read, size: int, dtypes: Mapping[str, np.dtype[Any]] = DTYPES
) -> dict[str, TensorInfo]:
    """Parse and check a safetensors header; reads nothing beyond it.

    Args:
        read: ranged reader of the file.
        size: the file's size in bytes.
        dtypes: what tensors may hold, by safetensors code.

    Returns:
        Tensor name to place, in the order of the data.

    Raises:
        AdapterError: the file is truncated, its header is too large, is not JSON, or describes
            tensors that overlap, leave gaps or do not fit the file. Never allocates what a header
            merely claims.
    """
    if size < 8:
        raise AdapterError(f"{size} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", read(0, 8))
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise AdapterError(
            f"the safetensors header claims {length} bytes, expected at most "
            f"{min(size - 8, MAX_HEADER_BYTES)} in a file of {size}"
        )
    try:
        header = json.loads(read(8, 8 + length))
    except (ValueError, RecursionError):
        raise AdapterError("the safetensors header is not JSON") from None
    if not isinstance(header, dict):
        raise AdapterError("the safetensors header is not a JSON object")
    header.pop("__metadata__", None)
    infos = {
        str(name): _tensor_info(str(name), item, 8 + length, dtypes)
        for name, item in header.items()
    }
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)))
    position = 8 + length
    for name, info in infos.items():
        if info.start != position:
            raise AdapterError(
                f"tensor {sanitize(name)} starts at byte {info.start}, expected {position}"
            )
        position = info.stop
    if position != size:
        raise AdapterError(f"the header describes {position} bytes, the file has {size}")
    return infos


def sanitize(name: str) -> str:
    """A name out of a stranger's file, short and without control characters or lone surrogates."""
    return name[:200].encode("unicode_escape").decode("ascii")


def _tensor_info(
    name: str, item: Any, offset: int, dtypes: Mapping[str, np.dtype[Any]]
) -> TensorInfo:
    shown = sanitize(name)
    try:
        dtype, shape, (start, stop) = (item[k] for k in ("dtype", "shape", "data_offsets"))
        numbers = (*shape, start, stop)
    except (TypeError, ValueError, KeyError):
        raise AdapterError(f"the header's entry for {shown} is malformed") from None
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) > 8:
        raise AdapterError(f"the header's shape or offsets for {shown} are not sizes")
    if not isinstance(dtype, str) or dtype not in dtypes:
        got = sanitize(str(dtype)[:20])
        raise AdapterError(f"{shown} has dtype {got}, expected one of {', '.join(dtypes)}")
    if math.prod(shape) * dtypes[dtype].itemsize != stop - start:
        raise AdapterError(f"{shown}: shape {shape} in {dtype} does not fill {stop - start} bytes")
    return TensorInfo(dtype, tuple(shape), offset + start, offset + stop)


# --- tensors ------------------------------------------------------------------------------------


def widen(raw: bytes | memoryview, info: TensorInfo) -> FloatArray:
    """Raw little-endian tensor bytes to float32.

    bfloat16 is with_module_scale by a 16-bit shift, which runs at memory speed.

    Returns:
        Array of ``info.shape``.
    """
    if info.dtype == "BF16":
        bits = np.frombuffer(raw, np.uint16).astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32).reshape(info.shape)
    array = np.frombuffer(raw, DTYPES[info.dtype]).reshape(info.shape)
    return array.astype(np.float32)


def widen_into(bits: NDArray[np.uint16], target: FloatArray) -> None:
    """The bits of bfloat16 values to float32, into an array of the same shape."""
    np.left_shift(bits, 16, out=target.view(np.uint32), dtype=np.uint32, casting="unsafe")


def narrow(array: NDArray[Any], dtype: str) -> bytes:
    """Float values to raw bytes of a torch dtype name, rounding to nearest even."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array).astype(DTYPES[CODES[dtype]]).tobytes()


def read_head(read: Read, size: int) -> bytes:
    """A file's first bytes as far as a header can reach, for `read_header` to judge."""
    if size < 8:
        return b""
    (length,) = struct.unpack("<Q", read(0, 8))
    return read(0, 8 + min(length, size - 8, MAX_HEADER_BYTES))
