"""The LoRA file format: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

Headers are read before tensors, tensors one at a time, and files are written in one canonical
order, so that memory follows the largest tensor and the same weights always give the same bytes.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import (
    Layout,
)

CONFIG_FILE = "adapter_config.json"


# --- the config ---------------------------------------------------------------------------------

_REFUSED = (
    "use_dora", "lora_bias", "modules_to_save", "target_parameters", "layer_replication",
    "trainable_token_indices", "rank_pattern", "alpha_pattern", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoraConfig(NamedTuple):
    """What of ``adapter_config.json`` matters for adding adapters up.

    Attributes:
        base_model: id of the base model.
        rank: r.
        scaling: what B·A is multiplied with: alpha / r, or alpha / √r with rsLoRA
            (arXiv 2312.03732).
    """

    base_model: str
    rank: int
    scaling: float


def read_config(config: Mapping[str, Any]) -> LoraConfig:
    """Check a PEFT config and read rank and scaling from it.

    Raises:
        AdapterError: it is not a plain LoRA: another PEFT type, DoRA, biases, extra modules, rank
            or alpha patterns, or an initialization that changes the base model's own weights.

    Example:
        >>> read_config({"peft_type": "LORA", "base_model_name_or_path": "o/m", "r": 4,
        ...              "lora_alpha": 8, "use_rslora": True}).scaling
        4.0
    """
    if not isinstance(config, Mapping):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    for key in _REFUSED:
        if config.get(key):
            raise AdapterError(f"{key} is set: only plain LoRA adapters can be added up")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"bias is {config['bias']!r}, expected 'none'")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING):
        raise AdapterError(f"init_lora_weights {init!r} changes the base model's weights")
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    if type(rank) is not int or not 1 <= rank <= 4096:
        raise AdapterError(f"r is {rank!r}, expected a whole number of at least 1")
    if not isinstance(alpha, (int, float)) or not 0 < alpha < 1e6:
        raise AdapterError(f"lora_alpha is {alpha!r}, expected a positive number")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LoraConfig(str(config.get("base_model_name_or_path") or ""), rank, scaling)


def write_config(base_model: str, layout: Layout, rank: int, revision: str | None = None) -> bytes:
    """The smallest ``adapter_config.json`` that every PEFT, vLLM and llama.cpp reads.

    ``lora_alpha`` equals the rank: scaling is folded into the weights.
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
    """Short names where every layer has all of them, full paths where layers are left out."""
    layers: dict[str, set[str]] = {}
    for module in layout:
        path, _, leaf = module.name.rpartition(".")
        layers.setdefault(leaf, set()).add(path.split(".layers.")[-1].split(".")[0])
    everywhere = set.union(*layers.values())
    complete = all(seen == everywhere for seen in layers.values())
    contiguous = everywhere == {str(i) for i in range(len(everywhere))}
    return sorted(layers) if complete and contiguous else [module.name for module in layout]
