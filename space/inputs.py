"""Convert the inputs of the page and of the endpoints to a credential, columns and a recipe."""

from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from dataset_request import Credential, RequestError
from hf_lorameta import Columns, Recipe
from hf_lorameta.data.columns import parse_columns
from hf_lorameta.errors import UsageError
from settings import MOCK_TOKEN, Settings


def credential_of(token: gr.OAuthToken | None, settings: Settings) -> Credential:
    """Return the visitor's own token, False without one.

    Outside Spaces Gradio mocks the sign-in; its mock token stands for the token saved on this
    machine.
    """
    if token is None:
        return False
    if settings.sign_in == "local" and token.token == MOCK_TOKEN:
        return None
    return token.token


def recipe_of(
    metric: str | None,
    coefficients: str | None,
    combine: str | None,
    top_k: float | None,
    temperature: float | None,
    rank: float | None,
) -> Recipe:
    """Build a recipe from the options.

    None, an empty text, or 0 for top_k and rank keeps the default.

    Raises:
        RecipeError: an option is out of range.
    """
    options = {
        "metric": metric or None,
        "coefficients": coefficients or None,
        "combine": combine or None,
        "top_k": int(top_k) if top_k and top_k > 0 else None,
        "temperature": None if temperature is None else float(temperature),
        "rank": int(rank) if rank and rank > 0 else None,
    }
    return Recipe.of(**{name: value for name, value in options.items() if value is not None})


def recipe_from_form(values: Mapping[str, str]) -> Recipe:
    """Build a recipe from the texts of the options form; an empty text keeps the default.

    Raises:
        RequestError: a text is not a number.
        RecipeError: an option is out of range.
    """
    methods = {name: values.get(name) for name in ("metric", "coefficients", "combine")}
    numbers = {
        "top_k": _number(values, "top_k", int),
        "temperature": _number(values, "temperature", float),
        "rank": _number(values, "rank", int),
    }
    options = methods | numbers
    return Recipe.of(**{name: value for name, value in options.items() if value is not None})


def _number(
    values: Mapping[str, str], name: str, kind: type[int] | type[float]
) -> int | float | None:
    text = values.get(name, "").strip().replace(",", ".")
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        title = name.replace("_", " ").capitalize()
        raise RequestError(f"{title} must be {expected}, not {text[:20]!r}") from None


def columns_of(text: str) -> Columns | None:
    """Read columns as ``input=question,output=answer``; None if the text is empty.

    Raises:
        RequestError: the text has another form.
    """
    try:
        return parse_columns(text) if text else None
    except UsageError:
        raise RequestError(
            "The columns have to be of the form input=question,output=answer"
        ) from None


def uploaded_file(path: str) -> str:
    """Return the path of a file that was uploaded here.

    Raises:
        RequestError: the path names another file.
    """
    file, folder = Path(path).resolve(), Path(get_upload_folder()).resolve()
    if not (file.is_relative_to(folder) and file.is_file()):
        raise RequestError("The uploaded file is no longer there: choose it again")
    return str(file)
