"""Turn inputs of the page and endpoints into a credential, and those of endpoints into a recipe."""

from secrets import compare_digest

import gradio as gr

from hf_lorameta.hub.repo import Token
from hf_lorameta.recipe import Recipe
from settings import Settings

OPTIONS = ("metric", "coefficients", "combine", "top_k", "temperature", "rank")
"""Options of the endpoints."""


def credential_of(token: gr.OAuthToken | None, settings: Settings) -> Token:
    """Return the visitor's own token, False without one, None for the one saved on this machine.

    The page's key stands for the saved token.
    """
    if token is None:
        return False
    if settings.key and compare_digest(token.token.encode(), settings.key.encode()):
        return None
    return token.token


def recipe_of(**options: str | float | None) -> Recipe:
    """Build a recipe from `OPTIONS`; None or an empty text keeps the default.

    Raises:
        RecipeError: an option is not a number, or out of range.
    """
    return Recipe.of(**{name: value for name, value in options.items() if value not in (None, "")})
