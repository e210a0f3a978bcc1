"""A LoRA adapter for your dataset in seconds, on a CPU, without training (arXiv 2507.01806)."""

import importlib
import warnings
from typing import TYPE_CHECKING

from hf_lorameta._version import __version__ as __version__
from hf_lorameta.errors import (
    AdapterError,
    AuthError,
    BankError,
    ColumnsError,
    ConflictError,
    ConnectionLostError,
    DatasetError,
    DatasetTooLargeError,
    EmptyDatasetError,
    GatedError,
    HubError,
    IntegrityError,
    LoraMetaError,
    ManifestError,
    MissingExtraError,
    NotFoundError,
    RecipeError,
    ScriptDatasetError,
    UnlabeledDatasetError,
    UsageError,
)

_MODULES = {
    "COEFFICIENT_RULES": "method.coefficients",
    "COMBINERS": "method.merging",
    "FAR_RATIO": "bank.geometry",
    "METRICS": "method.metrics",
    "Bank": "bank.bank",
    "Coefficients": "method.coefficients",
    "Columns": "data.columns",
    "BankMap": "bank.map",
    "Dataset": "data.dataset",
    "Generation": "pipeline.generation",
    "Hub": "hub.client",
    "Merge": "pipeline.merge",
    "MergeRecipe": "recipe",
    "Mixture": "pipeline.mixture",
    "Plan": "pipeline.plan",
    "Reading": "pipeline.read_dataset",
    "ReadingLimits": "hub.reading_limits",
    "Preview": "data.preview",
    "Recipe": "recipe",
    "Report": "engines.scoring",
    "RowSample": "data.sample",
    "Session": "pipeline.session",
    "obstacle_to_training": "pipeline.budget",
    "recipe_within": "pipeline.budget",
    "TokenCounting": "pipeline.read_dataset",
    "Trial": "pipeline.trial",
    "scores_to_card": "pipeline.trial",
    "advise": "pipeline.advice",
    "as_option": "data.prompt",
    "bank_map": "bank.map",
    "check_no_overwrite": "pipeline.publish",
    "default_repo_id": "pipeline.publish",
    "draw_stratified": "data.sample",
    "evaluate": "pipeline.evaluate",
    "from_option": "data.prompt",
    "generate": "pipeline.generate",
    "generate_from_plan": "pipeline.generate",
    "install_requirement": "environment",
    "merge": "pipeline.merge",
    "open_dataset": "data.dataset",
    "parse_columns": "data.columns",
    "plan": "pipeline.read_and_plan",
    "plan_from_reading": "pipeline.read_and_plan",
    "preview": "data.preview",
    "publish_adapter": "pipeline.publish",
    "publish_folder": "pipeline.publish",
    "read_dataset": "pipeline.read_dataset",
    "render_modelfile": "cards.gguf_usage",
    "resolve_target": "pipeline.publish",
    "token_counting": "pipeline.read_dataset",
}
_DEPRECATED = {
    "COEFFICIENTS": "COEFFICIENT_RULES",
    "DISTANCES": "METRICS",
    "carry_out": "generate_from_plan",
    "look": "resolve_target",
    "refuse_replacing": "check_no_overwrite",
}

__all__ = [
    "COEFFICIENT_RULES",
    "COMBINERS",
    "FAR_RATIO",
    "METRICS",
    "AdapterError",
    "AuthError",
    "Bank",
    "BankError",
    "BankMap",
    "Coefficients",
    "Columns",
    "ColumnsError",
    "ConflictError",
    "ConnectionLostError",
    "Dataset",
    "DatasetError",
    "DatasetTooLargeError",
    "EmptyDatasetError",
    "GatedError",
    "Generation",
    "Hub",
    "HubError",
    "IntegrityError",
    "LoraMetaError",
    "ManifestError",
    "Merge",
    "MergeRecipe",
    "MissingExtraError",
    "Mixture",
    "NotFoundError",
    "Plan",
    "Preview",
    "Reading",
    "ReadingLimits",
    "Recipe",
    "RecipeError",
    "Report",
    "RowSample",
    "ScriptDatasetError",
    "Session",
    "TokenCounting",
    "Trial",
    "UnlabeledDatasetError",
    "UsageError",
    "advise",
    "as_option",
    "bank_map",
    "check_no_overwrite",
    "default_repo_id",
    "draw_stratified",
    "evaluate",
    "from_option",
    "generate",
    "generate_from_plan",
    "install_requirement",
    "merge",
    "obstacle_to_training",
    "open_dataset",
    "parse_columns",
    "plan",
    "plan_from_reading",
    "preview",
    "publish_adapter",
    "publish_folder",
    "read_dataset",
    "recipe_within",
    "render_modelfile",
    "resolve_target",
    "scores_to_card",
    "token_counting",
]

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.geometry import FAR_RATIO
    from hf_lorameta.bank.map import BankMap, bank_map
    from hf_lorameta.cards.gguf_usage import render_modelfile
    from hf_lorameta.data.columns import Columns, parse_columns
    from hf_lorameta.data.dataset import Dataset, open_dataset
    from hf_lorameta.data.preview import Preview, preview
    from hf_lorameta.data.prompt import as_option, from_option
    from hf_lorameta.data.sample import RowSample, draw_stratified
    from hf_lorameta.engines.scoring import Report
    from hf_lorameta.environment import install_requirement
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.hub.reading_limits import ReadingLimits
    from hf_lorameta.method.coefficients import COEFFICIENT_RULES, Coefficients
    from hf_lorameta.method.merging import COMBINERS
    from hf_lorameta.method.metrics import METRICS
    from hf_lorameta.pipeline.advice import advise
    from hf_lorameta.pipeline.budget import obstacle_to_training, recipe_within
    from hf_lorameta.pipeline.evaluate import evaluate
    from hf_lorameta.pipeline.generate import generate, generate_from_plan
    from hf_lorameta.pipeline.generation import Generation
    from hf_lorameta.pipeline.merge import Merge, merge
    from hf_lorameta.pipeline.mixture import Mixture
    from hf_lorameta.pipeline.plan import Plan
    from hf_lorameta.pipeline.publish import (
        check_no_overwrite,
        default_repo_id,
        publish_adapter,
        publish_folder,
        resolve_target,
    )
    from hf_lorameta.pipeline.read_and_plan import plan, plan_from_reading
    from hf_lorameta.pipeline.read_dataset import (
        Reading,
        TokenCounting,
        read_dataset,
        token_counting,
    )
    from hf_lorameta.pipeline.session import Session
    from hf_lorameta.pipeline.trial import Trial, scores_to_card
    from hf_lorameta.recipe import MergeRecipe, Recipe


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import hf_lorameta`` stays fast."""
    if name in _DEPRECATED:
        new = _DEPRECATED[name]
        warnings.warn(f"hf_lorameta.{name} is now {new}", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
