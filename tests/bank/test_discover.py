"""Checks of single adapters by ``bank discover``, with a client that answers as it is told."""

from typing import Any

import pytest

from hf_lorameta.bank.discover import AdapterChecker
from hf_lorameta.errors import AuthError, LoraMetaError
from hf_lorameta.hub.errors import ForbiddenError
from hf_lorameta.hub.repo_info import ListedAdapter

LISTED = ListedAdapter(
    "o/a", "c", False, ("adapter_model.safetensors", "adapter_config.json"), ("o/d",), "mit"
)


class Refusing:
    """A client whose requests fail with an error."""

    def __init__(self, error: LoraMetaError) -> None:
        self.error = error

    def resolve(self, *_: Any, **__: Any) -> Any:
        raise self.error


def checker(error: LoraMetaError) -> AdapterChecker:
    return AdapterChecker(Refusing(error), "base/tiny")  # type: ignore[arg-type]


def test_a_refused_token_says_nothing_about_an_adapter() -> None:
    with pytest.raises(AuthError, match="not valid"):
        checker(AuthError("the token is not valid")).check(LISTED)
    assert checker(ForbiddenError("no access")).check(LISTED).detail == "no access"
