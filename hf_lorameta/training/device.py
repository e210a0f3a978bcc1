"""What the machine offers: device, dtype, memory, and how many tasks to train at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hf_lorameta.engines.transformers.dtype import available_memory, parameters, suited_dtype
from hf_lorameta.engines.transformers.float32_products import compute_dtype, is_slow
from hf_lorameta.engines.transformers.packing import OUTPUT_TOKEN_COST
from hf_lorameta.errors import Advice, Option, UsageError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.settings import Machine

_PASS_TOKENS = {"cpu": 1024, "mps": 2048, "cuda": 16384}
_AT_ONCE = {"cpu": 4, "mps": 4, "cuda": 16}
_STATES = 5  # parameters, gradients, two moments, and the best state


@dataclass(frozen=True)
class DevicePlan:
    """How training uses a machine.

    Attributes:
        device: torch name: cuda, mps or cpu.
        dtype: torch name of the base model's dtype.
        at_once: number of tasks in training at a time.
        workers: threads that compute passes.
        pass_tokens: maximum tokens of a pass.
    """

    device: str = "cpu"
    dtype: str = "float32"
    at_once: int = 1
    workers: int = 1
    pass_tokens: int = 1024


def find_device() -> str:
    """Return cuda, mps or cpu, the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_dtype(device: str, folder: Path) -> str:
    """Return the dtype for a base model: bfloat16 where the device multiplies it fast."""
    if device == "cpu":
        return suited_dtype(folder)
    fast = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def plan_device(
    folder: Path, config: Any, layout: Layout, rank: int, machine: Machine
) -> DevicePlan:
    """Return how to train on this machine, after a check that its memory suffices.

    Args:
        folder: of the base model; only the headers of its weights are read.
        config: its configuration, of transformers.
        layout: the adapted modules.
        rank: r.
        machine: what to use of it.

    Raises:
        UsageError: base model, adapters and the activations of a pass do not fit in memory, or the
            device or dtype does not exist.
    """
    device = machine.device or find_device()
    dtype = machine.dtype or find_dtype(device, folder)
    _kind(device)  # refuses one that is not there
    width = _width(dtype)
    weights = width * parameters(folder)
    if device == "cpu" and is_slow(getattr(torch, dtype)):
        width = 4  # of the values between layers, see `suit_to_cpu`
    memory = _Memory(
        device,
        dtype,
        weights,
        _token_bytes(config.get_text_config(), width),
        _state_bytes(layout, rank),
    )
    hint: list[Advice] = [
        "use a machine with more memory",
        "a smaller base model",
        Option("at_once", 1),
    ]
    return memory.plan(machine.at_once, hint)


def plan_loaded_model(
    model: Any,
    layout: Layout,
    rank: int,
    at_once: int,
    *,
    first: int = 0,
    hint: Sequence[Advice] = (),
) -> DevicePlan:
    """Return how to train on a base model in memory; see `plan_device`.

    Args:
        model: of transformers.
        layout: the adapted modules.
        rank: r.
        at_once: number of adapters.
        first: index of the first trained layer.
        hint: what to do if memory does not suffice.

    Raises:
        UsageError: adapters and the activations of a pass do not fit in memory.
    """
    dtype, width = str(model.dtype).removeprefix("torch."), compute_dtype(model).itemsize
    per_token = _token_bytes(model.config.get_text_config(), width, first)
    memory = _Memory(str(model.device), dtype, 0, per_token, _state_bytes(layout, rank))
    return memory.plan(at_once, [*hint, "use a machine with more memory"])


class _Memory(NamedTuple):
    """Bytes that a training needs: once, for each token of a pass, and for each adapter."""

    device: str
    dtype: str
    weights: int
    per_token: float
    per_adapter: int

    def plan(self, at_once: int | None, hint: Sequence[Advice]) -> DevicePlan:
        """Fit the training into memory."""
        kind, available = _kind(self.device), _free_memory(self.device)
        workers = max(torch.get_num_threads(), 1) if kind == "cpu" else 1
        free, per_token = available - self.weights, self.per_token * workers
        tokens = max(min(_PASS_TOKENS[kind], int(free * 0.6 / per_token)), 0)
        count = at_once or max(min(_AT_ONCE[kind], int(free * 0.3 / self.per_adapter)), 1)
        if tokens < 64 or count * self.per_adapter + tokens * per_token > free:
            needed = self.weights + count * self.per_adapter + 64 * per_token
            raise UsageError(
                f"the base model in {self.dtype} and {count} adapters in training need "
                f"{needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free on "
                f"{self.device}",
                hint=hint,
            )
        return DevicePlan(self.device, self.dtype, count, workers, tokens)


def _state_bytes(layout: Layout, rank: int) -> int:
    return 4 * _STATES * rank * sum(m.in_features + m.out_features for m in layout)


def _token_bytes(text: Any, width: int, first: int = 0) -> float:
    """Return the memory that a token of a pass's budget needs.

    It is largest where every token predicts an output token, whose logits, their copy in float32
    and their gradient take 12 bytes per word of the vocabulary; such a token counts for 1.5.
    """
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    layers = text.num_hidden_layers - first
    activations = width * layers * (12 * text.hidden_size + 4 * inner)
    logits = 12 * text.vocab_size
    return float(max(activations, (activations + logits) / (1 + OUTPUT_TOKEN_COST)))


def _kind(device: str) -> str:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = device
    if kind not in _PASS_TOKENS:
        raise UsageError(f"device is {device!r}, expected {', '.join(sorted(_PASS_TOKENS))}")
    present = {"cpu": True, "cuda": torch.cuda.is_available(),
               "mps": torch.backends.mps.is_available()}  # fmt: skip
    if not present[kind]:
        raise UsageError(
            f"this machine has no {kind} device", hint=Option("device", change="leave out")
        )
    return kind


def _width(dtype: str) -> int:
    known = getattr(torch, dtype, None)
    if not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise UsageError(f"dtype is {dtype!r}, expected bfloat16, float16, float32 or float64")
    return known.itemsize


def _free_memory(device: str) -> int:
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
