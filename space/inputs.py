"""Convert the inputs of the page and of the endpoints to a credential and a recipe."""

import gradio as gr

from dataset_request import Credential
from hf_lorameta import Recipe
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
    """Build a recipe from the options; an empty or zero value keeps the default.

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
