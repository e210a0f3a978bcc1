"""Error messages for visitors: what happened and what to do about it."""

import re

from hf_lorameta.errors import (
    AuthError,
    BankError,
    ColumnsError,
    ConflictError,
    ConnectionLostError,
    DatasetError,
    DatasetTooLargeError,
    EmptyDatasetError,
    GatedError,
    IntegrityError,
    LoraMetaError,
    NotFoundError,
    Option,
    RecipeError,
    ScriptDatasetError,
    UnlabeledDatasetError,
)
from views.blocks import note
from work.bank_loader import UnusableBankError
from work.dataset_request import TemplateError
from work.generating import SignInError
from work.jobs import TimeLimitError

_ADVICE: dict[type[LoraMetaError], str] = {
    AuthError: "Sign in again: the sign-in has expired, or the account may not write there.",
    NotFoundError: "Check the spelling. A private dataset can be read only if you sign in and the "
    "owner of this page allows it (its README says how); otherwise upload the file.",
    GatedError: "Request access on the dataset's page. It can be read here only if the owner of "
    "this page allows it (its README says how); otherwise download the file and upload it here.",
    ColumnsError: "Choose the input and output columns below, then press “Read again”.",
    UnlabeledDatasetError: "Choose the output column below, then press “Read again”. If there is "
    "none, choose only the input column: the comparison then uses inputs alone and is less "
    "reliable.",
    DatasetTooLargeError: "Use shorter texts or a part of the dataset, or run hf-lorameta on your "
    "own machine, where the limits can be raised.",
    EmptyDatasetError: "Choose another configuration or split, or another dataset.",
    ScriptDatasetError: "Choose a dataset that consists of data files, or upload a file.",
    ConflictError: "Type another name, or tick “Replace what is there”.",
    ConnectionLostError: "The Hub did not respond. Try again in a moment.",
    BankError: "Choose another rule in the options.",
    UnusableBankError: "The owner of this Space can fix this in its variables.",
    IntegrityError: "The bank is damaged. Please tell the owner of this Space.",
    RecipeError: "Change it in the options.",
    TemplateError: "Write {input} where the text of a row belongs, and {instruction} where its "
    "instruction belongs, if it has one.",
    SignInError: "Use the button at the top. This Space asks only for permission to create repos "
    "and to write to the repos it created.",
    TimeLimitError: "Use a smaller dataset or file, or run hf-lorameta on your own machine.",
    DatasetError: "Check the file or the repo on the Hub, or choose another configuration.",
}
_PLACES = {
    "config": "Choose another configuration above the table.",
    "split": "Choose another split above the table.",
    "instruction": "Write the instruction into its field below the table.",
    "template": "Write the form of the prompt into the last field below the table: {input} and "
    "{instruction} where they belong, or the word chat.",
}
"""Where the page has an option that an error advises to change, unless its class says so."""
_DEFAULT_ADVICE = "Try again. If the error persists, please tell the owner of this Space."


def advice(error: LoraMetaError) -> list[str]:
    """Return what a visitor can do; words among the errors' own advice are for a terminal."""
    options = (part.name for part in error.advice if isinstance(part, Option))
    if places := [_PLACES[name] for name in options if name in _PLACES]:
        return places
    for kind in type(error).__mro__:
        if kind in _ADVICE:
            return [_ADVICE[kind]]
    return [_DEFAULT_ADVICE] if type(error) is LoraMetaError else []


def message_of(error: LoraMetaError) -> str:
    """Return the error's message, with a capital letter unless it starts with a name or a path."""
    message = plain(str(error))
    first = message.partition(" ")[0]
    named = "/" in first or "." in first.rstrip(".")
    return message if named else message[:1].upper() + message[1:]


def error_html(error: LoraMetaError) -> str:
    """Return a box with the error and the advice."""
    return note("error", message_of(error), advice(error))


_EXCEPTION = re.compile(r" \((?:\w+\.)*\w*(?:Error|Exception|Timeout|Warning)\)")


def plain(text: str) -> str:
    """To be deleted: messages name no options any more."""
    text = _EXCEPTION.sub("", text)
    return text.replace("--instruction goes", "One instruction for all rows goes")
