"""A LoRA adapter for your dataset on a CPU, from a bank and your rows (arXiv 2507.01806)."""

import importlib
from typing import TYPE_CHECKING

from hf_lorameta._version import __version__ as __version__
from hf_lorameta.errors import LoraMetaError

_MODULES = {
    "Bank": "bank.bank",
    "Columns": "data.columns.columns",
    "Generation": "pipeline.save",
    "Hub": "hub.client",
    "Merge": "pipeline.merge",
    "MergeRecipe": "recipe",
    "Plan": "pipeline.plan",
    "ReadingLimits": "data.sources.reading_limits",
    "Recipe": "recipe",
    "Report": "engines.scoring",
    "Request": "pipeline.request",
    "evaluate": "pipeline.evaluate",
    "generate": "pipeline.generate",
    "merge": "pipeline.merge",
    "open_bank": "bank.open_bank",
    "open_dataset": "data.dataset",
    "plan": "pipeline.generate",
    "predict": "pipeline.predict",
}

__all__ = [
    "Bank",
    "Columns",
    "Generation",
    "Hub",
    "LoraMetaError",
    "Merge",
    "MergeRecipe",
    "Plan",
    "ReadingLimits",
    "Recipe",
    "Report",
    "Request",
    "evaluate",
    "generate",
    "merge",
    "open_bank",
    "open_dataset",
    "plan",
    "predict",
]

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.open_bank import open_bank
    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.data.dataset import open_dataset
    from hf_lorameta.data.sources.reading_limits import ReadingLimits
    from hf_lorameta.engines.scoring import Report
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.evaluate import evaluate
    from hf_lorameta.pipeline.generate import generate, plan
    from hf_lorameta.pipeline.merge import Merge, merge
    from hf_lorameta.pipeline.plan import Plan
    from hf_lorameta.pipeline.predict import predict
    from hf_lorameta.pipeline.request import Request
    from hf_lorameta.pipeline.save import Generation
    from hf_lorameta.recipe import MergeRecipe, Recipe


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import hf_lorameta`` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
