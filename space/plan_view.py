"""A plan as HTML: figures, warnings, bars, sample rows. Every name and text is escaped here."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from hf_lorameta import COEFFICIENT_RULES, COMBINERS, METRICS, Bank, Plan

BARS = 10
SAMPLE_CHARACTERS = 280
FAR = 1.5
HUB = "https://huggingface.co"


def plan_html(plan: Plan) -> str:
    """Warnings, figures and bars of a plan."""
    return "".join((_warnings(plan), _figures(plan), _bars(plan), _method(plan)))


# --- figures ------------------------------------------------------------------------------------


def _figures(plan: Plan) -> str:
    nearest, usual = float(plan.distances.min()), plan.nearest_in_bank
    used = len(plan.active_indices)
    tiles = [
        ("Nearness", *_nearness(nearest, usual)),
        (
            "Adapters at work",
            f"{plan.effective_number:.1f}",
            f"effective number, of {used} with any weight",
        ),
        ("Licenses", *_licenses(plan)),
        (
            "Read from your data",
            f"{plan.profile.rows:,} rows",
            f"{plan.profile.input.total + plan.profile.output.total:,} tokens",
        ),
    ]
    cells = "".join(
        f'<div class="lm-tile"><dt>{name}</dt><dd><b>{value}</b><span>{note}</span></dd></div>'
        for name, value, note in tiles
    )
    return f'<dl class="lm-tiles">{cells}</dl>'


def _nearness(nearest: float, usual: float) -> tuple[str, str]:
    if not (math.isfinite(usual) and usual > 0):
        return _number(nearest), "to the nearest; the bank is too small to compare"
    times = nearest / usual
    word = "near" if times <= 1 else "loosely related" if times <= FAR else "far"
    return word, f"{times:.1f}× the usual gap inside the bank"


def _licenses(plan: Plan) -> tuple[str, str]:
    """Of the base model and of every adapter with weight; none stated is said, never guessed."""
    counted = Counter(n.license or "not stated" for n in plan.neighbors())
    base = plan.bank.index.base_license or "not stated"
    names = [name for name, _ in counted.most_common()]
    shown = escape(names[0]) if len(names) == 1 else f"{len(names)} kinds"
    listed = ", ".join(f"{escape(name)} ({count})" for name, count in counted.most_common(4))
    note = f"base model: {escape(base)}"
    return shown, note if len(names) == 1 else f"{listed}; {note}"


def _warnings(plan: Plan) -> str:
    if not plan.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in plan.warnings)
    return (
        '<div class="lm-note lm-warning" role="note" aria-label="Warnings">'
        f"<strong>Before you rely on it</strong><ul>{items}</ul></div>"
    )


# --- bars ---------------------------------------------------------------------------------------


def _bars(plan: Plan) -> str:
    shown = plan.neighbors()
    largest = max(abs(n.coefficient) for n in shown) or 1.0
    linked = plan.bank.index.published
    rows = [_bar(n, largest, linked) for n in shown]
    head = (
        '<div role="row" class="lm-bar lm-head"><span role="columnheader">Bank dataset</span>'
        '<span role="columnheader">Share of your adapter</span>'
        '<span role="columnheader" class="lm-distance">Distance</span></div>'
    )
    rest = ""
    if len(rows) > BARS:
        share = sum(n.coefficient for n in shown[BARS:])
        rest = (
            f"<details><summary>{len(rows) - BARS} more, together {100 * share:.0f} %</summary>"
            f'<div role="table" aria-label="Bank datasets with smaller shares">'
            f"{''.join(rows[BARS:])}</div></details>"
        )
    return (
        '<h3 class="lm-h3">What your adapter would be made of</h3>'
        f'<div role="table" aria-label="Coefficients of the bank datasets" class="lm-bars">'
        f"{head}{''.join(rows[:BARS])}</div>{rest}"
    )


def _bar(neighbor: object, largest: float, linked: bool) -> str:
    n = neighbor
    width = 100 * abs(n.coefficient) / largest
    kind = ' class="lm-against"' if n.coefficient < 0 else ""
    return (
        f'<div role="row" class="lm-bar"><span role="cell" class="lm-name" '
        f'title="{escape(n.dataset)}">{_name(n.dataset, linked)}</span>'
        f'<span role="cell" class="lm-share"><i{kind} style="width:{width:.1f}%"></i>'
        f"<b>{100 * n.coefficient:.1f} %</b></span>"
        f'<span role="cell" class="lm-distance">{_number(n.distance)}</span></div>'
    )


def _name(repo: str, linked: bool) -> str:
    """A repo's name that can break at its underscores, linked if it can be found on the Hub."""
    name = repo.rpartition("/")[2]
    text = escape(name).replace("_", "_<wbr>").replace("-", "-<wbr>")
    if not linked:
        return text
    return f'<a href="{HUB}/datasets/{escape(repo)}" target="_blank" rel="noopener">{text}</a>'


