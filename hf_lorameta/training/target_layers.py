"""The layers of a base model that adapters adapt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from hf_lorameta.errors import Option, UsageError
from hf_lorameta.formats.lora_layout import Layout, Module, canonical_order

_PROJECTIONS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "o_proj", "out_proj", "dense",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj", "fc1", "fc2", "c_fc", "c_proj",
    "dense_h_to_4h", "dense_4h_to_h",
)  # fmt: skip
_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
          "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}  # fmt: skip
"""Names of layers that compute several projections at once."""


def find_layout(model: Any, targets: Sequence[str]) -> Layout:
    """Return the linear layers whose names end in one of the targets, in canonical order.

    Of a model of texts and images, these are layers of the text model. Where the base model has one
    layer for several targets, as Phi-3 has ``qkv_proj``, that is adapted.

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
            hint=Option("targets", ",".join(sorted(leaves))),
        )
    names = [name for name in layers if name.rpartition(".")[2] in chosen]
    return _layout(layers, names)


def with_all_projections(model: Any, layout: Layout) -> Layout:
    """Return a layout, and all projections of attention and MLP, in canonical order.

    Projections are known by their usual names. Experts are left out, whose tokens are not those of
    the sequence.
    """
    layers = _linear_layers(model)
    named = {n for n in layers if n.rpartition(".")[2] in _PROJECTIONS and ".experts." not in n}
    others = _layout(layers, named - {module.name for module in layout})
    return tuple(sorted((*layout, *others), key=lambda module: canonical_order(module.name)))


def _linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Return the linear layers of the text model, with that of the output embeddings, by name."""
    text = {model.get_output_embeddings(), *model.get_decoder().modules()}
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m in text}


def _layout(layers: Mapping[str, torch.nn.Linear], names: Iterable[str]) -> Layout:
    return tuple(
        Module(name, layers[name].in_features, layers[name].out_features)
        for name in sorted(names, key=canonical_order)
    )
