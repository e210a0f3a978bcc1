"""Convert the inputs of the page and of the endpoints to a credential, a recipe and a file."""

from pathlib import Path

import gradio as gr

from hf_lorameta.recipe import Recipe
from limits.uploads import is_upload
from settings import MOCK_TOKEN, Settings
from work.planning import Credential, RequestError

OPTIONS = ("metric", "coefficients", "combine", "top_k", "temperature", "rank")
"""Options of the recipe on the page and of the endpoints."""


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


def recipe_of(**options: str | float | None) -> Recipe:
    """Build a recipe from `OPTIONS`; None or an empty text keeps the default.

    The temperature may have a decimal comma.

    Raises:
        RecipeError: an option is not a number, or out of range.
    """
    given = {name: v.strip() if isinstance(v, str) else v for name, v in options.items()}
    if isinstance(temperature := given.get("temperature"), str):
        given["temperature"] = temperature.replace(",", ".")
    return Recipe.of(**{name: value for name, value in given.items() if value not in (None, "")})


def uploaded_file(path: str) -> str:
    """Return the path of a file that was uploaded here.

    Raises:
        RequestError: the path names another file.
    """
    if not is_upload(path):
        raise RequestError("The uploaded file is no longer there: choose it again")
    return str(Path(path).resolve())
