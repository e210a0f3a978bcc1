"""The one decision whether an adapter helps, and its reason, for every place that asks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_lorameta.cards.results import CLASSIFIER, CheckResult, method_in_words
from hf_lorameta.engines.scoring import ADAPTER_METHOD, MEASURES
from hf_lorameta.pipeline.budget import more_time
from hf_lorameta.remarks import Level, Remark

_ROUGE_MARGIN = 0.05
"""Smallest lead in Rouge-L that counts; on 16 rows, less may be chance."""
_UNTRAINED = "It was not trained: time ran out before the first step."
_WHAT_HELPS = "More rows, or more time to train, may change that."
_BETTER_TOOL = (
    "For labels like these, a classifier is the better tool, such as SetFit or model2vec."
)


@dataclass(frozen=True)
class Verdict(Remark):
    """Whether an adapter helps: its `level` is likely, unsure or unlikely, its `code` says why.

    Attributes:
        counts: the sentences of the reason that list what was counted, as a table does elsewhere.
        figures: what decided; empty if nothing was counted.
    """

    counts: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def beside_counts(self) -> str:
        """The reason without what was counted."""
        return self.reason.removeprefix(self.counts).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return what any remark does, and the figures."""
        return super().to_dict() | {"figures": dict(self.figures)}


class _Figures(NamedTuple):
    """What decides, in JSON as well.

    Attributes:
        rows: number of rows.
        measure: what decides: ``right``, or how good answers are, one of `MEASURES`.
        adapter: its score by that measure.
        other: the best other method.
        other_score: its score.
        margin: the smallest lead that counts.
    """

    rows: int
    measure: str
    adapter: float
    other: str
    other_score: float
    margin: float


def verdict_on(
    check: CheckResult | None,
    doubts: Sequence[str] = (),
    budget: float | None = None,
    *,
    untrained: bool = False,
) -> Verdict:
    """Return whether an adapter helps, judged by its right answers or how good they are.

    It is unlikely to if any other method is ahead of it by a margin, and likely to if it is ahead
    by one of all that use the base model, or answer all rows the same.

    Args:
        check: of the adapter on rows; None if there was none.
        doubts: sentences that say why inputs may lack what an answer needs. If there are any, the
            adapter is not called likely to help, whatever was counted.
        budget: the time limit in seconds; None if it is unknown.
        untrained: whether time ran out before the first step of a training. Then more time is the
            advice, not another tool.

    Example:
        >>> from hf_lorameta.cards.results import Counted
        >>> right = {"generated": 12, "base": 2, "base-chat": 3, "3-shot": 9, "most-frequent": 7}
        >>> def checked(right): return CheckResult(16, {m: Counted(n) for m, n in right.items()})
        >>> verdict = verdict_on(checked(right))
        >>> print(verdict)  # doctest: +NORMALIZE_WHITESPACE
        Likely to help: the adapter answers best. Right answers on 16 rows: the adapter 12, the base
        model 2, the base model in its chat template 3, 3 examples in the prompt 9, the most
        frequent answer for all rows 7.
        >>> verdict.level, verdict.code, verdict.figures["other"], verdict.figures["margin"]
        ('likely', 'verdict.best', '3-shot', 3)
        >>> verdict_on(checked(right), ["No input says what to do."]).code
        'verdict.doubtful'
        >>> verdict_on(checked(right | {"classifier": 13})).code
        'verdict.classifier-equal'
        >>> verdict_on(checked(right | {"classifier": 15})).beside_counts
        'For labels like these, a classifier is the better tool, such as SetFit or model2vec.'
    """
    if check is None:
        advice = "Count them on some rows before you rely on an adapter."
        text = " ".join(["Unsure until right answers are counted.", *doubts, advice])
        return Verdict("unsure", text, code="verdict.uncounted")
    level, code, title, advice = _decided(check, bool(doubts), untrained)
    counts = _counts(check)
    text = " ".join(filter(None, (f"{title}.", counts, _UNTRAINED * untrained, *doubts, advice)))
    helps = code == "verdict.none-right" or advice == _WHAT_HELPS
    longer, purpose = (more_time(budget), "To train longer") if helps else (None, "")
    figures = _deciding(check)[0]._asdict()
    return Verdict(level, text, longer, purpose, code=code, counts=counts, figures=figures)


