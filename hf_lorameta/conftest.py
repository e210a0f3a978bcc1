"""Doctests compare the last line of a traceback, which is a note where an error has advice."""

import pytest

from hf_lorameta.errors import LoraMetaError


@pytest.fixture(autouse=True)
def no_notes_in_doctests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep errors from showing their advice in tracebacks of doctests."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.name != "hf_lorameta.errors":
        none = property(lambda error: None, lambda error, notes: None)
        monkeypatch.setattr(LoraMetaError, "__notes__", none, raising=False)
