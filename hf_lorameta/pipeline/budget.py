"""The time to train in: as it is given, by default, and what to try if it was too short."""

import math
import re

from hf_lorameta.errors import Option, UsageError

DEFAULT_BUDGET = 120.0
"""Seconds to train by default."""
SHARE_FOR_CHECK = 0.18
"""Share of the time after loading the base model that is kept for counting, at most."""
_STEPS_PER_ROW, _STEPS_PER_TEXT = 0.4, 1.2
"""Time for a row's answers with all methods, as a number of training steps; texts are generated."""
_MOST_SECONDS = 7 * 24 * 3600
"""A week: no training takes as long, so a longer time is a mistake."""
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def budget_seconds(budget: float | str | None) -> float | None:
    """Convert a budget such as 90, 60s, 2m, 2min or 1h to seconds; None stays None.

    Raises:
        UsageError: not a time of zero or more, or more than a week.

    Example:
        >>> budget_seconds("60s"), budget_seconds("1.5 min"), budget_seconds("1h")
        (60.0, 90.0, 3600.0)
    """
    if budget is None:
        return None
    text = f"{budget:.9f}" if isinstance(budget, float) else str(budget).strip().lower()
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text)
    if not match or match[2] not in _UNITS:
        not_a_time = f"a budget of {budget!r} is not a time, expected one such as 60s, 2m or 0"
        raise UsageError(not_a_time, code="budget.not-a-time", hint=Option("budget", "2m"))
    seconds = budget if isinstance(budget, float) else float(match[1]) * _UNITS[match[2]]
    if seconds > _MOST_SECONDS:
        too_long = f"a budget of {budget!r} is more than a week, the most that is allowed"
        raise UsageError(too_long, code="budget.too-long", hint=Option("budget", change="lower"))
    return seconds


def time_to_check(rows: int, texts: bool, step_seconds: float, seconds: float) -> float:
    """Return the seconds that are kept for counting right answers.

    Args:
        rows: to count them on.
        texts: whether all answers are generated, to judge how good they are.
        step_seconds: that a training step takes.
        seconds: for the training and the check together; infinite if not limited.

    Example:
        >>> time_to_check(16, False, 2.0, 100), time_to_check(48, True, 10.0, 100)
        (12.8, 18.0)
    """
    return min(rows * seconds_per_row(texts, step_seconds), SHARE_FOR_CHECK * seconds)


def seconds_per_row(texts: bool, step_seconds: float) -> float:
    """Return the seconds in which a row is answered with all methods; see `time_to_check`."""
    return step_seconds * (_STEPS_PER_TEXT if texts else _STEPS_PER_ROW)


def more_time(budget: float | None) -> Option:
    """Return a longer time to train; None stands for an unknown one.

    Example:
        >>> [more_time(budget).value for budget in (2.0, 120.0, 600.0, None)]
        ['2m', '10m', '20m', '10m']
    """
    if budget and budget < DEFAULT_BUDGET:
        return Option("budget", "2m")
    return Option("budget", f"{max(10, math.ceil(2 * (budget or 0) / 60))}m")
