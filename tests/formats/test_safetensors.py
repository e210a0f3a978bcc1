"""Safetensors headers and conversions, with the safetensors library and ml_dtypes as references."""

from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.safetensors import (
    TensorInfo,
    build_header,
    to_bytes,
    to_float32,
)
from tests.formats.samples import (
    TORCH_DTYPES,
    VALID,
    A,
    B,
    header_entry,
    is_plain,
    parse,
    raw_file,
)

# --- conversions --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_widen_agrees_with_ml_dtypes_on_every_16_bit_pattern(dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    code = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    expected = bits.view(TORCH_DTYPES[dtype]).astype(np.float32)
    got = to_float32(bits.tobytes(), TensorInfo(code, (256, 256), 0, 1 << 17))
    np.testing.assert_array_equal(got.ravel(), expected)
    finite = np.isfinite(expected)
    assert to_bytes(expected[finite], dtype) == bits[finite].tobytes()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_narrow_raises_no_warning_for_any_bits(dtype: str) -> None:
    """Not even for signaling NaNs, which are refused later with the tensor's name."""
    values = np.arange(0, 1 << 32, 65521, dtype=np.uint32).view(np.float32)
    got = np.frombuffer(to_bytes(values, dtype), TORCH_DTYPES[dtype]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(TORCH_DTYPES[dtype]).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def test_narrow_rounds_to_nearest_even() -> None:
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    got = np.frombuffer(to_bytes(halves, "bfloat16"), ml_dtypes.bfloat16).astype(np.float32)
    assert got.tolist() == [1.0, 1 + 4 * 2**-8]


# --- written headers ----------------------------------------------------------------------------

TENSORS = [
    ("x", "BF16", (1, 2)),
    ("y.é", "F32", (3,)),
    ("empty", "F16", (0, 4)),
    ("scalar", "F32", ()),
]


@pytest.mark.parametrize("number", range(len(TENSORS) + 1))
def test_safetensors_reads_a_built_header(number: int, tmp_path: Path) -> None:
    header = build_header(TENSORS[:number])
    assert len(header) % 8 == 0
    sizes = {"BF16": 2, "F16": 2, "F32": 4}
    content = header + bytes(sum(sizes[code] * prod(shape) for _, code, shape in TENSORS[:number]))
    infos = parse(content)
    assert [(n, i.dtype, i.shape) for n, i in infos.items()] == TENSORS[:number]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in infos}
        assert set(opened.keys()) == set(infos)
    assert shapes == {name: shape for name, _, shape in TENSORS[:number]}


# --- malformed headers --------------------------------------------------------------------------


def with_b(entry: object, size: int = 20) -> bytes:
    """A file whose second tensor has another entry in the header."""
    return raw_file(VALID | {B: entry}, bytes(size))


MALFORMED = {
    "short": b"1234567",
    "data missing": raw_file(VALID, bytes(19)),
    "data left": raw_file(VALID, bytes(21)),
    "header cut": raw_file(VALID, bytes(20))[:60],
    "not JSON": raw_file(b"{not json", bytes(20)),
    "not UTF-8": raw_file(b"\xff\xfe\x00", bytes(20)),
    "nested": raw_file(b"[" * 200_000, bytes(20)),
    "long number": raw_file(b"1" * 5000, bytes(20)),
    "no object": raw_file([1], bytes(20)),
    "overlap": with_b(header_entry([3, 1], 4, 16), 16),
    "gap": with_b(header_entry([3, 1], 12, 24), 24),
    "gap before": raw_file({A: header_entry([1, 2], 4, 12)}, bytes(12)),
    "size": with_b(header_entry([3, 1], 8, 24), 24),
    "backward": with_b(header_entry([3, 1], 20, 8)),
    "negative": with_b(header_entry([3, 1], -12, 0)),
    "huge": with_b(header_entry([1 << 60, 1], 8, 20)),
    "huge product": with_b(header_entry([1 << 30] * 2, 8, 20)),
    "boolean": with_b(header_entry([True, 3], 8, 20)),
    "float": with_b(header_entry([1.0, 3], 8, 20)),
    "dimensions": with_b(header_entry([1] * 9, 8, 12), 12),
    "null": with_b(None),
    "empty": with_b({}),
    "no shape": with_b({**VALID[B], "shape": None}),
    "text as shape": with_b({**VALID[B], "shape": "31"}),
    "one offset": with_b({**VALID[B], "data_offsets": [1]}),
    "dtype": with_b(header_entry([3, 1], 8, 32, "F64"), 32),
    "no dtype": with_b({**VALID[B], "dtype": None}),
    "list as dtype": with_b({**VALID[B], "dtype": ["F32"]}),
    "integers": with_b(header_entry([12, 1], 8, 20, "I8")),
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_header_is_refused(name: str) -> None:
    parse(raw_file(VALID, bytes(20)))
    with pytest.raises(AdapterError):
        parse(MALFORMED[name])


@pytest.mark.parametrize("name", ["x\x1b[31m\n" + "y" * 9999, "\ud800", "\u202e"])
def test_names_from_headers_are_escaped_in_messages(name: str) -> None:
    for content in (
        raw_file({name: header_entry([1, 2], 4, 12)}, bytes(12)),
        raw_file({name: None}, b""),
        raw_file({A: {**VALID[A], "dtype": name}}, bytes(8)),
    ):
        with pytest.raises(AdapterError) as caught:
            parse(content)
        assert is_plain(str(caught.value))
