"""The field of step 1: a dataset's name, a link to it, or a file; never rendered again.

HTML, since Gradio's Dropdown loses a name that is typed and left at once, asks the server at every
blur, and fails when its choices shrink while it is open. The list of matches always has the same
items, of which those without a match are hidden.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from html import escape

import gradio as gr

from forms.inputs import credential_of
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.client import Hub
from settings import Settings
from work.dataset_request import FILE_TYPES

MATCHES = 8
_SEARCH_SECONDS = 600
"""How long the answer to signed-out visitors is kept."""
EXAMPLES = {
    "Guest book notes": "example",
    "openai/gsm8k": "openai/gsm8k",
    "tatsu-lab/alpaca": "tatsu-lab/alpaca",
}
"""Label and dataset of the examples; ``example`` is the dataset in the package."""


def data_form(max_upload_mb: int) -> str:
    """Return the form."""
    matches = "".join(
        f'<li role="option" id="lm-match-{i}" aria-selected="false" hidden></li>'
        for i in range(MATCHES)
    )
    examples = "".join(
        f'<button type="button" class="lm-chip" data-dataset="{escape(dataset)}">{escape(label)}'
        "</button>"
        for label, dataset in EXAMPLES.items()
    )
    types = ", ".join(FILE_TYPES)
    return (
        f'<form class="lm-data" data-mb="{max_upload_mb}" autocomplete="off">'
        '<label for="lm-dataset">Name or link of a dataset on the Hugging Face Hub</label>'
        '<div class="lm-field"><div class="lm-combobox">'
        '<input id="lm-dataset" role="combobox" aria-autocomplete="list" aria-expanded="false" '
        'aria-controls="lm-matches" placeholder="user/name" spellcheck="false" '
        'autocapitalize="off">'
        '<ul id="lm-matches" role="listbox" aria-label="Matching datasets" hidden>'
        f"{matches}</ul></div>"
        '<button type="submit" class="lm-button lm-primary">Read</button></div>'
        '<p class="lm-or"><label class="lm-button" for="lm-file">Choose a file</label>'
        f'<input id="lm-file" type="file" class="lm-hidden" accept="{",".join(FILE_TYPES)}"> '
        f"or drop one here: {types}, up to {max_upload_mb} MB. "
        '<span id="lm-upload" role="status"></span></p>'
        f'<p class="lm-examples"><span>Examples:</span> {examples}</p></form>'
    )


def dataset_search(settings: Settings) -> Callable[..., list[str]]:
    """Return the function that the page calls while a visitor types."""

    def search(text: str, token: gr.OAuthToken | None) -> list[str]:
        """Return ids of datasets whose names match; none if the Hub does not answer."""
        text, credential = str(text)[:100], credential_of(token, settings)
        try:
            if credential is False:
                return _search_public(text, int(time.time() // _SEARCH_SECONDS))
            return Hub(credential).search_datasets(text)
        except LoraMetaError:
            return []  # a name can be typed without suggestions

    return search


@lru_cache(maxsize=256)
def _search_public(text: str, period: int) -> list[str]:
    return Hub(False).search_datasets(text)
