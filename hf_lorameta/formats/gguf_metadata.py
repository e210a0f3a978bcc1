"""The header of a GGUF file; needs no package beyond the standard library."""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hf_lorameta.errors import NotFoundError, UsageError

_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_SCALARS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}


def read_metadata(path: Path) -> dict[str, Any]:
    """The key-value header of a GGUF file (versions 2 and 3), without its tensors.

    transformers 5.24 needs torch even for a GGUF's tokenizer; this does not. The format is
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

    Raises:
        NotFoundError: no such file, it is no GGUF, or it ends within the header.
    """
    with _header(path) as (file, _, count):
        return _metadata(file, count)


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The metadata of a GGUF file, and the shape of every tensor that it holds.

    Shapes have the outermost dimension first, as numpy has it. Of a model in several files, there
    are those of this one.

    Raises:
        NotFoundError: as `read_metadata`.
    """
    with _header(path) as (file, tensors, count):
        return _metadata(file, count), dict(_shape(file) for _ in range(tensors))


@contextmanager
def _header(path: Path) -> Iterator[tuple[BinaryIO, int, int]]:
    """The open file behind its first numbers, and how many tensors and values it has."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
            if not start.startswith(b"GGUF"):
                raise NotFoundError(f"{path} is no GGUF file", hint="name a GGUF file")
            _, version, tensors, count = struct.unpack("<4sIQQ", start)
            if version not in (2, 3):
                raise NotFoundError(f"{path}: expected GGUF 2 or 3, got {version}")
            yield file, tensors, count
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", hint="name a GGUF file") from None
    except (struct.error, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        raise NotFoundError(
            f"{path} ends within its header, or it is damaged", hint="fetch the file again"
        ) from None


def _metadata(file: BinaryIO, count: int) -> dict[str, Any]:
    return {_value(file, _STRING): _value(file) for _ in range(count)}


def _shape(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """Of one tensor; what its numbers are and where they lie is passed over."""
    name, dimensions = _value(file, _STRING), _scalar(file, "<I")
    if dimensions > _MOST_DIMENSIONS:
        raise struct.error("no tensor has so many dimensions")
    *sizes, _, _ = struct.unpack(f"<{dimensions}QIQ", file.read(8 * dimensions + 12))
    return name, tuple(reversed(sizes))


def base_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What of a ``config.json`` an export needs, from the header of a GGUF of the base model.

    Args:
        metadata: as `read_metadata` gives it.

    Raises:
        UsageError: it is that of something else, such as an adapter.

    Example:
        >>> base_config({"general.architecture": "llama", "llama.block_count": 2,
        ...            "llama.attention.head_count": 9})["num_attention_heads"]
        9
    """
    if metadata.get("general.type", "model") != "model":
        raise UsageError(
            f"the GGUF holds no base model but an {metadata['general.type']}",
            hint="name the base model's with --base-gguf",
        )
    kind = metadata.get("general.architecture")
    return {
        "model_type": kind,
        "num_hidden_layers": metadata.get(f"{kind}.block_count"),
        "num_attention_heads": metadata.get(f"{kind}.attention.head_count"),
        "num_key_value_heads": metadata.get(f"{kind}.attention.head_count_kv"),
    }


def _value(file: BinaryIO, kind: int | None = None) -> Any:
    """One value; its kind stands before it unless it is known."""
    if kind is None:
        kind = _scalar(file, "<I")
    if kind == _STRING:
        return file.read(_length(file)).decode("utf-8")
    if kind == _ARRAY:
        of, length = _scalar(file, "<I"), _length(file)
        return [_value(file, of) for _ in range(length)]
    return _scalar(file, _SCALARS[kind])


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack(code, file.read(struct.calcsize(code)))[0]


def _length(file: BinaryIO) -> int:
    """Of a string or an array; never more than what is left of the file could hold."""
    length: int = _scalar(file, "<Q")
    if length > os.fstat(file.fileno()).st_size - file.tell():
        raise struct.error("longer than the file")
    return length
