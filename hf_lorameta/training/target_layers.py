"""Find the layers of a base model that adapters change."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from hf_lorameta.engines.transformers.decoder import decoder_layers, text_model
from hf_lorameta.engines.transformers.lora_layer import weight_of
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.formats.lora_layout import Layout, Module, canonical_order

_PROJECTIONS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "query", "key", "value", "c_attn",
    "Wqkv", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "out_proj",
    "dense", "gate_proj", "up_proj", "gate_up_proj", "down_proj", "fc1", "fc2", "fc_in", "fc_out",
    "c_fc", "c_proj", "dense_h_to_4h", "dense_4h_to_h", "w1", "w2", "w3", "input_linear",
    "output_linear", "in_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b",
    "in_proj_qkvz", "in_proj_ba",
)  # fmt: skip
"""Usual names of the projections of attention, MLP, and layers with states."""
_NO_PROJECTIONS = re.compile(r"gate|router|conv")
_WITHOUT_OUT_PROJ = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
"""Model types for which PEFT refuses adapters of layers called ``out_proj``."""
_EXPERTS = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that PEFT takes for those of experts in any layer, if a model has experts."""
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
          "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}  # fmt: skip
"""Names of layers that compute several projections at once."""


def find_layout(model: Any, targets: Sequence[str]) -> Layout:
    """Return the linear layers whose names end in one of the targets, in canonical order.

    In a model for text and images, these are layers of the text model. If the base model has one
    layer for several targets, as Phi-3 has ``qkv_proj``, that layer is returned.

    Raises:
        UsageError: there are none, or one of the targets names none.
    """
    layers = _linear_layers(model)
    leaves = {name.rpartition(".")[2] for name in layers}
    chosen = {target if target in leaves else _FUSED.get(target, target) for target in targets}
    missing = sorted(chosen - leaves)
    if missing:
        raise UsageError(
            f"the base model has no linear layers {', '.join(missing)}",
            code="targets.unknown",
            hint=Option("targets", ",".join(sorted(leaves))),
        )
    names = [name for name in layers if name.rpartition(".")[2] in chosen]
    return _layout(layers, names)


def with_all_projections(model: Any, layout: Layout) -> Layout:
    """Return a layout extended by all projections of attention and MLP, in canonical order.

    Projections are recognized by their usual names; in a model without these, all linear layers are
    taken except those of routers, gates and convolutions. Experts are left out, since servers do
    not adapt them one by one.

    Raises:
        UsageError: there are none.
    """
    layers, names = _linear_layers(model), set[str]()
    inside = {module for layer in decoder_layers(model) for module in layer.modules()}
    refused = {"out_proj"} if model.config.model_type in _WITHOUT_OUT_PROJ else set()
    if any(name.endswith(".experts") for name, _ in model.named_modules()):
        refused |= _EXPERTS
    for usual in (True, False):
        for name, layer in layers.items():
            leaf = name.rpartition(".")[2]
            known = (
                leaf in _PROJECTIONS
                if usual
                else not _NO_PROJECTIONS.search(name) and layer in inside
            )
            if known and leaf not in refused and ".experts." not in name:
                names.add(name)
        if names:
            break
    else:
        raise UsageError(
            f"{type(model).__name__} has no linear layers that can be adapted",
            code="targets.none-in-model",
            hint=Option("base", change="name another"),
        )
    others = _layout(layers, names - {module.name for module in layout})
    return tuple(sorted((*layout, *others), key=lambda module: canonical_order(module.name)))


def _linear_layers(model: Any) -> dict[str, torch.nn.Module]:
    """Return the linear layers of the text model by name, including the output embeddings."""
    text = {model.get_output_embeddings(), *text_model(model).modules()}
    kinds = (torch.nn.Linear, Conv1D)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds) and m in text}


def _layout(layers: Mapping[str, torch.nn.Module], names: Iterable[str]) -> Layout:
    weights = {name: weight_of(layers[name]) for name in sorted(names, key=canonical_order)}
    return tuple(Module(name, w.shape[1], w.shape[0]) for name, w in weights.items())
