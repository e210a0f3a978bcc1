"""A tiny random model of each causal architecture of transformers, from a shrunk default config."""

import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.training import tiny

_SIZES: tuple[tuple[str, float], ...] = (
    (r".*vocab_size.*", 96),
    (r"index_topk|token_budget", 64),
    (r"(num_)?(hidden_|encoder_|decoder_)?(layers?|blocks)|n_layers?|num_decoder_layers", 4),
    (r"num_kv_shared_layers", 2),
    (r"mamba_d_ssm", 64),
    (r"mamba_d_head|mamba_head_?dim", 16),
    (r"linear_num_key_heads|.*kv_heads|num_key_value_heads|n_head_kv", 2),
    (r".*n_heads?|.*num_.*heads|.*attention_heads", 4),
    (r".*head_dim|d_kv|attention_head_size|kv_channels|hidden_size_per_layer_input", 8),
    (r"(attention_)?hidden_size|n_embe?d?|d_model|dim|d_embed|word_embed_proj_dim|lru_width|"
     r"(input_)?embedding_size|emb_dim", 32),
    (r".*intermediate_size|.*ffn.*(dim|size)|d_inner|dff|d_ff|feed_forward_.*dim", 48),
    (r".*(lora_rank|state_size|d_state|state_dim|sliding_window|dt_rank)|time_step_rank|"
     r"attention_(chunk|window)_size|sliding_window_size", 8),
    (r"n_group|topk_group|(mamba_)?n_?groups", 1),
    (r".*num_.*experts|n_routed_experts", 4),
    (r".*experts_per_tok.*|moe_k|.*top_?k.*|.*num_selected.*", 2),
    (r"max_position_embeddings|n_positions|n_ctx|seq_length|context_length", 512),
    (r"image_size", 28),
    (r"patch_size", 14),
    (r".*initializer_range|init_std", 0.2),
    (r".*dropout.*|.*pdrop", 0.0),
)  # fmt: skip
"""Largest values by the names of settings; of the first pattern that fits."""
_MISSING = {"head_dim": 8, "num_key_value_heads": 2, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "token_budget": 64,
            "compress_ratio": 2}  # fmt: skip
"""Of settings that a default config leaves open."""
_TOKENS = {"pad_token_id": 95, "bos_token_id": 0, "eos_token_id": 1}
_PARTICULAR: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "zamba": {"attention_head_dim": 16},
}


def tiny_config(model_type: str, **changes: Any) -> Any:
    """Return a config of a few thousand parameters; `changes` override settings.

    Raises:
        Exception: whatever the config's class raises, if the sizes do not fit together.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], **changes)


def _shrunk(kind: Any, **changes: Any) -> Any:
    from transformers import PreTrainedConfig

    default, given = kind(), {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        try:
            value = getattr(default, name)
        except Exception:  # noqa: BLE001 - one that differs by layer has an error of its own
            value = parameter.default
        is_config = isinstance(value, PreTrainedConfig)
        given[name] = _shrunk(type(value)) if is_config else _small(name, value)
        if given[name] is value or given[name] is inspect.Parameter.empty:
            del given[name]
    if "kv_lora_rank" in given:
        given["num_key_value_heads"] = 4
    return kind(**given | _PARTICULAR.get(kind.model_type, {}) | changes)


def _small(name: str, value: Any) -> Any:
    if value is None or name in _TOKENS:
        return _TOKENS.get(name, _MISSING.get(name))
    if name == "is_decoder":
        return True
    if re.fullmatch(".*(token_id|token_index)", name):
        return 90
    if isinstance(value, int | float) and not isinstance(value, bool):
        sizes = (size for pattern, size in _SIZES if re.fullmatch(pattern, name))
        size = next(sizes, value)
        return size if isinstance(value, float) else min(size, value)
    if isinstance(value, list | tuple) and re.fullmatch(".*(layer|block)s?_types?", name):
        kinds = list(dict.fromkeys(value))
        return [kinds[index % len(kinds)] for index in range(4)]
    return value


def tiny_model(model_type: str, **changes: Any) -> Any:
    """Return a model with random weights, of less than 8 million parameters.

    `changes` override settings of its config. It is the same at each call.

    Raises:
        ValueError: it has more.
        Exception: whatever transformers raises, if the sizes do not fit together.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(model_type, **changes)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > 8e6:
        raise ValueError(f"{size:,} parameters after the shrinking of its config")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def write_base(model: Any, folder: Path) -> Path:
    """Write a model, which has to load again, with the tokenizer of the tests' tiny base models."""
    from transformers import AutoModelForCausalLM

    model.save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as other:
        tokenizer = tiny.write_base(Path(other))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder
