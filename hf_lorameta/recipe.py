"""All settings that decide the bytes of an adapter, besides the bank and the dataset.

A `Recipe` is frozen and is stored with its result in ``recipe.json``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from hf_lorameta.errors import Advice, Option, RecipeError, problem_of
from hf_lorameta.method.coefficients import COEFFICIENT_RULES, CoefficientRule
from hf_lorameta.method.merging import COMBINERS, Combiner
from hf_lorameta.method.metrics import DEFAULT_METRIC, METRICS, Metric
from hf_lorameta.method.output_prior import STRENGTH

Dtype = Literal["bfloat16", "float16", "float32"]

REGISTRIES: Mapping[str, Mapping[str, Metric | CoefficientRule | Combiner]] = {
    "metric": METRICS,
    "coefficients": COEFFICIENT_RULES,
    "combine": COMBINERS,
}
"""Fields of a `Recipe` that name a method, and the registry with their choices."""

METHOD_SETTINGS = (
    "metric", "coefficients", "combine", "top_k", "temperature", "output_prior", "scale", "rank",
)  # fmt: skip
"""Fields of a `Recipe` that say how a bank's adapters are combined."""

MAX_RANK = 512
"""vLLM's largest ``max_lora_rank``; its default, and ours, is 16."""


_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most"}
"""Limits of numbers, in the words of our errors."""


def _allowed(metadata: Sequence[object]) -> str:
    """Return which numbers a field takes.

    Example:
        >>> _allowed(Recipe.model_fields["scale"].metadata)
        'more than 0 and at most 4'
    """
    return " and ".join(
        f"{words} {getattr(limit, name)}"
        for limit in metadata
        for name, words in _LIMITS.items()
        if hasattr(limit, name)
    )


class _Settings(BaseModel):
    """Frozen settings, built with errors a person can act on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    command: ClassVar[str] = "generate"

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
            hf_lorameta.errors.RecipeError: rank must be at least 1 and at most 512, got 0
        """
        return cls(**settings)

    @classmethod
    def _error(cls, error: ValidationError) -> RecipeError:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        problem, kind = problem_of(first["msg"]), first["type"]
        hint: Advice = f"hf-lorameta {cls.command} --help lists every setting"
        if kind == "extra_forbidden":
            problem = f"is not a setting, expected one of {', '.join(cls.model_fields)}"
        elif kind == "finite_number" or first.get("ctx", {}).keys() & _LIMITS:
            finite = "finite and " if kind == "finite_number" else ""
            problem = f"must be {finite}{_allowed(cls.model_fields[field].metadata)}"
            limits = first.get("ctx", {})
            hint = Option(field, change="leave out")
            if limits.keys() & {"ge", "le"}:
                hint = Option(field, change="raise" if "ge" in limits else "lower")
        return RecipeError(
            f"{field} {problem}, got {first['input']!r}", code="recipe.invalid", hint=hint
        )

    def _check_together(self) -> None:
        """Refuse settings that exclude each other."""


class MergeRecipe(_Settings):
    """Settings of a merge of adapters, besides the adapters and their weights.

    Attributes:
        combine: how adapters are combined, a key of `hf_lorameta.method.merging.COMBINERS`.
        rank: of every module of the result; None is the adapters' largest, or 16 if that is more,
            or the sum of their ranks if that is less.
        dtype: of the tensors written.

    Example:
        >>> MergeRecipe(rank=0)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: rank must be at least 1 and at most 512, got 0
    """

    command = "merge"
    combine: str = "exact"
    rank: int | None = Field(default=None, ge=1, le=MAX_RANK)
    dtype: Dtype = "bfloat16"


