"""No bank: a base model alone, on which adapters are fitted or trained with labeled rows.

`NoBank` is a bank without adapters. It goes through the same steps as any other: no distances and
no coefficients are computed, nothing is combined, and what a fit or a training starts from is the
base model itself.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.bank_files import BankFiles
from hf_lorameta.bank.index import NO_BANK, TOKENIZER_FILE, Index
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.data.counts.tokenizer import vocab_size
from hf_lorameta.errors import HubError, NotFoundError, Option, UsageError, sanitize
from hf_lorameta.hub.base_model import (
    base_file,
    config_json,
    layers_and_width,
    local_path,
    pinned_base,
)
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2, TOKENIZER
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import ListedBank
from hf_lorameta.method.output_prior import PLAIN_DECODERS

_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of classes end that predict the next token."""
_OTHER_BASE = Option("base", change="name another")


class BaseModel(NamedTuple):
    """What is known of a base model without its weights.

    Attributes:
        name: Hub id, or the absolute path of a folder or of a GGUF file.
        revision: commit of a Hub repo, if it is known.
        license: that its card states.
        private: whether its repo is private, or it is here.
        config: content of its ``config.json``.
        tokenizer: its ``tokenizer.json``.
        banks: those that others have published for it, which are used only if they are named.
    """

    name: str
    revision: str | None
    license: str | None
    private: bool
    config: Mapping[str, Any]
    tokenizer: Path
    banks: tuple[ListedBank, ...] = ()

    @classmethod
    def find(cls, name: str, hub: Hub, revision: str | None = None) -> "BaseModel":
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
        config = config_json(name, revision, hub.token)
        _check(name, config)
        tokenizer = _tokenizer(name, revision, hub)
        if tokenizer.parent.parent.name == "snapshots":  # of the cache, which names them by commits
            revision = tokenizer.parent.name
        private = repo.private if repo else path is not None
        banks: tuple[ListedBank, ...] = ()
        if repo is not None:  # the Hub answers
            with suppress(HubError):
                banks = tuple(hub.banks_for(name))
        stated = base_license(name, repo)
        return cls(name, revision, stated, private, config, tokenizer, banks)


def base_license(name: str, repo: PinnedRepo | None) -> str | None:
    """Return the license of a base model: the one that its repo states, or that of SmolLM2."""
    if repo is not None:
        return repo.license
    return Bank.embedded().index.base_license if name == SMOLLM2 else None


def _check(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a base model on which no adapter can be fitted or trained."""
    text = config.get("text_config") or {}
    if quantization := config.get("quantization_config") or text.get("quantization_config"):
        method = sanitize(str(dict(quantization).get("quant_method", "method unknown")))
        raise UsageError(
            f"the weights of {name} are quantized ({method}), expected those of bfloat16, float16 "
            "or float32",
            hint="name the model that it was quantized from",
        )
    classes = [sanitize(str(one)) for one in config.get("architectures") or ()]
    causal = not classes or any(one.endswith(_CAUSAL) for one in classes)
    if not causal or config.get("is_encoder_decoder"):
        kind = ", ".join(classes) or sanitize(str(config.get("model_type")))
        raise UsageError(
            f"{name} is a {kind}, expected a causal language model such as LlamaForCausalLM",
            hint=_OTHER_BASE,
        )
    if layers_and_width(config) is None:
        raise UsageError(
            f"config.json of {name} does not state num_hidden_layers and hidden_size",
            hint=_OTHER_BASE,
        )


def _tokenizer(name: str, revision: str | None, hub: Hub) -> Path:
    try:
        path = base_file(name, TOKENIZER_FILE, revision, hub.token)
    except NotFoundError as error:
        error.advise(
            "save it where only another form of it exists: AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(FOLDER)"
        )
        raise
    return TOKENIZER if path.suffix == ".gguf" else path


class NoBank(Bank):
    """A bank without adapters, of a base model; see the module.

    Args:
        base: the base model.

    Raises:
        BankError: the tokenizer cannot be read.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.folder, self.id, self.revision = base.tokenizer.parent, NO_BANK, None
        self._files = BankFiles(self.folder)
        size = vocab_size(base.tokenizer)
        self.index = Index.empty(base.name, base.revision, base.license, size)
        self._raw_index = self.index.to_bytes()

    def __repr__(self) -> str:
        return f"NoBank({self.base.name})"

    @property
    def reference(self) -> None:
        """None: a recipe names no bank."""
        return None

    @property
    def public_base(self) -> str:
        """Hub id of the base model, or what stands for the path of a folder."""
        return "path/to/base/model" if Path(self.base.name).is_absolute() else self.base.name

    @property
    def private(self) -> bool:
        """Whether the base model is private, or in a folder, whose path its adapters name."""
        return self.base.private

    @property
    def layers_and_width(self) -> tuple[int, int]:
        """Number of layers of the base model, and their width."""
        shape = layers_and_width(self.base.config)
        assert shape is not None
        return shape

    @property
    def end_token(self) -> int | None:
        """Id of the end token, if the upper layers of the base model can be fitted."""
        ends = self.base.config.get("eos_token_id")
        first = ends[0] if isinstance(ends, list) and ends else ends
        fits = self.base.config.get("model_type") in PLAIN_DECODERS
        return first if fits and isinstance(first, int) and first < self.index.vocab_size else None

    @cached_property
    def profiles(self) -> ProfileTable:
        """None at all."""
        return ProfileTable.from_profiles([])

    def verified_file(self, name: str) -> Path:
        """Return the path of the base model's ``tokenizer.json``, the only file there is."""
        return self.base.tokenizer if name == TOKENIZER_FILE else super().verified_file(name)