def _method(plan: Plan) -> str:
    recipe = plan.recipe
    rule, combiner = COEFFICIENT_RULES[recipe.coefficients], COMBINERS[recipe.combine]
    parts = [METRICS[recipe.metric].title, rule.title, combiner.title]
    if recipe.top_k:
        parts.append(f"the {recipe.top_k} largest kept")
    if recipe.temperature != 1:
        parts.append(f"temperature {recipe.temperature:g}")
    return f'<p class="lm-soft">Computed with: {escape(" · ".join(parts))}.</p>'


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


# --- the dataset --------------------------------------------------------------------------------


def samples_html(name: str, split: str, columns: str, rows: Sequence[tuple[str, str]]) -> str:
    """The first rows as they are read, for the visitor's own eyes."""
    items = "".join(
        f"<li><div>{_clip(given)}</div><div><span>→</span> {_clip(wanted)}</div></li>"
        for given, wanted in rows
    )
    return (
        f'<p class="lm-soft">Reading <b>{escape(columns)}</b> of <b>{escape(name)}</b>, split '
        f"<b>{escape(split)}</b>. The first {len(rows)} rows, shown only to you:</p>"
        f'<ul class="lm-rows">{items}</ul>'
    )


def _clip(text: str) -> str:
    """The end of a long text: prompts repeat at their start and differ at their end."""
    flat = " ".join(text.split())
    if not flat:
        return "<em>(empty)</em>"
    return escape(flat if len(flat) <= SAMPLE_CHARACTERS else f"…{flat[-SAMPLE_CHARACTERS:]}")


# --- messages -----------------------------------------------------------------------------------


def holdings(bank: Bank) -> str:
    """What a bank holds, and if it is a pack, how much of it."""
    packing = bank.index.packing
    kept = f", packed: {packing.retained_whole:.1%} of their updates kept" if packing else ""
    return f"{len(bank)} adapters for <b>{escape(bank.index.base_model)}</b>{kept}"


def note(kind: str, title: str, lines: Iterable[str] = ()) -> str:
    """A box with a title and sentences; kind is info, warning, error or good."""
    role = "alert" if kind == "error" else "note"
    body = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return (
        f'<div class="lm-note lm-{kind}" role="{role}"><strong>{escape(title)}</strong>{body}</div>'
    )


def progress_html(text: str, done: int = 0, total: int = 0) -> str:
    """What is being done, with a bar where the end is known."""
    share = 100 * done / total if total else 0
    attributes = f'aria-valuenow="{share:.0f}" ' if total else ""
    moving = "" if total else " lm-moving"
    count = f" {done} of {total}" if total else ""
    return (
        f'<div class="lm-progress"><p>{escape(text)}<span>{count}</span></p>'
        f'<div role="progressbar" aria-label="{escape(text)}" {attributes}aria-valuemin="0" '
        f'aria-valuemax="100" class="lm-track{moving}"><i style="width:{share:.0f}%"></i></div>'
        "</div>"
    )
