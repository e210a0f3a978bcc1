"""Tiny random base models of every architecture, in transformers and in GGUF.

`write_gguf` does for them what llama.cpp's convert_hf_to_gguf.py does (its folder ``conversion``):
tensor names come from the `gguf` package, and the order of rows and the metadata from that code.
"""

from pathlib import Path
from typing import Any

import numpy as np

_SIZES: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 256,
}  # fmt: skip
_WINDOW = {"head_dim": 16, "sliding_window": 5}
MODELS: dict[str, dict[str, Any]] = {
    "Llama": _SIZES,
    "Mistral": _SIZES | {"sliding_window": None},
    "Qwen2": _SIZES,
    "Qwen3": _SIZES | {"head_dim": 16},
    "Qwen3_5": _SIZES
    | {
        "head_dim": 16,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
    },
    "Gemma2": _SIZES | _WINDOW | {"query_pre_attn_scalar": 16, "attn_implementation": "eager"},
    "Gemma3": _SIZES | _WINDOW | {"query_pre_attn_scalar": 16, "num_hidden_layers": 6},
    "Gemma4": _SIZES
    | _WINDOW
    | {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 260,
        "final_logit_softcapping": 30.0,
    },
    "SmolLM3": _SIZES,
    "Lfm2": _SIZES
    | {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "Phi3": _SIZES,
}
"""Settings of a tiny model by the prefix of its classes in transformers."""

_NAMES = {"mistral": "llama", "gemma3_text": "gemma3", "gemma4_text": "gemma4",
          "qwen3_5_text": "qwen35"}  # fmt: skip


def model_of(kind: str) -> Any:
    """Return the tiny model of a kind of `MODELS`, the same at each call."""
    import torch
    import transformers

    suffix = "TextConfig" if kind in ("Gemma3", "Gemma4", "Qwen3_5") else "Config"
    config = getattr(transformers, f"{kind}{suffix}")(**MODELS[kind])
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # else all ones or zeros, which hide a missing (1 + w)
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def write_gguf(model: Any, path: Path) -> Path:
    """Write a tiny model as a GGUF in float32, with a vocabulary of the 256 bytes."""
    import gguf

    config = model.config
    name = _NAMES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, name)
    _add_metadata(writer, config, name)
    _add_vocabulary(writer, config.vocab_size)
    architecture = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[name]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        key, values = _converted(key, tensor.float().numpy(), config, name)
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert target, key
        writer.add_tensor(target, np.ascontiguousarray(values, np.float32))
    if name == "gemma4":
        rotated = int(config.per_layer_config[1].head_dim * 0.25 / 2)
        half = config.per_layer_config[1].head_dim // 2
        factors = [1.0] * rotated + [1e30] * (half - rotated)
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: Any, config: Any, name: str) -> None:
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    sizes = config.per_layer_config[0] if name == "gemma4" else config
    head = getattr(sizes, "head_dim", None) or config.hidden_size // heads
    epsilon = config.norm_eps if name == "lfm2" else config.rms_norm_eps
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    if name == "lfm2":
        attention = [kind == "full_attention" for kind in config.layer_types]
        writer.add_head_count_kv([kv_heads if own else 0 for own in attention])
        writer.add_shortconv_l_cache(config.conv_L_cache)
    else:
        writer.add_head_count_kv(kv_heads)
    if name == "gemma4":
        large = config.per_layer_config[1].head_dim
        writer.add_shared_kv_layers(config.num_kv_shared_layers)
        writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
        writer.add_sliding_window_pattern([t == "sliding_attention" for t in config.layer_types])
        writer.add_key_length_swa(head)
        writer.add_value_length_swa(head)
        writer.add_rope_dimension_count(large)
        writer.add_rope_dimension_count_swa(head)
        head = large
    elif name != "lfm2":
        writer.add_rope_dimension_count(int(head * full.get("partial_rotary_factor", 1.0)))
    writer.add_key_length(head)
    writer.add_value_length(head)
    if name.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if name == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_sliding_window(0)
    if name == "qwen35":
        writer.add_rope_dimension_sections([*full["mrope_section"], 0])
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
        writer.add_full_attention_interval(4)


def _add_vocabulary(writer: Any, size: int) -> None:
    """Add a byte-level vocabulary without merges; token 256 ends a text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = dict(zip(printable, map(chr, printable), strict=True))
    characters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [characters[byte] for byte in range(256)]
    tokens += [f"<|{i}|>" for i in range(256, size - 1)] + ["ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * (size - 257) + [1])
    writer.add_token_merges(["a b"])  # an empty list is refused
    writer.add_eos_token_id(256)
    writer.add_add_bos_token(False)


def _converted(key: str, values: np.ndarray, config: Any, name: str) -> tuple[str, np.ndarray]:
    """Return a tensor's name and values as llama.cpp expects them."""
    leaf = key.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    if name in ("llama", "smollm3") and leaf in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if leaf == "q_proj" else config.num_key_value_heads
        return key, interleaved(values, heads)
    if name == "lfm2" and ".conv.conv" in key:
        return key, values.squeeze(1)
    if name == "gemma4" and key.endswith("layer_scalar"):
        return f"{key}.weight", values
    if name in ("gemma2", "gemma3") and key.endswith("norm.weight"):
        return key, values + 1
    if name == "qwen35":
        return _converted_qwen(key, leaf, values, config)
    return key, values


def _converted_qwen(key: str, leaf: str, values: np.ndarray, config: Any) -> tuple[str, np.ndarray]:
    if key.endswith("norm.weight") and "linear_attn" not in key:
        return key, values + 1
    if "linear_attn" not in key or key.endswith("norm.weight"):
        return key, values
    groups, heads = config.linear_num_key_heads, config.linear_num_value_heads
    size = config.linear_value_head_dim
    if leaf == "A_log":
        return key, tiled(-np.exp(values), groups, heads, 1)
    if leaf == "dt_bias":
        return key.replace("dt_bias", "dt_proj.bias"), tiled(values, groups, heads, 1)
    if leaf in ("conv1d", "in_proj_qkv"):
        values = values.squeeze(1) if leaf == "conv1d" else values
        keys = len(values) - heads * size
        return key, np.concatenate([values[:keys], tiled(values[keys:], groups, heads, size)])
    if leaf == "out_proj":
        return key, tiled(values.T, groups, heads, size).T
    return key, tiled(values, groups, heads, len(values) // heads)


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Move row i of a head of d rows to 2i, and row i + d/2 to 2i + 1."""
    size = len(rows) // heads
    result = np.empty_like(rows)
    for head in range(heads):
        for i in range(size // 2):
            result[head * size + 2 * i] = rows[head * size + i]
            result[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return result


def tiled(rows: np.ndarray, groups: int, heads: int, size: int) -> np.ndarray:
    """Move head j of group i, of `heads` in all with `size` rows each, to j · groups + i."""
    result = np.empty_like(rows)
    for group in range(groups):
        for j in range(heads // groups):
            source, target = group * (heads // groups) + j, j * groups + group
            result[target * size : (target + 1) * size] = rows[source * size : (source + 1) * size]
    return result
