"""All settings that decide the bytes of an adapter, besides the bank and the dataset.

A `Recipe` is frozen and is stored with its result in ``recipe.json``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.hub.reading_limits import ReadingLimits
from hf_lorameta.method import PAPER
from hf_lorameta.method.coefficients import COEFFICIENT_RULES, CoefficientRule
from hf_lorameta.method.merging import COMBINERS, Combiner
from hf_lorameta.method.metrics import DEFAULT_METRIC, METRICS, Metric
from hf_lorameta.method.output_prior import STRENGTH

Dtype = Literal["bfloat16", "float16", "float32"]
Emit = Literal["adapter", "mixture"]

MIXTURE_SIZE = 8
"""Adapters in a mixture, unless `Recipe.top_k` says otherwise."""

REGISTRIES: Mapping[str, Mapping[str, Metric | CoefficientRule | Combiner]] = {
    "metric": METRICS,
    "coefficients": COEFFICIENT_RULES,
    "combine": COMBINERS,
}
"""Fields of a `Recipe` that name a method, and the registry with their choices."""

MAX_RANK = 512
"""vLLM's largest ``max_lora_rank``; its default, and ours, is 16."""


class _Settings(BaseModel):
    """Frozen settings, built with errors a person can act on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator(*REGISTRIES, check_fields=False)
    @classmethod
    def _check_name(cls, name: str, info: ValidationInfo) -> str:
        choices = REGISTRIES[str(info.field_name)]
        if name not in choices:
            message = "Input should be one of {choices}"
            raise PydanticCustomError("unknown_method", message, {"choices": ", ".join(choices)})
        return name

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, /, **settings: object) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise self._error(error) from None
            self._check_together()

    @classmethod
    def of(cls, /, **settings: Any) -> Self:
        """Build from settings whose types are not known.

        Raises:
            RecipeError: a field is unknown or out of range, or two exclude each other.

        Example:
            >>> Recipe.of(rank=0)
            Traceback (most recent call last):
            hf_lorameta.errors.RecipeError: rank must be greater than or equal to 1, got 0
        """
        return cls(**settings)

    @classmethod
    def _error(cls, error: ValidationError) -> RecipeError:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
        if first["type"] == "extra_forbidden":
            problem = f"is not a setting, expected one of {', '.join(cls.model_fields)}"
        return RecipeError(
            f"{field} {problem}, got {first['input']!r}", hint="--help lists every setting"
        )

    def _check_together(self) -> None:
        """Refuse settings that exclude each other."""


class MergeRecipe(_Settings):
    """Settings of a merge of adapters, besides the adapters and their weights.

    Attributes:
        combine: how adapters are combined, a key of `hf_lorameta.method.merging.COMBINERS`.
        rank: of every module of the result; None is the adapters' largest, or 16 if that is more,
            or the sum of their ranks if that is less.
        max_size: choose the rank instead, the largest at which the weights file has at most so many
            bytes.
        dtype: of the tensors written.

    Example:
        >>> MergeRecipe(rank=8, max_size=1000)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: rank and max_size exclude each other
    """

    combine: str = "exact"
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    max_size: int | None = Field(default=None, ge=1)
    dtype: Dtype = "bfloat16"

    def _check_together(self) -> None:
        if self.rank is not None and self.max_size is not None:
            raise RecipeError("rank and max_size exclude each other", hint="name one of the two")
        if self.combine == "factors" and self.max_size is not None:
            raise RecipeError(
                "factors keeps the rank of the adapters, so it cannot fit a size",
                hint=Option("combine", "exact"),
            )


class Recipe(_Settings):
    """Settings of one generated adapter: distances, coefficients, and how weights are made.

    Attributes:
        metric: distance between token distributions, a key of
            `hf_lorameta.method.metrics.METRICS`.
        coefficients: rule from distances to coefficients, a key of
            `hf_lorameta.method.coefficients.COEFFICIENT_RULES`.
        combine: how adapters are combined, a key of `hf_lorameta.method.merging.COMBINERS`.
        emit: ``adapter`` merges the adapters into one; ``mixture`` keeps them separate and routes
            each token to some of them, see `hf_lorameta.Mixture`.
        top_k: keep only the k largest coefficients and renormalize; None keeps all, but 8 in a
            mixture.
        temperature: divides the logits of the softmin and widens the kernel; below 1 is sharper.
            Dimensionless.
        output_prior: strength of the update toward the dataset's output tokens, if the bank has
            an output prior; 0 leaves it out, as do combiners that are not linear.
        scale: factor of all coefficients. None is 1, but with the rule ``kernel`` and a bank's
            general adapter less for outputs that are longer than the bank's, see
            `hf_lorameta.method.length_scale`.
        rank: rank of the result; None is 16, but the bank's own rank for ``factors``.
        dtype: of the tensors written.
        seed: of drawing the rows to fit, train and check on, and of their order; everything else is
            deterministic.
        max_rows: read at most this many rows of the dataset; None reads all.
        max_text: cut longer texts of the dataset to this many characters; None is a million.
        refine: fit the coefficients on this many rows of the dataset, which needs the base model;
            None does not fit.
        train: train the adapter further on this many other rows, which needs the base model; None
            does not train. Below 64, the outputs of 24 more rows take part, and where hardly two
            rows have the same output, but other rows do, as many others decide how long to train.
        check: score the adapter on this many rows that were not fitted on, and scale its
            coefficients down if the base model is better; None does not check.

    Example:
        >>> Recipe().metric, Recipe().coefficients
        ('js-task', 'kernel')
        >>> Recipe.paper(metric="mmd", coefficients="attentional").combine
        'factors'
        >>> Recipe(emit="mixture", refine=16)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: a mixture merges and trains nothing, got refine=16
    """

    metric: str = DEFAULT_METRIC
    coefficients: str = "kernel"
    combine: str = "exact"
    emit: Emit = "adapter"
    top_k: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    output_prior: float = Field(default=STRENGTH, ge=0, le=2, allow_inf_nan=False)
    scale: float | None = Field(default=None, gt=0, le=4, allow_inf_nan=False)
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    dtype: Dtype = "bfloat16"
    seed: int = Field(default=0, ge=0)
    max_rows: int | None = Field(default=None, ge=1)
    max_text: int | None = Field(default=None, ge=1)
    refine: int | None = Field(default=None, ge=4, le=4096)
    train: int | None = Field(default=None, ge=8, le=4096)
    check: int | None = Field(default=None, ge=4, le=4096)

    @model_validator(mode="before")
    @classmethod
    def _limit_mixture(cls, settings: Any) -> Any:
        merges = not isinstance(settings, Mapping) or settings.get("emit", "adapter") == "adapter"
        if merges or settings.get("top_k") is not None:
            return settings
        return {**settings, "top_k": MIXTURE_SIZE}

    @property
    def is_mixture(self) -> bool:
        """Whether the adapters are kept separate."""
        return self.emit != "adapter"

    def _check_together(self) -> None:
        if not self.is_mixture:
            return
        for field in ("combine", "refine", "train", "check"):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                raise RecipeError(
                    f"a mixture merges and trains nothing, got {field}={value}",
                    hint=f"leave out --{field}, or --emit {self.emit}",
                )

    @property
    def uses_rows(self) -> bool:
        """Whether labeled rows are needed to fit, to train or to check."""
        return (self.refine, self.train, self.check) != (None, None, None)

    @property
    def reading_limits(self) -> ReadingLimits:
        """How much of a text is read."""
        return ReadingLimits.of_text(self.max_text)

    @classmethod
    def paper(cls, **settings: object) -> "Recipe":
        """Build the method of arXiv 2507.01806: factors averaged separately, every adapter, T=1.

        Args:
            settings: other fields; the paper's table has every metric with every rule.

        Raises:
            RecipeError: a field is unknown or out of range, or departs from the paper.

        Example:
            >>> Recipe.paper(rank=8)
            Traceback (most recent call last):
            hf_lorameta.errors.RecipeError: the paper's recipe has rank=None, got rank=8
        """
        fixed = {
            "combine": "factors",
            "emit": "adapter",
            "top_k": None,
            "temperature": 1.0,
            "output_prior": 0.0,
            "scale": None,
            "rank": None,
            "refine": None,
            "train": None,
            "check": None,
        }
        hint = "leave out --recipe paper to choose every setting yourself"
        for field, value in fixed.items():
            if settings.get(field, value) != value:
                message = f"the paper's recipe has {field}={value}, got {field}={settings[field]}"
                raise RecipeError(message, hint=hint)
        table = {"metric": "js", "coefficients": "normalized"} | settings | fixed
        for field in ("metric", "coefficients"):
            method = REGISTRIES[field].get(str(table[field]))
            if method and method.reference != PAPER:
                raise RecipeError(f"the paper has no {field} {table[field]}", hint=hint)
        return cls.of(**table)
