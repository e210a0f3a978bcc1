"""Search datasets on the Hub by name, for the field of step 1."""

import time
from collections.abc import Callable
from functools import lru_cache

import gradio as gr

from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.client import Hub
from inputs import credential_of
from settings import Settings

_SECONDS = 600
"""How long the answer to signed-out visitors is kept."""


def dataset_search(settings: Settings) -> Callable[..., list[str]]:
    """Return the function that the page calls while a visitor types."""

    def search(text: str, token: gr.OAuthToken | None) -> list[str]:
        """Return ids of datasets whose names match; none if the Hub does not answer."""
        text, credential = str(text)[:100], credential_of(token, settings)
        try:
            if credential is False:
                return _search_public(text, int(time.time() // _SECONDS))
            return Hub(credential).search_datasets(text)
        except LoraMetaError:
            return []  # a name can be typed without suggestions

    return search


@lru_cache(maxsize=256)
def _search_public(text: str, period: int) -> list[str]:
    return Hub(False).search_datasets(text)
