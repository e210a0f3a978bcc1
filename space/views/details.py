"""The details of a plan as HTML: figures and bars. All names and texts are escaped here."""

import math
from collections import Counter
from html import escape

from hf_lorameta.bank.geometry import FAR_RATIO
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.metrics import METRICS
from hf_lorameta.pipeline.plan import Plan
from views.names import Named, readable_name

BARS = 10
HUB = "https://huggingface.co"


def details_html(plan: Plan) -> str:
    """Return the figures and bars of a plan."""
    return "".join((_figures(plan), _bars(plan), _method(plan)))


# --- figures ------------------------------------------------------------------------------------


def _figures(plan: Plan) -> str:
    tokens = plan.profile.input.total + plan.profile.output.total
    tiles = [
        ("Similarity", *_nearness(float(plan.distances.min()), plan.nearest_in_bank)),
        (
            "Adapters used",
            f"{len(plan.neighbors())}",
            f"weighted as if {plan.effective_number:.0f} had equal shares",
        ),
        ("Licenses", *_licenses(plan)),
        ("Read from your data", plan.profile.rows_read, f"{tokens:,} tokens"),
    ]
    cells = "".join(
        f'<div class="lm-tile"><dt>{name}</dt><dd><b>{value}</b><span>{note}</span></dd></div>'
        for name, value, note in tiles
    )
    return f'<dl class="lm-tiles">{cells}</dl>'


def _nearness(nearest: float, median_in_bank: float) -> tuple[str, str]:
    if not (math.isfinite(median_in_bank) and median_in_bank > 0):
        return _number(nearest), "distance to the nearest one"
    ratio = nearest / median_in_bank
    word = "similar" if ratio <= 1 else "loosely related" if ratio <= FAR_RATIO else "far"
    return word, f"nearest at {ratio:.1f}× the usual distance inside the bank"


def _licenses(plan: Plan) -> tuple[str, str]:
    """Return the licenses of the adapters used, and of the base model."""
    counts = Counter(n.license or "not stated" for n in plan.neighbors()).most_common()
    base = f"base model: {escape(plan.bank.index.base_license or 'not stated')}"
    if len(counts) == 1:
        return escape(counts[0][0]), base
    listed = ", ".join(f"{escape(name)} ({count})" for name, count in counts[:4])
    return f"{len(counts)} kinds", f"{listed}; {base}"


# --- bars ---------------------------------------------------------------------------------------


def _bars(plan: Plan) -> str:
    neighbors = plan.neighbors()
    largest = max(abs(n.coefficient) for n in neighbors) or 1.0
    linked = plan.bank.index.published
    rows = [_bar(n, n.coefficient, n.distance, largest, linked) for n in neighbors]
    head = (
        '<div role="row" class="lm-bar lm-head"><span role="columnheader">Bank dataset</span>'
        '<span role="columnheader">Share of your adapter</span>'
        '<span role="columnheader" class="lm-distance">Distance</span></div>'
    )
    rest = ""
    if len(rows) > BARS:
        share = f"{100 * sum(n.coefficient for n in neighbors[BARS:]):.0f}".replace("-", "−")
        rest = (
            f"<details><summary>{len(rows) - BARS} more, together {share} %</summary>"
            f'<div role="table" aria-label="Bank datasets with smaller shares">'
            f"{''.join(rows[BARS:])}</div></details>"
        )
    return (
        '<h3 class="lm-h3">Adapters to combine, by their training dataset</h3>'
        f'<div role="table" aria-label="Coefficients of the bank datasets" class="lm-bars">'
        f"{head}{''.join(rows[:BARS])}</div>{rest}"
    )


def _bar(entry: Named, coefficient: float, distance: float, largest: float, linked: bool) -> str:
    width = 100 * abs(coefficient) / largest
    negative = ' class="lm-negative"' if coefficient < 0 else ""
    return (
        f'<div role="row" class="lm-bar"><span role="cell" class="lm-name" '
        f'title="{escape(entry.dataset)}">{_name(entry, linked)}</span>'
        f'<span role="cell" class="lm-share"><i{negative} style="width:{width:.1f}%"></i>'
        f"<b>{100 * coefficient:.1f} %</b></span>"
        f'<span role="cell" class="lm-distance">{_number(distance)}</span></div>'
    )


def _name(entry: Named, linked: bool) -> str:
    """Return a dataset's readable name, linked if the bank is on the Hub."""
    text = escape(readable_name(entry))
    if not linked:
        return text
    url = f"{HUB}/datasets/{escape(entry.dataset)}"
    return f'<a href="{url}" target="_blank" rel="noopener">{text}</a>'


def _method(plan: Plan) -> str:
    recipe = plan.recipe
    rule, combiner = COEFFICIENT_RULES[recipe.coefficients], COMBINERS[recipe.combine]
    parts = [METRICS[recipe.metric].title, rule.title, combiner.title]
    if recipe.top_k:
        parts.append(f"top {recipe.top_k}")
    if recipe.temperature != 1:
        parts.append(f"temperature {recipe.temperature:g}")
    text = f"Computed with: {' · '.join(parts)}."
    if plan.general_coefficient is not None:
        text += (
            f" The bank's general adapter takes the rest, {100 * plan.general_coefficient:.0f} %."
        )
    if plan.output_strength is not None:
        text += " An update computed from your outputs' token counts makes these tokens likelier."
    if plan.scale != 1:
        text += f" Your outputs are long, so all of this is scaled by {plan.scale:.2f}."
    return f'<p class="lm-soft">{escape(text)}</p>'


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
