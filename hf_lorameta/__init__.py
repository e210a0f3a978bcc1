"""A LoRA adapter for your dataset in seconds, on a CPU, without training (arXiv 2507.01806)."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "COEFFICIENTS",
    "COMBINERS",
    "DISTANCES",
    "Bank",
    "BankMap",
    "Dataset",
    "Generation",
    "Hub",
    "LoraMetaError",
    "Plan",
    "Recipe",
    "bank_map",
    "carry_out",
    "column_names",
    "default_repo_id",
    "generate",
    "look",
    "open_dataset",
    "parse_columns",
    "plan",
    "publish_folder",
    "refuse_replacing",
]

_HOMES = {
    "COEFFICIENTS": "coefficients",
    "COMBINERS": "combine",
    "DISTANCES": "distance",
    "Bank": "bank",
    "BankMap": "map",
    "Dataset": "dataset",
    "Generation": "generation",
    "Hub": "hub",
    "LoraMetaError": "errors",
    "Plan": "planning",
    "Recipe": "recipe",
    "bank_map": "map",
    "carry_out": "generation",
    "column_names": "dataset",
    "default_repo_id": "publish",
    "generate": "generation",
    "look": "publish",
    "open_dataset": "dataset",
    "parse_columns": "dataset",
    "plan": "planning",
    "publish_folder": "publish",
    "refuse_replacing": "publish",
}

if TYPE_CHECKING:
    from hf_lorameta.bank import Bank
    from hf_lorameta.coefficients import COEFFICIENTS
    from hf_lorameta.combine import COMBINERS
    from hf_lorameta.dataset import Dataset, column_names, open_dataset, parse_columns
    from hf_lorameta.distance import DISTANCES
    from hf_lorameta.errors import LoraMetaError
    from hf_lorameta.generation import Generation, carry_out, generate
    from hf_lorameta.hub import Hub
    from hf_lorameta.map import BankMap, bank_map
    from hf_lorameta.planning import Plan, plan
    from hf_lorameta.publish import default_repo_id, look, publish_folder, refuse_replacing
    from hf_lorameta.recipe import Recipe


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``--help`` does not wait for numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
