"""The list of a base model's adapters, from a server that is described here."""

from types import SimpleNamespace
from typing import Any

from hf_lorameta.hub.adapter_list import list_adapters


def test_an_adapter_on_two_pages_is_listed_once() -> None:
    pages = {
        "https://hub/api/models": (["o/a", "o/b"], {"next": {"url": "https://hub/2"}}),
        "https://hub/2": (["o/b", "o/c"], {}),
    }

    def get(url: str, **_: object) -> Any:
        names, links = pages[url]
        return SimpleNamespace(json=lambda: [{"id": n, "sha": "c"} for n in names], links=links)

    listed = [adapter.repo_id for adapter in list_adapters(get, "https://hub", "o/base")]
    assert listed == ["o/a", "o/b", "o/c"]
