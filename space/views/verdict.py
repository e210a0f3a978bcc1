"""Step 2: whether an adapter will help, and which data is similar. All names are escaped here."""

import math
from html import escape
from typing import Literal, NamedTuple

from hf_lorameta.bank.geometry import FAR_RATIO
from hf_lorameta.pipeline.plan import Plan
from views.names import readable_name

WORTHWHILE = 0.25
"""Gain that counts as help: a quarter of the base model's error."""
NEIGHBORS = 5
LARGE_SHARE = 0.1


class Verdict(NamedTuple):
    """What to expect from an adapter.

    Attributes:
        level: how sure an improvement is.
        title: the verdict in a few words.
        reason: one sentence.
    """

    level: Literal["likely", "unsure", "unlikely"]
    title: str
    reason: str


def verdict(plan: Plan) -> Verdict:
    """Return the verdict: from measured gains of similar datasets if the bank has them."""
    expected = plan.expected
    if expected:
        mean, spread = 100 * expected.mean, 100 * expected.spread
        reason = (
            f"On similar datasets, adapters removed {mean:.0f} % (± {spread:.0f}) of the base "
            f"model's error{_beside_prompt(expected.prompted)}."
        )
        if mean <= 0:
            return Verdict("unlikely", "Probably will not help: test before using", reason)
        if expected.mean - expected.spread < WORTHWHILE:
            return Verdict("unsure", "Unsure: test before using", reason)
        return Verdict("likely", "Likely to help", reason)
    if not plan.nearest_in_bank > 0:  # also if it is not known
        return Verdict("unsure", "Unsure: test before using", "The bank is too small to compare.")
    ratio = float(plan.distances.min()) / plan.nearest_in_bank
    if ratio > FAR_RATIO:
        reason = "No dataset in the bank is similar to yours."
        return Verdict("unlikely", "Probably will not help: test before using", reason)
    if ratio > 1:
        reason = "The most similar dataset in the bank is only loosely related to yours."
        return Verdict("unsure", "Unsure: test before using", reason)
    reason = "The bank has similar data. How much that helps was not measured: test it below."
    return Verdict("likely", "Likely to help", reason)


def _beside_prompt(prompted: float | None) -> str:
    if prompted is None:
        return ""
    return f"; a prompt with three examples removed {100 * prompted:.0f} %"


def verdict_html(plan: Plan, name: str) -> str:
    """Return the verdict, its bar, the similar datasets and the licenses."""
    found = verdict(plan)
    return (
        f'<div data-announce="{escape(f"{name}: {found.title}. {found.reason}")}" '
        f'class="lm-verdict lm-{found.level}"><p><b>{escape(found.title)}.</b> '
        f"{escape(found.reason)}</p>{_bar(plan)}</div>"
        f"{_mostly(plan)}{_line(plan)}{_cautions(plan)}"
    )


def _bar(plan: Plan) -> str:
    """Draw the expected gain and its spread from 0 to 100 %."""
    expected = plan.expected
    if not expected:
        return ""
    low, middle, high = (
        min(max(100 * value, 0), 100)
        for value in (
            expected.mean - expected.spread,
            expected.mean,
            expected.mean + expected.spread,
        )
    )
    label = f"Expected: {middle:.0f} %, from {low:.0f} to {high:.0f} %"
    return (
        f'<div class="lm-gain" role="img" aria-label="{label}">'
        f'<i style="left:{low:.0f}%;width:{high - low:.0f}%"></i><b style="left:{middle:.0f}%"></b>'
        '</div><p class="lm-ends"><span>no better</span><span>no error left</span></p>'
    )


def _mostly(plan: Plan) -> str:
    """Name the datasets with the largest shares, and the licenses."""
    neighbors = plan.neighbors()
    large = [n for n in neighbors if n.coefficient >= LARGE_SHARE] or list(neighbors[:2])
    names = ", ".join(f"<em>{escape(readable_name(n))}</em>" for n in large[:3])
    licenses = sorted({n.license or "not stated" for n in large[:3]})
    rows = f"{'the ' if plan.profile.ended_early else ''}{plan.profile.rows_read}"
    return (
        f"<p>Made from {len(neighbors)} adapters, mostly {names}, for {rows} of your data.</p>"
        f'<p class="lm-soft">Licenses of these: {escape(", ".join(licenses))}. Base model: '
        f"{escape(plan.bank.index.base_model)}, "
        f"{escape(plan.bank.index.base_license or 'license not stated')}.</p>"
    )


def _line(plan: Plan) -> str:
    """Place the most similar datasets on a line from similar to far."""
    nearest = plan.distances.argsort(kind="stable")[:NEIGHBORS]
    typical = plan.nearest_in_bank
    end = max(float(plan.distances[nearest[-1]]), 0 if math.isnan(typical) else FAR_RATIO * typical)
    rows = "".join(
        _point(readable_name(plan.bank.index.entries[i]), float(plan.distances[i]), end)
        for i in nearest
    )
    return (
        '<h3 class="lm-h3">The most similar data in the bank</h3>'
        '<p class="lm-ends"><span>similar to yours</span><span>far</span></p>'
        f'<ol class="lm-line">{rows}</ol>'
    )


def _point(name: str, distance: float, end: float) -> str:
    place = 100 * min(max(distance / end, 0), 1) if end > 0 else 0
    return (
        f'<li><span>{escape(name)}</span><i aria-hidden="true"><b style="left:{place:.0f}%"></b>'
        "</i></li>"
    )


def _cautions(plan: Plan) -> str:
    if not plan.warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in plan.warnings)
    return (
        '<div class="lm-note lm-warning" role="note" aria-label="Warnings">'
        f"<strong>Before you rely on it</strong><ul>{items}</ul></div>"
    )
