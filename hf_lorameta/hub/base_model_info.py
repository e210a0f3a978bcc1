"""Read a base model's config and tokenizer, and check that adapters can be made for it."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.errors import HubError, NotFoundError, Option, UsageError, sanitize
from hf_lorameta.hub.base_model import (
    base_file,
    base_license,
    cached_commit,
    config_json,
    local_path,
    pinned_base,
)
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import TOKENIZER
from hf_lorameta.hub.repo_info import ListedBank, list_banks

_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the class names of causal language models end."""
_EMBEDDING = "modules.json"
"""A file of each model of sentence-transformers."""
_OTHER_BASE = Option("base", change="name another")


class BaseModelInfo(NamedTuple):
    """A base model's config, tokenizer and origin, read without its weights.

    Attributes:
        name: Hub id, or the absolute path of a folder or of a GGUF file.
        revision: commit of a Hub repo, if it is known.
        license: that its card states.
        private: whether its repo is private, or it is local, as its adapters contain its path.
        config: content of its ``config.json``.
        tokenizer: its ``tokenizer.json``.
        banks: those published for it on the Hub, none of which is used unless it is named.
    """

    name: str
    revision: str | None
    license: str | None
    private: bool
    config: Mapping[str, Any]
    tokenizer: Path
    banks: tuple[ListedBank, ...] = ()

    @classmethod
    def find(cls, name: str, hub: Hub, revision: str | None = None) -> "BaseModelInfo":
        """Find a base model on the Hub, in the cache, or by a path; no weights are fetched.

        Those of a GGUF file are dequantized, since transformers reads its tokenizer that way.

        Raises:
            NotFoundError: there is none, or it has no config.json or no tokenizer.json.
            HubError: access was refused, or the Hub cannot be reached.
            UsageError: it is no causal language model, or its weights are quantized.
        """
        if path := local_path(name):
            name = str(path.resolve())
        repo = pinned_base(name, revision, hub)
        revision = repo.sha if repo else revision
        if _EMBEDDING in repo.files if repo else path and (path / _EMBEDDING).is_file():
            raise UsageError(
                f"{name} is an embedding model, expected a causal language model",
                code="base.not-causal",
                hint=_OTHER_BASE,
            )
        config = config_json(name, revision, hub.token)
        _require_trainable(name, config)
        tokenizer = _tokenizer(name, revision, hub)
        banks: tuple[ListedBank, ...] = ()
        if repo is not None:  # the Hub answers
            with suppress(HubError):
                banks = tuple(list_banks(hub, name))
        return cls(
            name,
            cached_commit(tokenizer) or revision,
            base_license(name, repo),
            repo.private if repo else path is not None,
            config,
            tokenizer,
            banks,
        )


def _require_trainable(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a base model that no adapter can be trained for."""
    text = config.get("text_config") or {}
    if quantization := config.get("quantization_config") or text.get("quantization_config"):
        method = sanitize(str(dict(quantization).get("quant_method", "method unknown")))
        raise UsageError(
            f"the weights of {name} are quantized ({method}), expected bfloat16, float16 or "
            "float32",
            code="base.quantized",
            hint="name the model that it was quantized from",
        )
    classes = [sanitize(str(one)) for one in config.get("architectures") or ()]
    causal = not classes or any(one.endswith(_CAUSAL) for one in classes)
    if not causal or config.get("is_encoder_decoder"):
        kind = ", ".join(classes) or sanitize(str(config.get("model_type")))
        raise UsageError(
            f"{name} is a {kind}, expected a causal language model such as LlamaForCausalLM",
            code="base.not-causal",
            hint=_OTHER_BASE,
        )


def _tokenizer(name: str, revision: str | None, hub: Hub) -> Path:
    try:
        path = base_file(name, TOKENIZER.name, revision, hub.token)
    except NotFoundError as error:
        error.advise(
            "convert another form of it: AutoTokenizer.from_pretrained(…).save_pretrained(FOLDER)"
        )
        raise
    return TOKENIZER if path.suffix == ".gguf" else path
