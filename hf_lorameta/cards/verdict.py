"""What to expect of an adapter, in right answers: one text for all who state it."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hf_lorameta.cards.results import Check, RightAnswers


class Verdict(NamedTuple):
    """What to expect of an adapter.

    Attributes:
        level: whether it answers better than the alternatives.
        title: the verdict in a few words.
        reason: what was counted, and what is in doubt, as sentences.
    """

    level: Literal["likely", "unsure", "unlikely"]
    title: str
    reason: str

    def __str__(self) -> str:
        return f"{self.title}. {self.reason}"


NOT_COUNTED = Verdict(
    "unsure",
    "Unsure: nobody counted its right answers",
    "Count right answers on some rows before you rely on it.",
)
"""On an adapter that was not checked."""


def verdict_of(check: Check | None, doubts: Sequence[str] = ()) -> Verdict:
    """Return the verdict on an adapter: of answers that were counted, and never more.

    Args:
        check: of the adapter on rows; None if there was none.
        doubts: why rows may not hold what an answer needs, as sentences: with one of them, the
            adapter is not called better, whatever was counted.

    Example:
        >>> right = RightAnswers(most_frequent=7, base=2, end=12, chat=3, prompt=9)
        >>> check = Check(16, base=2.0, start=1.0, end=1.0, scale=1, shots=3, right=right)
        >>> print(verdict_of(check))  # doctest: +NORMALIZE_WHITESPACE
        Likely to help: the adapter answers best. Right answers on 16 rows: the adapter 12, the base
        model 2, the base model in its chat template 3, 3 examples in the prompt 9, the most
        frequent answer for all rows 7.
        >>> verdict_of(check, ["No input says what to do."]).title
        'Unsure, although the adapter answers best'
        >>> verdict_of(None).title
        'Unsure: nobody counted its right answers'
    """
    if check is None:
        return NOT_COUNTED._replace(reason=" ".join([*doubts, NOT_COUNTED.reason]))
    adapter, others = check.right.end, _others(check.right, check.shots)
    name, best = max(others.items(), key=lambda item: item[1])
    counts = ", ".join(f"{n} {count}" for n, count in {"the adapter": adapter, **others}.items())
    reason = " ".join([f"Right answers on {check.rows} rows: {counts}.", *doubts])
    if not max(adapter, best):
        return Verdict("unsure", "Unsure: no answer is right", reason)
    margin = _margin(check.rows)
    if best >= adapter + margin:
        return Verdict("unlikely", f"Unlikely to help: more answers are right with {name}", reason)
    if adapter < best + margin:
        return Verdict("unsure", f"Unsure: about as many are right with {name}", reason)
    if doubts:
        return Verdict("unsure", "Unsure, although the adapter answers best", reason)
    return Verdict("likely", "Likely to help: the adapter answers best", reason)


def _margin(rows: int) -> int:
    """Return the right answers by which a method has to lead, as fewer may be chance.

    At least 2, and the standard error of the difference if two methods differ on half of the rows.

    Example:
        >>> [_margin(rows) for rows in (4, 16, 48)]
        [2, 3, 5]
    """
    return max(2, round(math.sqrt(rows / 2)))


def _others(right: RightAnswers, shots: int) -> dict[str, int]:
    """Return the right answers without the adapter, by what gives them."""
    counts = {
        "the base model": right.base,
        "the base model in its chat template": right.chat,
        f"{shots} examples in the prompt": right.prompt,
        "the most frequent answer for all rows": right.most_frequent,
    }
    return {name: count for name, count in counts.items() if count is not None}