class Recipe(_Settings):
    """Settings of one generated adapter: distances, coefficients, and how weights are made.

    The command line has an option for each field, with its description as the help.

    Attributes:
        metric: distance between token distributions, a key of
            `hf_lorameta.method.metrics.METRICS`.
        coefficients: rule from distances to coefficients, a key of
            `hf_lorameta.method.coefficients.COEFFICIENT_RULES`.
        combine: how adapters are combined, a key of `hf_lorameta.method.merging.COMBINERS`.
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
        max_rows: read at most this many rows of the dataset; None reads all.
        train: train the upper three quarters of the layers on this many rows of the dataset,
            which needs the base model; None does not. If right answers are counted and there are
            too few other rows for that, a quarter of all is held out, or few rows are divided into
            folds.
        steps: take exactly so many steps, on all of these rows. The recipe of an adapter that was
            trained has them.
        schedule: steps after which the learning rate is zero; None is `steps`. The recipe of an
            adapter has them if it is not from the last one.
        check: count right answers on this many rows that were not trained on, and refuse an adapter
            without which the base model has more, by the verdict; None refuses none.

    Example:
        >>> Recipe().metric, Recipe().coefficients
        ('js-task', 'kernel')
        >>> Recipe.paper(metric="mmd", coefficients="attentional").combine
        'factors'
        >>> Recipe(train=1)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: train must be at least 6 and at most 4096, got 1
    """

    metric: str = Field(default=DEFAULT_METRIC, description="Distance between datasets.")
    coefficients: str = Field(default="kernel", description="Rule from distances to coefficients.")
    combine: str = Field(
        default="exact",
        description="exact: the best rank-r approximation of the sum; factors: average A and B "
        "separately.",
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
        default=STRENGTH,
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
    max_rows: int | None = Field(default=None, ge=1, description="Read at most this many rows.")
    train: int | None = Field(
        default=None,
        ge=6,
        le=4096,
        description="Train the upper three quarters of the layers on this many rows, e.g. 16 or "
        "200 (extra: eval).",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Take exactly so many steps of --train, as the card of an adapter states that "
        "was made within a time limit.",
    )
    schedule: int | None = Field(
        default=None,
        ge=1,
        description="Steps after which the learning rate is zero, at least --steps, if the card of "
        "an adapter states them.",
    )
    check: int | None = Field(
        default=None,
        ge=4,
        le=4096,
        description="Count right answers on this many other rows, e.g. 16, and refuse an adapter "
        "without which the base model has more (extra: eval). By default, they are only counted, "
        "on rows that it has not seen.",
    )

    def _check_together(self) -> None:
        if self.steps is not None and self.train is None:
            raise RecipeError(
                f"got steps={self.steps}, expected none without train",
                code="recipe.steps-without-train",
                hint=Option("steps", change="leave out"),
            )
        if self.schedule is not None and self.schedule < (self.steps or math.inf):
            expected = f"at least steps, {self.steps}" if self.steps else "none without steps"
            raise RecipeError(
                f"got schedule={self.schedule}, expected {expected}",
                code="recipe.schedule-mismatch",
                hint=Option("schedule", change="leave out"),
            )

    @property
    def rows_asked(self) -> dict[str, int]:
        """How many labeled rows are asked for, by the setting: `train` and `check`.

        Example:
            >>> Recipe(train=16).rows_asked
            {'train': 16}
        """
        asked = {"train": self.train, "check": self.check}
        return {name: count for name, count in asked.items() if count is not None}

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


class Replay(Recipe):
    """The settings that make an adapter again, whatever time or limits there are then.

    They are those that were asked for, apart from what came out: `max_rows` is the number of rows
    that were read if a limit ended the reading, and `train`, `steps` and `schedule` are those of
    the training.
    """

    @classmethod
    def after(cls, asked: Recipe, **came_out: int | None) -> "Replay":
        """Return the settings that were asked for, with what came out.

        Example:
            >>> Replay.after(Recipe(rank=8), train=200, steps=96).steps
            96
        """
        return cls.of(**(asked.model_dump() | came_out))


def as_recipe(settings: Recipe | Mapping[str, Any] | None) -> Recipe:
    """Return a recipe as it is, and one with these settings if they are a dictionary.

    Raises:
        RecipeError: as `Recipe.of` raises; or something else was given.

    Example:
        >>> as_recipe({"rank": 8}).rank, as_recipe(None) == Recipe()
        (8, True)
    """
    if isinstance(settings, Recipe):
        return settings
    if settings is None or isinstance(settings, Mapping):
        return Recipe.of(**settings or {})
    raise RecipeError(
        f"a recipe is hf_lorameta.Recipe(…) or a dictionary of settings, got {settings!r}",
        code="recipe.not-a-recipe",
    )
