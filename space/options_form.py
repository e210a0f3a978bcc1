"""The form of the recipe's options, which is sent whenever a value changes."""

from collections.abc import Mapping
from html import escape
from typing import Any

from hf_lorameta import Recipe
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.metrics import METRICS
from html_blocks import select


def options_form(has_neural: bool) -> str:
    """Return the form with the default values.

    Args:
        has_neural: whether the bank has the rule that needs a trained network.
    """
    default = Recipe()
    rules = {k: rule for k, rule in COEFFICIENT_RULES.items() if has_neural or k != "neural"}
    fields = (
        _method("metric", "How datasets are compared", METRICS, default.metric),
        _method("coefficients", "How similarity becomes weight", rules, default.coefficients),
        _method("combine", "How adapters are added", COMBINERS, default.combine),
        _number("top_k", "Use only the k most similar (empty: all)", ""),
        _number("temperature", "Temperature (below 1: fewer adapters)", f"{default.temperature:g}"),
        _number("rank", "Rank of the adapter (empty: the usual)", ""),
    )
    return f'<form data-live aria-label="Options" class="lm-options">{"".join(fields)}</form>'


def _method(name: str, label: str, table: Mapping[str, Any], chosen: str) -> str:
    choices = {key: row.title[:1].upper() + row.title[1:] for key, row in table.items()}
    return f"<label>{escape(label)} {select(name, '', choices, chosen)}</label>"


def _number(name: str, label: str, value: str) -> str:
    return (
        f'<label>{escape(label)} <input name="{name}" value="{value}" inputmode="decimal" '
        'aria-describedby="lm-option-error"></label>'
    )
