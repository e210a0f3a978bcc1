"""Small adapters and raw files for the tests of the file formats."""

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from hf_lorameta.formats.lora_layout import FACTORS, Layout, Module, tensor_name
from hf_lorameta.formats.safetensors import TensorInfo, parse_header, read_header

TORCH_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LAYOUT: Layout = tuple(
    Module(f"model.layers.{layer}.self_attn.{leaf}", 6, out)
    for layer in (0, 2, 10)
    for leaf, out in (("k_proj", 3), ("q_proj", 6))
)
RANK = 2


def by_name(layout: Layout, pairs: Iterable[Any]) -> dict[str, Any]:
    """Tensors of pairs by PEFT's names, in canonical order."""
    return {
        tensor_name(module.name, factor): values
        for module, pair in zip(layout, pairs, strict=True)
        for factor, values in zip(FACTORS, pair, strict=True)
    }


def parse(content: bytes) -> dict[str, TensorInfo]:
    """The checked header of a safetensors file."""
    head = read_header(lambda start, stop: content[start:stop], len(content))
    return parse_header(head, len(content))


def raw_file(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with a header, given as bytes or as a value to encode as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def raw_header(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file, unchecked."""
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def header_entry(
    shape: Sequence[float], start: int, stop: int, dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


A, B = tensor_name("h.0.q", "A"), tensor_name("h.0.q", "B")
VALID = {A: header_entry([1, 2], 0, 8), B: header_entry([3, 1], 8, 20)}


def is_plain(message: str) -> bool:
    """Whether a message is short and free of control characters and non-ASCII text."""
    return message.isascii() and message.isprintable() and len(message) < 2000
