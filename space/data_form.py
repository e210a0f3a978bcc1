"""The field of step 1: a dataset's name, a link to it, or a file; never rendered again.

`data_form.js` sends requests that are numbered, so that the last one wins. The list of matches
always has the same items, of which those without a match are hidden.
"""

from html import escape

from dataset_request import FILE_TYPES

MATCHES = 8
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
