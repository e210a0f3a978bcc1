"""Read the header of a GGUF file, with the standard library only.

`gguf.GGUFReader` takes ten times as long on a vocabulary of 49,152 tokens, and transformers needs
torch even for a GGUF's tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hf_lorameta.errors import NotFoundError, Option, UsageError

_STRING, _ARRAY = 8, 9
_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""`struct` codes by GGUF's number of a scalar type."""


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the key-value pairs of a GGUF file, version 2 or 3.

    Raises:
        NotFoundError: the file is missing, is not GGUF, or its header is truncated or damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise NotFoundError(
                    f"{path} is not a GGUF file", code="gguf.not-gguf", hint="name a GGUF file"
                )
            reader = _HeaderReader(file)
            version, _, pairs = reader.unpack("IQQ")
            if version not in (2, 3):
                raise NotFoundError(
                    f"{path}: expected GGUF version 2 or 3, got {version}",
                    code="gguf.other-version",
                )
            return {reader.string(): reader.value(*reader.unpack("I")) for _ in range(pairs)}
    except OSError as error:
        raise NotFoundError(
            f"{path}: {error.strerror}", code="file.unreadable", hint="name a GGUF file"
        ) from None
    except (struct.error, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        raise NotFoundError(
            f"{path}: the GGUF header is truncated or damaged",
            code="gguf.damaged",
            hint="download the file again",
        ) from None


def base_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this package needs of a base model's ``config.json``, from a GGUF's metadata."""
    if metadata.get("general.type", "model") != "model":
        raise UsageError(
            f"the GGUF is not a base model but an {metadata['general.type']}",
            code="gguf.not-a-model",
            hint=Option("base", change="name another"),
        )
    architecture = metadata.get("general.architecture")
    config = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "linear_num_key_heads": "ssm.group_count",
        "linear_num_value_heads": "ssm.time_step_rank",
        "linear_value_head_dim": "ssm.state_size",  # of keys and values alike in llama.cpp
    }
    found = {key: metadata.get(f"{architecture}.{own}") for key, own in config.items()}
    found["eos_token_id"] = metadata.get("tokenizer.ggml.eos_token_id")
    return {"model_type": architecture} | {k: v for k, v in found.items() if v is not None}


class _HeaderReader:
    """Reads the values of an open GGUF file one after another."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file_size = os.fstat(file.fileno()).st_size

    def unpack(self, code: str) -> tuple[Any, ...]:
        code = f"<{code}"
        return struct.unpack(code, self._file.read(struct.calcsize(code)))

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            (kind,) = self.unpack("I")
            return [self.value(kind) for _ in range(self._length())]
        return self.unpack(_SCALARS[kind])[0]

    def string(self) -> str:
        return self._file.read(self._length()).decode("utf-8")

    def _length(self) -> int:
        """Read the length of a string or array, at most the remaining bytes of the file."""
        (length,) = self.unpack("Q")
        if length > self._file_size - self._file.tell():
            raise struct.error("longer than the file")
        return int(length)
