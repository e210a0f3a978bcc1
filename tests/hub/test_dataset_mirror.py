"""Which servers can be streamed from, and what is downloaded from the others."""

from typing import Any

import pytest

from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.hub.dataset_mirror import can_stream, mirror
from hf_lorameta.hub.errors import not_json
from hf_lorameta.hub.http_client import HttpClient
from hf_lorameta.hub.repo import PinnedRepo


def test_a_server_that_answers_with_web_pages_cannot_be_streamed_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def page(self: HttpClient, method: str, url: str, **_: Any) -> Any:
        raise not_json(url)

    monkeypatch.setattr(HttpClient, "json", page)
    assert not can_stream(HttpClient(False), PinnedRepo("o/d", "dataset", "0" * 40))


def test_a_repo_without_data_files_is_empty() -> None:
    repo = PinnedRepo("o/d", "dataset", "0" * 40, files=("weights.bin", ".gitattributes"))
    with pytest.raises(EmptyDatasetError, match="o/d has no data files"):
        mirror(HttpClient(False), repo)
