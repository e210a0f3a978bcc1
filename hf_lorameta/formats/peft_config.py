"""PEFT's ``adapter_config.json``."""

import json
import math
from typing import NamedTuple

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Layout

CONFIG_FILE = "adapter_config.json"

_UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "target_parameters", "layer_replication",
    "trainable_token_indices", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_PATTERNS = ("rank_pattern", "alpha_pattern")
_CONVERSION = "convert it with PEFT 0.19: peft.tuners.lora.save_as_lora(folder, model, rank=16)"
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoraConfig(NamedTuple):
    """The settings of a LoRA adapter that matter for a weighted sum."""

    base_model: str  # empty if the config states none
    rank: int
    scaling: float  # of B·A: alpha / r, or alpha / √r with rsLoRA (arXiv 2312.03732)
    revision: str | None = None  # of the base model
    task_type: str | None = None  # PEFT's, such as CAUSAL_LM


def parse_config(raw: bytes, name: object = CONFIG_FILE, *, patterns: bool = False) -> LoraConfig:
    """Check an ``adapter_config.json`` and read it.

    Args:
        raw: content of the file.
        name: of the file, for messages.
        patterns: accept ``rank_pattern`` and ``alpha_pattern``, which only PEFT applies.

    Raises:
        AdapterError: it is not a plain LoRA, or a value is out of range or of the wrong type.

    Example:
        >>> parse_config(b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true}')[2]
        4.0
    """
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        raise AdapterError(f"{name} is not JSON", code="adapter.config-not-json") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object", code="adapter.config-not-json")
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"peft_type is {config.get('peft_type')!r}, expected 'LORA'",
            code="adapter.not-lora",
            hint=_CONVERSION,
        )
    for key in _UNSUPPORTED:
        if config.get(key):
            raise AdapterError(
                f"{key} is set: only plain LoRA adapters can be combined",
                code="adapter.not-plain-lora",
            )
    for key in () if patterns else _PATTERNS:
        if config.get(key):
            raise AdapterError(
                f"{key} is set, expected one value for all modules",
                code="adapter.not-plain-lora",
                hint=_CONVERSION,
            )
    if config.get("bias", "none") != "none":
        raise AdapterError(f"bias is {config['bias']!r}, expected 'none'", code="adapter.has-bias")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING):
        raise AdapterError(
            f"init_lora_weights {init!r} changes the base model's weights",
            code="adapter.changes-base",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    if type(rank) is not int or not 1 <= rank <= 4096:
        raise AdapterError(
            f"r is {rank!r}, expected an integer from 1 to 4096", code="adapter.config-invalid"
        )
    if not isinstance(alpha, (int, float)) or not 0 < alpha < 1e6:
        raise AdapterError(
            f"lora_alpha is {alpha!r}, expected a positive number below 1e6",
            code="adapter.config-invalid",
        )
    revision, task_type = texts = [config.get(key) for key in ("revision", "task_type")]
    if not all(isinstance(value, str | None) for value in texts):
        raise AdapterError(
            f"revision and task_type are {texts}, expected strings or null",
            code="adapter.config-invalid",
        )
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    base_model = str(config.get("base_model_name_or_path") or "")
    return LoraConfig(base_model, rank, scaling, revision or None, task_type)


def write_config(
    base_model: str,
    layout: Layout,
    rank: int,
    revision: str | None = None,
    *,
    task_type: str | None = "CAUSAL_LM",
    all_layers: bool = True,
) -> bytes:
    """Return the smallest ``adapter_config.json`` that PEFT, vLLM and llama.cpp all read.

    ``lora_alpha`` equals the rank, as the scaling is folded into the weights. PEFT's Auto classes
    load the base model at `revision`. Pass ``all_layers=False`` if the base model may have layers
    that the layout lacks, which short names would match.
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
        "target_modules": target_modules(layout) if all_layers else [m.name for m in layout],
        "task_type": task_type,
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def target_modules(layout: Layout) -> list[str]:
    """Return short names if all layers 0…L-1 have all modules, full paths otherwise.

    In a multimodal model, short names would match modules of the vision part, too.
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
