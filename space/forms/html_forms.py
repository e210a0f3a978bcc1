"""The HTML forms: the field for a dataset, and a role for each of its columns."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

import gradio as gr

from hf_lorameta.data.columns.columns import Columns, columns_of, split_path
from hf_lorameta.data.sources.formats import ON_PAGE
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.client import Hub
from settings import credential_of
from views.blocks import render
from views.result import example_html
from work.planning import PageRequest, Source

MATCHES = 8
_SEARCH_SECONDS = 600
"""How long the answer to signed-out visitors is kept."""
EXAMPLES = {
    "Support tickets": "example",
    "openai/gsm8k": "openai/gsm8k",
    "tatsu-lab/alpaca": "tatsu-lab/alpaca",
}
"""Label and dataset of the examples; ``example`` is the dataset in the package."""
ROLES = {
    "": "ignore",
    "input": "input",
    "output": "output",
    "instruction": "instruction",
    "choices": "answer choices",
    "messages": "chat",
}
"""Roles of a column, with their labels; `columns_form.js` lets some belong to one column only."""
SHOWN_COLUMNS = 200
"""Columns of a dataset that its form shows; further ones are shown if they have a role."""


def data_form(max_upload_mb: int) -> str:
    """Return the field of step 1: a dataset's name, a link to it, or a file; never rendered again.

    HTML, since Gradio's Dropdown loses a name that is typed and left at once, asks the server at
    every blur, and fails when its choices shrink while it is open. The list of matches always has
    the same items, of which those without a match are hidden. Below is the result of an example.
    """
    form = render("forms.data", mb=max_upload_mb, types=ON_PAGE, matches=MATCHES, examples=EXAMPLES)
    return form + example_html()


def search(text: str, token: gr.OAuthToken | None) -> list[str]:
    """Return ids of datasets whose names match what a visitor has typed so far.

    None, if the Hub does not answer in time.
    """
    text, credential = str(text)[:100], credential_of(token)
    try:
        if credential is False:
            return _search_public(text, int(time.time() // _SEARCH_SECONDS))
        return Hub(credential).search_datasets(text)
    except LoraMetaError:
        return []


@lru_cache(maxsize=256)
def _search_public(text: str, period: int) -> list[str]:
    return Hub(False).search_datasets(text)


# --- columns ------------------------------------------------------------------------------------


def columns_form(source: Source, number: int, request: PageRequest) -> str:
    """Return the form of a dataset: configuration, split, and a role for each column.

    If there are many columns, it shows the first `SHOWN_COLUMNS` and those that have a role. It is
    folded if the roles are clear.

    Args:
        source: what the dataset offers.
        number: of the dataset, sent back with the form.
        request: its roles are shown, or those that were found, if it has none.
    """
    preview = source.preview
    known = _roles(request.columns or preview.columns, preview.names)
    named = enumerate(preview.names)
    shown = [(i, name) for i, name in named if i < SHOWN_COLUMNS or name in known]
    roles = {name: role for name, (role, _) in known.items()}
    return render(
        "forms.columns", number=number, name=request.name, source=source, shown=shown, roles=roles,
        labels=ROLES, open=request.columns is None,
    )  # fmt: skip


def columns_from_form(
    values: Mapping[str, str], names: Sequence[str], found: Columns | None
) -> Columns:
    """Return the columns that a form gives roles to.

    Args:
        values: of the form.
        names: of the dataset's columns.
        found: columns that were found or proposed; a column that keeps its role keeps its path,
            such as ``answers.text``.

    Raises:
        UsageError: the roles cannot be combined, or there are too many.
    """
    known = _roles(found, names)
    chosen: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        role = values.get(f"role-{i}")
        if role and role in ROLES:
            known_role, path = known.get(name, ("", name))
            chosen.setdefault(role, []).append(path if role == known_role else name)
    return columns_of(chosen)


def _roles(columns: Columns | None, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the role of each column that has one, and its path."""
    own = set(names)
    return {
        found[0]: (role, path)
        for role in ROLES
        if role and columns
        for path in columns.named(role)
        if (found := split_path(path, own))
    }
