"""Error messages for visitors: what happened and what to do about it."""

import logging

from bank_loader import UnusableBankError
from generating import SignInError
from hf_lorameta import (
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
    RecipeError,
    ScriptDatasetError,
    UnlabeledDatasetError,
)
from html_blocks import note
from jobs import TimeLimitError

logger = logging.getLogger("space")

_ADVICE: dict[type[LoraMetaError], str] = {
    AuthError: "Sign in again: the sign-in has expired, or the account may not write there.",
    NotFoundError: "Check the spelling. To read private datasets, the owner of this Space has to "
    "add the scope read-repos and you have to sign in; otherwise upload the file.",
    GatedError: "Request access on the dataset's page. To read gated datasets, the owner of this "
    "Space has to add the scope gated-repos; otherwise download the file and upload it here.",
    ColumnsError: "Select the input and output columns below.",
    UnlabeledDatasetError: "Select the output column below. If the dataset has no outputs, select "
    "only the input column: the comparison then uses inputs alone and is less reliable.",
    DatasetTooLargeError: "Use shorter texts or a part of the dataset, or run hf-lorameta on your "
    "own machine, where the limits can be raised.",
    EmptyDatasetError: "Choose another configuration or split, or another dataset.",
    ScriptDatasetError: "Choose a dataset that consists of data files, or upload a file.",
    ConflictError: "Type another repo name in the options, or tick “Replace the files”.",
    ConnectionLostError: "The Hub did not respond. Try again in a moment.",
    BankError: "Choose another coefficient rule in the options.",
    UnusableBankError: "The owner of this Space can fix this in its variables.",
    IntegrityError: "The bank is damaged. Please tell the owner of this Space.",
    RecipeError: "Change it in the options.",
    SignInError: "Use the button at the top. This Space asks only for permission to create repos "
    "and to write to the repos it created.",
    TimeLimitError: "Use a smaller dataset or file, or run hf-lorameta on your own machine.",
    DatasetError: "Check the file or the repo on the Hub, or choose another configuration.",
}
_DEFAULT_ADVICE = "Try again. If the error persists, please tell the owner of this Space."


def advice(error: LoraMetaError) -> list[str]:
    """Return what a visitor can do; the errors' own hints are for the command line."""
    for kind in type(error).__mro__:
        if kind in _ADVICE:
            return [_ADVICE[kind]]
    return [_DEFAULT_ADVICE] if type(error) is LoraMetaError else []


def error_html(error: LoraMetaError) -> str:
    """Return a box with the error and the advice."""
    message = str(error)
    starts_with_name = "/" in message.split(" ", 1)[0]
    title = message if starts_with_name else message[:1].upper() + message[1:]
    return note("error", title, advice(error))


def unexpected_error(error: Exception) -> LoraMetaError:
    """Log the type of an unexpected exception and return an error to show.

    The exception's message is neither logged nor shown, since it may quote a row.
    """
    logger.error("unexpected %s", type(error).__name__)
    return LoraMetaError(f"An unexpected error occurred ({type(error).__name__})")
