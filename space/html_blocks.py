"""Blocks of HTML that several views share. All text is escaped here."""

from collections.abc import Iterable
from html import escape
from typing import Literal


def note(kind: Literal["info", "warning", "error"], title: str, lines: Iterable[str] = ()) -> str:
    """Return a box with a title and paragraphs."""
    role = "alert" if kind == "error" else "note"
    body = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return (
        f'<div class="lm-note lm-{kind}" role="{role}"><strong>{escape(title)}</strong>{body}</div>'
    )


def progress_html(text: str, done: int = 0, total: int = 0) -> str:
    """Return a progress bar, a moving one if the total is 0."""
    percent = 100 * done / total if total else 0
    value = f'aria-valuenow="{percent:.0f}" ' if total else ""
    moving = "" if total else " lm-moving"
    count = f" {done} of {total}" if total else ""
    return (
        f'<div class="lm-progress"><p>{escape(text)}<span>{count}</span></p>'
        f'<div role="progressbar" aria-label="{escape(text)}" {value}aria-valuemin="0" '
        f'aria-valuemax="100" class="lm-track{moving}"><i style="width:{percent:.0f}%"></i></div>'
        "</div>"
    )
