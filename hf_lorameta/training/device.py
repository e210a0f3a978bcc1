"""What the machine offers: device, dtype and memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers import decoder
from hf_lorameta.engines.transformers.dtype import available_memory, suited_dtype
from hf_lorameta.engines.transformers.forward import count_tokens
from hf_lorameta.engines.transformers.joined_rows import OUTPUT_TOKEN_COST
from hf_lorameta.engines.transformers.suited_layers import is_suited
from hf_lorameta.engines.transformers.threads import cores
from hf_lorameta.errors import Advice, UsageError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.upper_layers import SHARES

_PASS_TOKENS = {"cpu": 1024, "mps": 2048, "cuda": 16384}
_LEAST_TOKENS = 64
_PASS_BYTES = {"cpu": 1.2e9}
"""Most memory for the passes that are computed at a time, on devices where less is not slower.

With 1.5 billion parameters, two passes of 128 tokens fit in; larger ones are 3% faster.
"""
_STATES = 4 + SHARES  # parameters, two moments, the best state, and gradients


@dataclass(frozen=True)
class DevicePlan:
    """How training uses a machine.

    Attributes:
        workers: threads that compute passes.
        pass_tokens: maximum tokens of a pass.
    """

    workers: int = 1
    pass_tokens: int = 1024


def find_device() -> str:
    """Return cuda, mps or cpu, whichever is available first."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_dtype(device: str, folder: Path) -> str:
    """Return the dtype for a base model: bfloat16 if the device multiplies it fast."""
    if device == "cpu":
        return suited_dtype(folder)
    fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def plan_device(
    model: Any,
    layout: Layout,
    rank: int,
    *,
    first: int = 0,
    rows: Sequence[Tokens] = (),
    hint: Sequence[Advice] = (),
) -> DevicePlan:
    """Return how to train on a model's device, after checking that it has enough memory.

    Args:
        model: of transformers, in memory.
        layout: the adapted modules.
        rank: r.
        first: index of the first trained layer.
        rows: whose states there are kept, see `UpperLayers`.
        hint: what to do if there is not enough memory, other than adding more.

    Raises:
        UsageError: the adapter and the activations of a pass do not fit in memory.
    """
    kept = 4 * decoder.width(model) * count_tokens(rows) if first else 0
    kind, free = model.device.type, _free_memory(model.device) - kept
    width = 4 if is_suited(model) else model.dtype.itemsize  # of values
    workers = cores() if kind == "cpu" else 1
    per_token = _token_bytes(model, width, first) * workers
    state = 4 * _STATES * rank * sum(m.in_features + m.out_features for m in layout)
    fitting = max(int(free * 0.6 / per_token), 0)
    enough = max(_PASS_BYTES.get(kind, math.inf) / per_token, _LEAST_TOKENS)
    tokens = int(min(_PASS_TOKENS[kind], fitting, enough))
    if tokens < _LEAST_TOKENS or state + tokens * per_token > free:
        needed = kept + state + _LEAST_TOKENS * per_token
        raise UsageError(
            f"an adapter in training needs {needed / 1e9:.1f} GB of memory besides the base "
            f"model, {(free + kept) / 1e9:.1f} GB are free on {model.device}",
            code="memory.too-little",
            hint=[*hint, "use a machine with more memory"],
        )
    return DevicePlan(workers, tokens)


def _token_bytes(model: Any, width: int, first: int) -> float:
    """Return the memory that a token of a pass's budget needs.

    It is largest where every token predicts an output token, whose logits, their copy in float32
    and their gradient take 12 bytes per word of the vocabulary; such a token counts for 1.5.
    """
    hidden = decoder.width(model)
    stated = getattr(model.config.get_text_config(), "intermediate_size", None)
    inner = stated if isinstance(stated, int) else 4 * hidden
    layers = len(decoder.decoder_layers(model)) - first
    activations = width * layers * (12 * hidden + 4 * inner)
    logits = 12 * model.get_input_embeddings().weight.shape[0]
    return float(max(activations, (activations + logits) / (1 + OUTPUT_TOKEN_COST)))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
