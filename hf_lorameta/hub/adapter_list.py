"""List the adapters of a base model on the Hub, with what their cards state."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_lorameta.hub.http_client import HttpClient
from hf_lorameta.hub.repo import card_license
from hf_lorameta.hub.retry import with_retries

logger = logging.getLogger(__name__)

PAGE = 100
"""Adapters requested at a time."""
_FIELDS = ("sha", "cardData", "siblings", "private")


@dataclass(frozen=True)
class ListedAdapter:
    """An adapter repo as the list of repos describes it.

    Attributes:
        repo_id: Hub id.
        sha: commit of its default branch.
        private: whether only some accounts see it.
        files: names of its files.
        datasets: that its card names, in the card's order.
        license: that its card states; None if it states none, or several.
    """

    repo_id: str
    sha: str
    private: bool
    files: tuple[str, ...]
    datasets: tuple[str, ...]
    license: str | None


def list_adapters(client: HttpClient, base_model: str) -> Iterator[ListedAdapter]:
    """Yield the adapters whose cards state a base model, each once, the most downloaded first.

    The Hub tags a model with ``base_model:adapter:ID`` for each base model that its card states.
    A page is requested when the one before it is used up; the header ``Link`` leads to the next.
    An adapter whose downloads change meanwhile may be on two pages.
    """
    url: str | None = "models"
    query: dict[str, Any] = {
        "filter": f"base_model:adapter:{base_model}",
        "sort": "downloads",
        "limit": PAGE,
        "expand": list(_FIELDS),
    }
    seen: set[str] = set()
    while url:
        items, url = with_retries("the list of adapters", partial(client.page, url, **query))
        query = {}  # the next URL holds it
        for item in items:
            try:
                adapter = _parse(item)
            except (KeyError, TypeError):
                logger.debug("an item of the list of adapters lacks an id or a commit")
                continue
            if adapter.repo_id not in seen:
                seen.add(adapter.repo_id)
                yield adapter


def _parse(item: dict[str, Any]) -> ListedAdapter:
    card = item.get("cardData")
    card = card if isinstance(card, dict) else {}
    return ListedAdapter(
        repo_id=str(item["id"]),
        sha=str(item["sha"]),
        private=bool(item.get("private")),
        files=tuple(str(sibling["rfilename"]) for sibling in item.get("siblings") or ()),
        datasets=_names(card.get("datasets")),
        license=card_license(card),
    )


def _names(value: Any) -> tuple[str, ...]:
    """Return the names in a card's field, which is a string, a list, or missing; each once.

    Example:
        >>> _names("o/d"), _names(["o/d", "o/e", "o/d", 3]), _names(None)
        (('o/d',), ('o/d', 'o/e'), ())
    """
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(name for name in listed if isinstance(name, str) and name))
