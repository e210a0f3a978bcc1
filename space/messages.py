"""Sentences: what to do about an error, and what is said of a result."""

import json
import re
from html import escape

from hf_lorameta import LoraMetaError
from plan_view import note
from service import AdapterResult

HUB = "https://huggingface.co"

_SCOPES = (
    "Signing in here asks for the right to create repos and to write to those it created, and for "
    "nothing else."
)
_ADVICE = {
    "AuthError": "Sign in again: the sign-in has run out, or the account may not write there.",
    "NotFoundError": "Check the spelling. A private dataset can be read only if the owner of this "
    "Space adds the scope read-repos and you sign in; without it, upload the file instead.",
    "GatedError": "Ask for access on its page. Reading gated datasets needs the scope gated-repos, "
    "which this Space does not ask for by itself; you can download the file and upload it here.",
    "ColumnsError": "Choose the columns below: what goes in, and what should come out.",
    "UnlabeledDatasetError": "Say below which column holds the answers. If there are none, choose "
    "the input column alone: inputs can be compared without outputs, less reliably.",
    "EmptyDatasetError": "Choose another configuration or split, or another dataset.",
    "ScriptDatasetError": "Name a dataset with data files, or upload one.",
    "ConflictError": "Type another repo name in the options, or tick “Replace the files”.",
    "ConnectionLostError": "The Hub did not answer. Try again in a moment.",
    "BankError": "Choose another rule in the options.",
    "UnusableBankError": "Only the owner of this Space can mend that: see its variables.",
    "IntegrityError": "The bank is damaged. Tell the owner of this Space.",
    "RecipeError": "Change it in the options.",
    "SignInError": "The button at the top signs you in. " + _SCOPES,
    "TimeLimitError": "Take a smaller dataset or file, or run hf-lorameta on your own machine.",
    "DatasetError": "Check the file or the repo on the Hub, or choose another configuration.",
    "LoraMetaError": "Try again; if it stays so, tell the owner of this Space.",
}


def advice(error: LoraMetaError) -> list[str]:
    """What a visitor can do: the errors' own hints speak to a command line."""
    for kind in type(error).__mro__:
        if kind.__name__ in _ADVICE and (kind is not LoraMetaError or type(error) is kind):
            return [_ADVICE[kind.__name__]]
    return []


def error_html(error: LoraMetaError) -> str:
    """An error as a box: what happened, and what to do."""
    told = str(error)
    first = told.split(" ", 1)[0]
    title = told if "/" in first else told[:1].upper() + told[1:]
    return note("error", title, advice(error))


def result_html(made: AdapterResult, base_model: str) -> str:
    """The head of a result."""
    if made.url is None:
        title, where = "Your adapter is ready", "Download it below. Nothing was published."
    else:
        kind = "private" if made.private else "public"
        link = (
            f'<a href="{escape(made.url)}" target="_blank" rel="noopener">'
            f"{escape(made.repo_id or '')}</a>"
        )
        title, where = "Your adapter is on the Hub", f"{link} ({kind})"
    return (
        f'<div class="lm-note lm-good"><h2>{title}</h2><p>{where}</p><p class="lm-soft">A LoRA for '
        f"{escape(base_model)}, combined in {made.seconds:.1f} s on a CPU. No training took place. "
        "It was not evaluated: its card says how to.</p></div>"
    )


def code_lines(made: AdapterResult) -> str:
    """The two lines that load it."""
    name = json.dumps(made.repo_id or f"./{made.archive.stem}")
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({name})"
    )


def card_body(card: str) -> str:
    """The card without its metadata and its picture, one level of heading down."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "##", p, flags=re.M) for p in parts)
