"""The credential of a visitor."""

from secrets import compare_digest

import gradio as gr

from hf_lorameta.hub.repo import Token
from settings import Settings


def credential_of(token: gr.OAuthToken | None, settings: Settings) -> Token:
    """Return the visitor's own token, False without one, None for the one saved on this machine.

    The page's key stands for the saved token.
    """
    if token is None:
        return False
    if settings.key and compare_digest(token.token.encode(), settings.key.encode()):
        return None
    return token.token
