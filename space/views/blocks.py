"""HTML from the templates, which escape all texts, and messages of errors."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_lorameta import errors
from hf_lorameta.cards.gguf_usage import BASE_FILE, GGUF_FILE, MODELFILE
from hf_lorameta.errors import LoraMetaError, Option
from hf_lorameta.quoting import fenced, shell
from space_error import SpaceError
from work.jobs import TRY_AGAIN

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


_TEMPLATES.globals |= {"base_file": BASE_FILE, "gguf_file": GGUF_FILE, "modelfile_name": MODELFILE}
_TEMPLATES.filters |= {"fenced": fenced, "shell": lambda words: shell(*words)}


def render(name: str, /, **values: Any) -> str:
    """Return the HTML of ``template.macro``."""
    template, _, macro = name.partition(".")
    module = _TEMPLATES.get_template(f"{template}.html").module
    return str(getattr(module, macro)(**values)).strip()


def note(kind: Literal["info", "warning", "error"], title: str, lines: Iterable[str] = ()) -> str:
    """Return a box with a title and paragraphs."""
    return render("blocks.note", kind=kind, title=title, lines=lines)


def progress_html(text: str, done: int = 0, total: int = 0) -> str:
    """Return a progress bar, a moving one if the total is 0."""
    return render("blocks.progress", text=text, done=done, total=total)


# --- errors -------------------------------------------------------------------------------------

_ADVICE: dict[type[LoraMetaError], str] = {
    errors.AuthError: "Sign in again: the sign-in has expired, or the account may not write there.",
    errors.NotFoundError: "Check the spelling. A private dataset can be read only if you sign in "
    "and the owner of this page allows it (its README says how); otherwise upload the file.",
    errors.GatedError: "Request access on the dataset's page. It can be read here only if the "
    "owner of this page allows it (its README says how); otherwise download the file and upload "
    "it here.",
    errors.DatasetTooLargeError: "Use shorter texts, fewer columns or a part of it, or run "
    "hf-lorameta on your own machine, which may have more memory.",
    errors.EmptyDatasetError: "Choose a dataset, or a file, that has rows with texts.",
    errors.ScriptDatasetError: "Choose a dataset that consists of data files, or upload a file.",
    errors.ConflictError: "Type another name, or tick “Replace what is there”.",
    errors.ConnectionLostError: "Try again in a moment.",
    errors.BankError: "The bank cannot be used. Please tell the owner of this Space.",
    errors.UsageError: "Use another value.",
    errors.DatasetError: "Check the file or the repo on the Hub, or choose another dataset.",
    LoraMetaError: TRY_AGAIN,
}
ABOVE_TABLE = ("config", "split")
"""What a page lets choose above the table of rows, if there are several."""
_PLACES = {
    "config": "Choose another configuration above the table.",
    "split": "Choose another split above the table.",
    "columns": "Choose below which column is the input and which the output, or one of chats. If "
    "none holds outputs, choose only the input: the comparison is then less reliable.",
    "no instruction": "Leave the instruction empty.",
    "instruction": "Open “Prompt” and write an instruction into its field.",
    "repo_id": "Type another name.",
    "template": "Open “Prompt” and write the form into its field: {input} and {instruction} where "
    "they belong, or the word chat.",
}
"""Where the page has an option that an error advises to change, or to leave out."""


def place_of(option: Option | None) -> str:
    """Return how the page changes, or leaves out, an option; empty if it does not have it."""
    if option is None:
        return ""
    return _PLACES.get(f"{'no ' if option.change == 'leave out' else ''}{option.name}", "")


def advice(error: LoraMetaError, shown: Collection[str] = ()) -> list[str]:
    """Return what a visitor can do; words among a library error's advice are for a terminal.

    Args:
        error: what went wrong.
        shown: `ABOVE_TABLE` that the page offers to choose.
    """
    if isinstance(error, SpaceError):
        return [error.hint] * bool(error.hint)
    options = [part for part in error.advice if isinstance(part, Option)]
    options = [part for part in options if part.name not in ABOVE_TABLE or part.name in shown]
    if places := [place for place in map(place_of, options) if place]:
        return places
    return [next(_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE)]


def message_of(error: LoraMetaError) -> str:
    """Return the error's message, with a capital letter unless it starts with a name or a path."""
    if isinstance(error, errors.ConnectionLostError):
        return "The Hub did not respond"
    message = str(error).strip() or "Something unexpected went wrong"
    first = message.partition(" ")[0]
    named = "/" in first or "." in first.rstrip(".")
    return message if named else message[:1].upper() + message[1:]


def error_html(error: LoraMetaError, shown: Collection[str] = ()) -> str:
    """Return a box with the error and the advice; arguments are those of `advice`."""
    return note("error", message_of(error), advice(error, shown))
