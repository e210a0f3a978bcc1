"""How a dataset is compared with a bank, and the bank's adapters are combined.

The settings of stages that follow, such as training, are in their modules, see
`hf_lorameta.pipeline.stages`; a `hf_lorameta.pipeline.request.Request` has all of them.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from hf_lorameta.method.registries import (
    COEFFICIENT_RULES,
    COMBINERS,
    DEFAULT_METRIC,
    METRICS,
    OUTPUT_PRIOR_STRENGTH,
    CoefficientRule,
    Combiner,
    Metric,
)
from hf_lorameta.settings import Settings

Dtype = Literal["bfloat16", "float16", "float32"]

REGISTRIES: Mapping[str, Mapping[str, Metric | CoefficientRule | Combiner]] = {
    "metric": METRICS,
    "coefficients": COEFFICIENT_RULES,
    "combine": COMBINERS,
}
"""Fields of a `Recipe` that name a method, and the registry with their choices."""

MAX_RANK = 512
"""vLLM's largest ``max_lora_rank``; its default, and ours, is 16."""


def _enum(registry: Mapping[str, object]) -> dict[str, JsonValue]:
    return {"enum": [*registry]}


class _Methods(Settings):
    """Settings of which some name a method."""

    @field_validator(*REGISTRIES, check_fields=False)
    @classmethod
    def _check_name(cls, name: str, info: ValidationInfo) -> str:
        choices = REGISTRIES[str(info.field_name)]
        if name not in choices:
            message = "Input should be one of {choices}"
            raise PydanticCustomError("unknown_method", message, {"choices": ", ".join(choices)})
        return name


class MergeRecipe(_Methods):
    """Settings of a merge of adapters, besides the adapters and their weights.

    Attributes:
        combine: how adapters are combined, a key of `hf_lorameta.method.registries.COMBINERS`.
        rank: of every module of the result; None is the adapters' largest, or 16 if that is more,
            or the sum of their ranks if that is less.
        dtype: of the tensors written.

    Example:
        >>> MergeRecipe(rank=0)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: rank must be at least 1 and at most 512, got 0
    """

    verb = "merge"
    combine: str = "exact"
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    dtype: Dtype = "bfloat16"


class Recipe(_Methods):
    """Settings of one generated adapter: distances, coefficients, and how weights are made.

    The command line has an option for each field, with its description as the help.

    Attributes:
        metric: distance between token distributions, a key of
            `hf_lorameta.method.registries.METRICS`.
        coefficients: rule from distances to coefficients, a key of
            `hf_lorameta.method.registries.COEFFICIENT_RULES`.
        combine: how adapters are combined, a key of `hf_lorameta.method.registries.COMBINERS`.
        top_k: keep only the k largest coefficients and renormalize; None keeps all.
        temperature: divides the logits of the softmin and widens the kernel; below 1 is sharper.
            Dimensionless.
        output_prior: strength of the update toward the dataset's output tokens, if the bank has
            an output prior; 0 leaves it out, as do combiners that are not linear.
        scale: factor of all coefficients. None is 1, but with the rule ``kernel`` and a bank's
            general adapter less for outputs that are longer than the bank's, see
            `hf_lorameta.method.coefficients.length_scale`.
        rank: rank of the result; None is 16, but the bank's own rank for ``factors``.
        dtype: of the tensors written.
        seed: of drawing the rows to train and check on, and of their order; everything else is
            deterministic.
        max_rows: read at most this many rows of the dataset, the first ones; 0 reads all. None
            reads all, except of a large Parquet file on this machine: a part, evenly spread.

    Example:
        >>> Recipe().metric, Recipe().coefficients
        ('js-task', 'kernel')
        >>> Recipe.paper(metric="mmd", coefficients="attentional").combine
        'factors'
        >>> Recipe(rank=0)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: rank must be at least 1 and at most 512, got 0
    """

    metric: str = Field(
        default=DEFAULT_METRIC,
        description="Distance between datasets.",
        json_schema_extra=_enum(METRICS),
    )
    coefficients: str = Field(
        default="kernel",
        description="Rule from distances to coefficients.",
        json_schema_extra=_enum(COEFFICIENT_RULES),
    )
    combine: str = Field(
        default="exact",
        description="exact: the best rank-r approximation of the sum; factors: average A and B "
        "separately.",
        json_schema_extra=_enum(COMBINERS),
    )
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="Use only the k largest coefficients. Default: all.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Temperature of the coefficients; below 1 is sharper.",
    )
    output_prior: float = Field(
        default=OUTPUT_PRIOR_STRENGTH,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="Strength of the update toward the dataset's output tokens; 0: none.",
    )
    scale: float | None = Field(
        default=None,
        gt=0,
        le=4,
        allow_inf_nan=False,
        description="Factor of all coefficients. Default: 1, less if outputs are longer than "
        "the bank's.",
    )
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK, description="Rank of the adapter.")
    dtype: Dtype = Field(default="bfloat16", description="Dtype of the weights.")
    seed: int = Field(default=0, ge=0, description="Random seed.")
    max_rows: int | None = Field(
        default=None,
        ge=0,
        description="Read at most this many rows; 0 reads all, also of a large Parquet file.",
    )

    @classmethod
    def paper(cls, **settings: object) -> "Recipe":
        """Build the method of arXiv 2507.01806: factors averaged separately, every adapter, T=1.

        Args:
            settings: what is to differ from it, as for `of`: the paper's table combines `metric`
                and `coefficients` freely.

        Raises:
            RecipeError: a field is unknown or out of range.

        Example:
            >>> recipe = Recipe.paper(coefficients="neural")
            >>> recipe.metric, recipe.coefficients, recipe.combine
            ('js', 'neural', 'factors')
        """
        paper: dict[str, object] = {"metric": "js", "coefficients": "normalized"}
        paper |= {"combine": "factors", "output_prior": 0.0}
        return cls.of(**(paper | settings))
