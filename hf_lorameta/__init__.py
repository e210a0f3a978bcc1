"""A LoRA adapter for your dataset in seconds, on a CPU, without training (arXiv 2507.01806)."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Bank",
    "Dataset",
    "Generation",
    "LoraMetaError",
    "Plan",
    "Recipe",
    "generate",
    "open_dataset",
    "plan",
]

_HOMES = {
    "Bank": "bank",
    "Dataset": "dataset",
    "Generation": "generation",
    "LoraMetaError": "errors",
    "Plan": "generation",
    "Recipe": "recipe",
    "generate": "generation",
    "open_dataset": "dataset",
    "plan": "generation",
}

if TYPE_CHECKING:
    from hf_lorameta.bank import Bank
    from hf_lorameta.dataset import Dataset, open_dataset
    from hf_lorameta.errors import LoraMetaError
    from hf_lorameta.generation import Generation, Plan, generate, plan
    from hf_lorameta.recipe import Recipe


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``--help`` does not wait for numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
