"""The methods that a recipe can name: metrics, coefficient rules and combiners.

Command line, model card and Space read them here, without the mathematics: a method's module is
imported when its function is called first.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hf_lorameta.data.counts.profile import Part
    from hf_lorameta.method.token_counts import Counts, QueryCounts
    from hf_lorameta.types import Array, FactorPair

OUTPUT_PRIOR_STRENGTH = 0.5
"""Default coefficient of the output prior's update.

1 would move the model's tokens all the way to those of the dataset's outputs.
"""


def _of(module: str, function: str) -> Callable[..., Any]:
    """Return a function that imports a module of this package and calls its function."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"hf_lorameta.method.{module}"), function)(*arguments)

    call.__name__ = function
    return call


class Metric(NamedTuple):
    """A row of `METRICS`; its title is a phrase for use inside a sentence.

    Attributes:
        function: from the counts of the new dataset and of R datasets to (R,) distances.
        parts: the texts it compares; the distances of several parts are added up.
        lengths: whether `hf_lorameta.method.metrics.length_distance` is added, too.
        symmetric: whether the distance is the same in both directions.
    """

    name: str
    title: str
    function: "Callable[[QueryCounts, Counts], Array]"
    parts: "tuple[Part, ...]" = ("both",)
    lengths: bool = False
    symmetric: bool = True

    @property
    def terms(self) -> "dict[Part, Callable[[QueryCounts, Counts], Array]]":
        """The distances that are added up, by the part of the texts that they compare."""
        terms = dict.fromkeys(self.parts, self.function)
        return terms | {"lengths": _of("metrics", "length_distance")} if self.lengths else terms


METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric("wd", "1-Wasserstein distance on token ids", _of("metrics", "wasserstein")),
        Metric("kl", "Kullback–Leibler divergence", _of("metrics", "kl"), symmetric=False),
        Metric("js", "Jensen–Shannon divergence", _of("metrics", "js")),
        Metric("mmd", "maximum mean discrepancy on token ids", _of("metrics", "mmd")),
        Metric(
            "js-io",
            "Jensen–Shannon divergence of inputs plus that of outputs",
            _of("metrics", "js"),
            ("input", "output"),
        ),
        Metric(
            "js-task",
            "Jensen–Shannon divergence of inputs plus that of outputs plus the distance of the "
            "outputs' lengths",
            _of("metrics", "js"),
            ("input", "output"),
            lengths=True,
        ),
    )
}
"""Every metric, by the name a recipe uses."""

DEFAULT_METRIC = "js-task"


class CoefficientRule(NamedTuple):
    """A row of `COEFFICIENT_RULES`; its title is a phrase for use inside a sentence.

    `by_length` says whether the coefficients are scaled for long outputs unless a recipe states a
    scale, and `among_candidates` whether the nearest datasets of a large bank suffice. The function
    takes a `hf_lorameta.method.coefficients.RuleInputs`.
    """

    name: str
    title: str
    function: "Callable[..., Array]"
    by_length: bool = False
    among_candidates: bool = False


COEFFICIENT_RULES: dict[str, CoefficientRule] = {
    row.name: row
    for row in (
        CoefficientRule(
            "attentional", "softmin of the distances", _of("coefficients", "attentional")
        ),
        CoefficientRule(
            "normalized",
            "softmin of the standardized distances",
            _of("coefficients", "normalized"),
        ),
        CoefficientRule(
            "neural",
            "softmin of a small network over the standardized distances, trained on the bank",
            _of("coefficients", "neural"),
        ),
        CoefficientRule(
            "kernel",
            "kernel ridge regression on the distances, with the general adapter, or the bank's "
            "mean, as its prior",
            _of("coefficients", "kernel"),
            by_length=True,
            among_candidates=True,
        ),
    )
}
"""Every coefficient rule, by the name a recipe uses."""


class Combiner(NamedTuple):
    """A row of `COMBINERS`; its title is a phrase for use inside a sentence.

    Attributes:
        function: from As, Bs, weights, scalings and rank to A and B.
        linear: whether twice the weights give twice the update B A; if not, twice A and twice B.
    """

    name: str
    title: str
    function: "Callable[..., FactorPair]"
    linear: bool


COMBINERS: dict[str, Combiner] = {
    row.name: row
    for row in (
        Combiner(
            "factors",
            "lora_A and lora_B averaged separately",
            _of("merging", "factors"),
            linear=False,
        ),
        Combiner(
            "exact",
            "the weighted sum of the updates B·A, truncated to the rank by an SVD",
            _of("merging", "exact"),
            linear=True,
        ),
    )
}
"""Every combiner, by the name a recipe uses."""
