"""llama.cpp's name of a base model's architecture, and the order in which it stores weights.

Source: https://github.com/ggml-org/llama.cpp/tree/master/conversion, whose `modify_tensors` an
adapter's factors follow: rows of a weight are rows of lora_B, its columns those of lora_A.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.formats.lora_layout import Module

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "phi3": "phi3",
    "lfm2": "lfm2",
}
"""llama.cpp's ``general.architecture`` by the ``model_type`` of the base's config.json."""

_TIED = frozenset({"smollm3", "gemma2", "gemma3", "gemma4", "lfm2"})
"""Architectures whose output layer shares the embedding's weights, unless config.json says no."""
_PERMUTED = frozenset({"llama", "smollm3"})
"""Architectures whose rows of q and k llama.cpp reorders, because it rotates neighboring rows."""
UNUSED = {("gemma4", "per_layer_model_projection")}
"""Architectures and their modules whose adapters llama.cpp loads but ignores."""
_TEXT_PREFIXES = {"model.language_model.": "model.", "language_model.": ""}
"""Prefix of a text model's modules inside a multimodal model, and that of the text model alone."""

Order = NDArray[np.intp]


class BaseArchitecture(NamedTuple):
    """The settings of a base model that decide how its adapters are written."""

    name: str  # general.architecture in llama.cpp
    layers: int
    tied: bool  # the output layer has the embedding's weights: a GGUF has no output layer
    heads: Mapping[str, int] = {}  # of q_proj and k_proj, where these are permuted
    value_heads: tuple[int, int, int] | None = None  # groups, heads, size; of linear attention

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BaseArchitecture":
        """Read a parsed ``config.json``; its model type must be one of `ARCHITECTURES`.

        Of a multimodal model, the text model's settings count.

        Raises:
            UsageError: the model type is another.
            AdapterError: a setting is missing or out of range.
        """
        model_type = config.get("model_type")
        if model_type not in {*ARCHITECTURES, *ARCHITECTURES.values()}:
            raise UsageError(
                f"base models of the type {model_type!r} cannot be exported to GGUF, "
                f"expected one of {', '.join(ARCHITECTURES)}",
                code="gguf.unknown-architecture",
                hint=Option("export", change="leave out"),
            )
        name = ARCHITECTURES.get(model_type, model_type)
        text = {**config, **(config.get("text_config") or {})}
        tied = next((text[key] for key in ("tie_word_embeddings", "tie_embedding") if key in text),
                    name in _TIED)  # fmt: skip
        heads = _rotary_heads(text) if name in _PERMUTED else {}
        layers, value_heads = _count(text, "num_hidden_layers"), None
        if name == "qwen35":
            keys = ("linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim")
            groups, values, size = (_count(text, key) for key in keys)
            if values % groups:
                raise AdapterError(
                    f"the base's config.json has {values} linear_num_value_heads, expected a "
                    f"multiple of {groups}",
                    code="base.config-invalid",
                )
            value_heads = groups, values, size
        return cls(name, layers, bool(tied), heads, value_heads)

    def text_name(self, module: str) -> str:
        """Return the name that a module has in the text model alone."""
        for prefix, replacement in _TEXT_PREFIXES.items():
            if module.startswith(prefix):
                return replacement + module.removeprefix(prefix)
        return module

    def row_order(self, module: Module) -> Order | None:
        """Return the order in which llama.cpp stores the rows of lora_B; None if it is the same.

        Raises:
            AdapterError: the rows do not divide into the base model's heads.
        """
        heads = self.heads.get(_leaf(module.name))
        if heads is not None:
            if module.out_features % (2 * heads):
                raise _misfit(module, module.out_features, "rows", heads)
            return permute(np.arange(module.out_features), heads)
        if self.value_heads is None or ".linear_attn." not in module.name:
            return None
        _, heads, size = self.value_heads
        tiled = {"in_proj_qkv": heads * size, "in_proj_z": heads * size,
                 "in_proj_a": heads, "in_proj_b": heads}.get(_leaf(module.name))  # fmt: skip
        return None if tiled is None else self._tiled(module, module.out_features, "rows", tiled)

    def column_order(self, module: Module) -> Order | None:
        """Return the order in which llama.cpp stores the columns of lora_A, as `row_order` does."""
        if self.value_heads is None or not module.name.endswith(".linear_attn.out_proj"):
            return None
        return self._tiled(module, module.in_features, "columns", module.in_features)

    def _tiled(self, module: Module, total: int, what: str, tiled: int) -> Order:
        """Order the last `tiled` of `total` rows or columns as `tile` does."""
        assert self.value_heads
        groups, heads, _ = self.value_heads
        if tiled > total or tiled % heads:
            raise _misfit(module, total, what, heads)
        return np.concatenate(
            [np.arange(total - tiled), tile(np.arange(total - tiled, total), groups, heads)]
        )


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _misfit(module: Module, total: int, what: str, heads: int) -> AdapterError:
    return AdapterError(
        f"{module.name} has {total} {what}, which do not divide into {heads} heads of the base "
        "model",
        code="gguf.heads-do-not-divide",
    )


def _rotary_heads(config: Mapping[str, Any]) -> dict[str, int]:
    heads = _count(config, "num_attention_heads")
    grouped = bool(config.get("num_key_value_heads"))
    return {"q_proj": heads, "k_proj": _count(config, "num_key_value_heads") if grouped else heads}


def _count(config: Mapping[str, Any], key: str) -> int:
    count = config.get(key)
    if type(count) is not int or not 0 < count < 1 << 16:
        raise AdapterError(
            f"the base's config.json has {key} {count!r}, expected ≥ 1", code="base.config-invalid"
        )
    return count


# --- orders ---------------------------------------------------------------------------------------


def permute(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder the rows of a q or k matrix from transformers' order to llama.cpp's.

    Within a head of d rows, transformers rotates row i with row i + d/2; llama.cpp rotates
    neighbors. So row i of a head moves to 2i, and row i + d/2 to 2i + 1 (`LlamaModel.permute` of
    llama.cpp's conversion/llama.py). `rows` is (heads · d, …).

    Example:
        >>> permute(np.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def tile(rows: NDArray[Any], groups: int, heads: int) -> NDArray[Any]:
    """Reorder the value heads of linear attention from transformers' order to llama.cpp's.

    Several value heads share a key head. Transformers stores those of one key head together,
    llama.cpp first one of every key head, then the next (`_reorder_v_heads` of llama.cpp's
    conversion/qwen.py). `rows` is (heads · d, …), `groups` the number of key heads.

    Example:
        >>> tile(np.arange(8), groups=2, heads=4).tolist()
        [0, 1, 4, 5, 2, 3, 6, 7]
    """
    grouped = rows.reshape(groups, heads // groups, rows.shape[0] // heads, *rows.shape[1:])
    return grouped.swapaxes(0, 1).reshape(rows.shape)
