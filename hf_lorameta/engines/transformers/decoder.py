"""Layers and width of a causal LM, whatever its config and its modules call them."""

from typing import Any

import torch


def text_model(model: Any) -> torch.nn.Module:
    """Return the part of a causal LM of transformers that has the layers."""
    decoder: torch.nn.Module = model.get_decoder()
    has_layers = any(isinstance(module, torch.nn.ModuleList) for module in decoder.modules())
    return decoder if has_layers else model.base_model


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """Return the layers of the text model of a causal LM of transformers."""
    lists = [m for m in text_model(model).modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def width(model: Any) -> int:
    """Return the size of the states between the layers of a causal LM of transformers."""
    stated = getattr(model.config.get_text_config(), "hidden_size", None)
    return int(stated or model.get_input_embeddings().weight.shape[1])
