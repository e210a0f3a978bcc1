"""The list of a base model's adapters, from a server that is described here."""

from typing import Any

import httpx2
import pytest

from hf_lorameta.hub.adapter_list import list_adapters
from hf_lorameta.hub.errors import NotJsonError
from hf_lorameta.hub.http_client import HttpClient

Pages = dict[str, httpx2.Response]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Answers by the path of a URL, which tests fill."""
    answers: Pages = {}

    def send(self: HttpClient, method: str, url: str, **_: Any) -> httpx2.Response:
        request = httpx2.Request(method, httpx2.URL("https://hub/api/").join(url))
        answers[request.url.path].request = request
        return answers[request.url.path]

    monkeypatch.setattr(HttpClient, "send", send)
    return answers


def listed() -> list[str]:
    return [adapter.repo_id for adapter in list_adapters(HttpClient(False), "o/base")]


@pytest.mark.parametrize("link", ["https://hub/api/2?cursor=x", "/api/2?cursor=x"])
def test_an_adapter_on_two_pages_is_listed_once(pages: Pages, link: str) -> None:
    items = [[{"id": name, "sha": "c"} for name in names] for names in (("a", "b"), ("b", "c"))]
    headers = {"Link": f'<{link}>; rel="next"'}
    pages["/api/models"] = httpx2.Response(200, json=items[0], headers=headers)
    pages["/api/2"] = httpx2.Response(200, json=items[1])
    assert listed() == ["a", "b", "c"]


def test_what_is_no_list_of_adapters_is_left_out_or_refused(pages: Pages) -> None:
    pages["/api/models"] = httpx2.Response(200, json=["a", {"id": "b"}, {"id": "c", "sha": "d"}])
    assert listed() == ["c"]
    pages["/api/models"] = httpx2.Response(200, text="<html>")
    with pytest.raises(NotJsonError):
        listed()