def _decided(check: CheckResult, doubtful: bool, untrained: bool) -> tuple[Level, str, str, str]:
    """Return level, code, title and advice of the verdict on a check."""
    figures, scores = _deciding(check)
    adapter, top, best, margin = figures.adapter, *figures[3:]
    better, equal = "more answers are right", "as many are right"
    if figures.measure != "right":
        better, equal = "answers are closer to the outputs", "as good"
    rival = _best_other(scores, besides=CLASSIFIER)
    if not math.isfinite(check.adapter.loss or 0):
        title = "Unlikely to help: its numbers are too large to compute with"
        return "unlikely", "verdict.overflow", title, ""
    if not (any(check.right.values()) or any(scores.values())):
        return "unsure", "verdict.none-right", "Unsure: no answer is right", ""
    if best >= adapter + margin:
        title = f"Unlikely to help: {better} with {method_in_words(top)}"
        tool = top == CLASSIFIER and best >= scores[rival] + margin and not untrained
        code = "verdict.classifier-better" if top == CLASSIFIER else "verdict.other-better"
        return "unlikely", code, title, _BETTER_TOOL if tool else _WHAT_HELPS
    if adapter < scores[rival] + margin:
        title = f"Unsure: about {equal} with {method_in_words(rival)}"
        return "unsure", "verdict.equal", title, ""
    code, title = "verdict.best", "the adapter answers best"
    if scores.get(CLASSIFIER, -math.inf) > adapter - margin:
        code = "verdict.classifier-equal"
        title = "the adapter answers better than the base model, and about as well as "
        title += method_in_words(CLASSIFIER)
    if doubtful:
        return "unsure", "verdict.doubtful", f"Unsure, although {title}", ""
    if not check.adapter.right:
        title += ", although none of its answers is exactly right"
    return "likely", code, f"Likely to help: {title}", ""


def _deciding(check: CheckResult) -> tuple[_Figures, Mapping[str, float]]:
    """Return what decides, and the scores of all methods by the measure that does.

    Where a copy of the input is close to the output, only right answers tell methods apart.
    """
    scores: Mapping[str, float] = check.right
    measure, margin = "right", _margin(check.rows)
    if check.measure:
        least = _ROUGE_MARGIN if check.measure == "rouge_l" else margin / check.rows
        if abs(_lead(check.scores)) >= least or abs(_lead(check.right)) < margin:
            measure, margin, scores = check.measure, least, check.scores
    other = _best_other(scores)
    figures = _Figures(check.rows, measure, scores[ADAPTER_METHOD], other, scores[other], margin)
    return figures, scores


def is_as_good(now: CheckResult, before: CheckResult) -> bool:
    """Whether an adapter answers as well as another did, perhaps on other rows.

    Example:
        >>> from hf_lorameta.cards.results import Counted
        >>> before, now = (CheckResult(8, {"generated": Counted(right)}) for right in (5, 6))
        >>> is_as_good(now, before), is_as_good(before, now)
        (True, False)
    """
    if now.adapter.score is not None and before.adapter.score is not None:
        return now.adapter.score >= before.adapter.score
    return now.adapter.right / now.rows >= before.adapter.right / before.rows


def _margin(rows: int) -> float:
    """Return the smallest lead in right answers that counts; a smaller one may be chance.

    At least 2, and the standard error of the difference if two methods differ on half of the rows.

    Example:
        >>> [_margin(rows) for rows in (4, 16, 48)]
        [2, 3, 5]
    """
    return max(2, round(math.sqrt(rows / 2)))


def _best_other(scores: Mapping[str, float], besides: str = ADAPTER_METHOD) -> str:
    """Return the best method other than the adapter and another; the first of equals."""
    others = [method for method in scores if method not in (ADAPTER_METHOD, besides)]
    return max(others, key=scores.__getitem__)


def _lead(scores: Mapping[str, float]) -> float:
    """Return the adapter's score less that of the best other method, besides the classifier."""
    return scores[ADAPTER_METHOD] - scores[_best_other(scores, besides=CLASSIFIER)]


def _counts(check: CheckResult) -> str:
    """Return what was counted of all methods, in words."""
    right = ", ".join(f"{method_in_words(name)} {n}" for name, n in check.right.items())
    if not check.measure:
        return f"Right answers on {check.rows} rows: {right}."
    graded = ", ".join(f"{method_in_words(name)} {s:.2f}" for name, s in check.scores.items())
    title = MEASURES[check.measure]
    return f"{title} of the answers to {check.rows} rows: {graded}. Right answers: {right}."
