"""PEFT's ``adapter_config.json``."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout

CONFIG_FILE = "adapter_config.json"

_UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "target_parameters", "layer_replication",
    "trainable_token_indices", "rank_pattern", "alpha_pattern", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoraConfig(NamedTuple):
    """The settings of a LoRA adapter that matter for a weighted sum."""

    base_model: str  # empty if the config states none
    rank: int
    scaling: float  # of B·A: alpha / r, or alpha / √r with rsLoRA (arXiv 2312.03732)
    revision: str | None = None  # of the base model


def read_config(config: Mapping[str, Any]) -> LoraConfig:
    """Check a parsed ``adapter_config.json`` and read it.

    Raises:
        AdapterError: it is not a plain LoRA, or a value is out of range or of the wrong type.

    Example:
        >>> read_config({"peft_type": "LORA", "base_model_name_or_path": "o/m", "r": 4,
        ...              "lora_alpha": 8, "use_rslora": True}).scaling
        4.0
    """
    if not isinstance(config, Mapping):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise AdapterError(f"{key} is set: only plain LoRA adapters can be combined")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"bias is {config['bias']!r}, expected 'none'")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING):
        raise AdapterError(f"init_lora_weights {init!r} changes the base model's weights")
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    if type(rank) is not int or not 1 <= rank <= 4096:
        raise AdapterError(f"r is {rank!r}, expected an integer from 1 to 4096")
    if not isinstance(alpha, (int, float)) or not 0 < alpha < 1e6:
        raise AdapterError(f"lora_alpha is {alpha!r}, expected a positive number below 1e6")
    revision = config.get("revision")
    if not isinstance(revision, str | None):
        raise AdapterError(f"revision is {revision!r}, expected a string or null")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    base_model = str(config.get("base_model_name_or_path") or "")
    return LoraConfig(base_model, rank, scaling, revision or None)


def write_config(base_model: str, layout: Layout, rank: int, revision: str | None = None) -> bytes:
    """Return the smallest ``adapter_config.json`` that PEFT, vLLM and llama.cpp all read.

    ``lora_alpha`` equals the rank, as the scaling is folded into the weights. PEFT's Auto classes
    load the base model at `revision`.
    """
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": revision,
        "target_modules": _target_modules(layout),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _target_modules(layout: Layout) -> list[str]:
    """Return short names if all layers 0…L-1 have all modules, full paths otherwise.

    In a model of texts and images, short names would name layers of the images' part too.
    """
    layers: dict[str, set[str]] = {}
    for module in layout:
        path, _, leaf = module.name.rpartition(".")
        layers.setdefault(leaf, set()).add(path.split(".layers.")[-1].split(".")[0])
    all_layers = set.union(*layers.values())
    complete = all(names == all_layers for names in layers.values())
    contiguous = all_layers == {str(i) for i in range(len(all_layers))}
    alone = not any("language_model." in module.name for module in layout)
    short = complete and contiguous and alone
    return sorted(layers) if short else [module.name for module in layout]
