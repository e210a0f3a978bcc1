"""GGUF headers: what gguf writes is read back, and damaged headers raise only our errors."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.errors import NotFoundError, UsageError
from hf_lorameta.formats.gguf_architecture import BaseArchitecture
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from tests.support.codes import raises_code

gguf = pytest.importorskip("gguf")

VALUES = {"b": True, "i": -3, "f": 0.5, "s": "naïve", "l": ["a", "b"], "n": [1, 2]}


def write_gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_bool("b", True)
    writer.add_int32("i", -3)
    writer.add_float32("f", 0.5)
    writer.add_string("s", "naïve")
    writer.add_array("l", ["a", "b"])
    writer.add_array("n", [1, 2])
    writer.add_tensor_info("t", (3, 2), np.dtype(np.float32), 24)
    writer.add_tensor_info("u", (5,), np.dtype(np.float32), 20)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path.read_bytes()


def test_written_header_is_read_back(tmp_path: Path) -> None:
    write_gguf(tmp_path / "h.gguf")
    metadata = read_metadata(tmp_path / "h.gguf")
    assert metadata == {"general.architecture": "llama"} | VALUES


@pytest.fixture(scope="module")
def valid_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("valid") / "h.gguf"
    write_gguf(path)
    return path


@given(data=st.data())
def test_damaged_header_raises_only_our_error(valid_header: Path, data: st.DataObject) -> None:
    raw = bytearray(valid_header.read_bytes())
    path = valid_header.with_name("damaged.gguf")
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 33))]
    for position in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=4)):
        if raw:
            raw[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        read_metadata(path)
    except NotFoundError as error:
        assert error.hint or "expected GGUF version" in str(error)  # noqa: PT017


def test_base_config_is_read_from_metadata() -> None:
    metadata = {"general.architecture": "qwen2", "qwen2.block_count": 3,
                "qwen2.attention.head_count": 8, "qwen2.attention.head_count_kv": 2}  # fmt: skip
    assert BaseArchitecture.from_config(base_config(metadata)) == BaseArchitecture(
        "qwen2", 3, tied=False
    )
    with pytest.raises(UsageError, match="'bloom'"):
        BaseArchitecture.from_config(base_config({"general.architecture": "bloom"}))
    with raises_code("gguf.not-a-model"):
        base_config(metadata | {"general.type": "adapter"})
