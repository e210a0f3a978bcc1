"""Blocks of HTML that several views share. All text is escaped here."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Literal


def note(kind: Literal["info", "warning", "error"], title: str, lines: Iterable[str] = ()) -> str:
    """Return a box with a title and paragraphs."""
    role = "alert" if kind == "error" else "note"
    body = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return (
        f'<div class="lm-note lm-{kind}" role="{role}"><strong>{escape(title)}</strong>{body}</div>'
    )


def select(name: str, label: str, choices: Mapping[str, str], chosen: str) -> str:
    """Return a native list to choose from.

    Args:
        name: of the field.
        label: for screen readers; empty if a visible label is around it.
        choices: label by value.
        chosen: value that is selected.
    """
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(text)}</option>"
        for value, text in choices.items()
    )
    named = f' aria-label="{escape(label)}"' if label else ""
    return f'<select name="{escape(name)}"{named}>{options}</select>'


def progress_html(text: str, done: int = 0, total: int = 0) -> str:
    """Return a progress bar, a moving one if the total is 0."""
    percent = 100 * done / total if total else 0
    value = f'aria-valuenow="{percent:.0f}" ' if total else ""
    moving = "" if total else " lm-moving"
    count = f" {done} of {total}" if total else ""
    return (
        f'<div class="lm-progress" data-progress="{escape(text)}">'
        f"<p>{escape(text)}<span>{count}</span></p>"
        f'<div role="progressbar" aria-label="{escape(text)}" {value}aria-valuemin="0" '
        f'aria-valuemax="100" class="lm-track{moving}"><i style="width:{percent:.0f}%"></i></div>'
        "</div>"
    )


def code_html(code: str) -> str:
    """Return a block of code."""
    return f'<pre class="lm-code"><code>{escape(code)}</code></pre>'
