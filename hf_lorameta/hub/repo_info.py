"""Look up a repo on the Hub, and list adapters and banks of a base model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import translated, unexpected_answer
from hf_lorameta.hub.repo import PinnedRepo, blob_of, card_license

_LANGUAGE = re.compile("[a-z]{2,3}|code|multilingual")
"""What the Hub accepts as a language on a card; older cards have others, such as ``zh-CN``."""

# --- one repo -----------------------------------------------------------------------------------


def fetch_repo(
    connection: Connection, repo_id: str, repo_type: str, revision: str | None, *, blobs: bool
) -> PinnedRepo:
    """Ask once for a repo at a revision; see `hf_lorameta.hub.client.Hub.resolve`."""
    info: Any = connection.api.repo_info(
        repo_id,
        repo_type=repo_type,
        revision=revision,
        files_metadata=blobs,
        timeout=connection.timeouts,
    )
    files, stated = info.siblings or (), _stated(info.card_data)
    return PinnedRepo(
        info.id,
        repo_type,
        info.sha,
        private=bool(info.private),
        gated=bool(info.gated),
        license=card_license(stated),
        languages=tuple(filter(_LANGUAGE.fullmatch, stated_names(stated.get("language")))),
        files=tuple(file.rfilename for file in files),
        blobs={file.rfilename: blob_of(file) for file in files} if blobs else {},
    )


def _stated(card: Any) -> dict[str, Any]:
    """Return what a card states about license, languages and sources."""
    fields = ("license", "license_name", "language", "datasets", "base_model", _FACTS)
    return {} if card is None else {name: card.get(name) for name in fields}


# --- adapters of a base model -------------------------------------------------------------------


@dataclass(frozen=True)
class ListedAdapter:
    """An adapter repo in the Hub's listing.

    Attributes:
        repo_id: Hub id.
        sha: commit of its default branch.
        private: whether only some accounts see it.
        files: names of its files.
        datasets: that its card names, in the card's order.
        license: that its card states; None if it states none, or several.
        folder: of the repo that the adapter is in; empty for its root.
    """

    repo_id: str
    sha: str
    private: bool
    files: tuple[str, ...]
    datasets: tuple[str, ...]
    license: str | None
    folder: str = ""

    @property
    def inside(self) -> str:
        """Prefix of the adapter's files in the repo."""
        return f"{self.folder}/" if self.folder else ""

    @property
    def adapter(self) -> str:
        """Id of the adapter: that of the repo, and the folder if it is in one."""
        return f"{self.repo_id}/{self.folder}" if self.folder else self.repo_id


def list_adapters(connection: Connection, base_model: str, limit: int) -> Iterator[ListedAdapter]:
    """Yield the adapters whose cards state a base model, each once, the most downloaded first.

    The Hub tags a model with ``base_model:adapter:ID`` for each base model that its card states.
    An adapter whose downloads change meanwhile may be on two pages of the listing.
    """
    with translated("the list of adapters"):
        seen: set[str] = set()
        for model in connection.api.list_models(
            filter=f"base_model:adapter:{base_model}",
            sort="downloads",
            limit=limit,
            expand=["sha", "cardData", "siblings", "private"],
        ):
            if not model.sha or model.id in seen:
                continue
            seen.add(model.id)
            card = _stated(model.card_data)
            yield ListedAdapter(
                model.id,
                model.sha,
                private=bool(model.private),
                files=tuple(file.rfilename for file in model.siblings or ()),
                datasets=stated_names(card.get("datasets")),
                license=card_license(card),
            )


# --- banks of a base model ----------------------------------------------------------------------

BANK_TAG = "hf-lorameta-bank"
"""Tag of the dataset repos that hold banks."""
_FACTS = "hf_lorameta"
"""Field of a bank's card with the numbers of its adapters."""


@dataclass(frozen=True)
class ListedBank:
    """The repo of a bank in the Hub's listing.

    Attributes:
        repo_id: Hub id.
        private: whether only some accounts see it.
        adapters: number of adapters of single tasks that its card states.
        general: whether it states a general adapter.
        size: bytes of the repo; None if the server does not state them.
        license: that its card states; None if it states none.
        downloads: of the last month.
    """

    repo_id: str
    private: bool
    adapters: int
    general: bool
    size: int | None
    license: str | None
    downloads: int


def list_banks(connection: Connection, base_model: str) -> Iterator[ListedBank]:
    """Yield the banks whose cards state a base model, the most downloaded first.

    The Hub filters datasets by the tags of their cards only, so the base models are compared here.
    """
    with translated("the list of banks"):
        for repo in connection.api.list_datasets(
            filter=BANK_TAG,
            sort="downloads",
            expand=["cardData", "downloads", "private", "tags", "usedStorage"],
        ):
            if BANK_TAG not in (repo.tags or ()):
                raise unexpected_answer("the list of banks", "it ignores the filter by tag")
            card = _stated(repo.card_data)
            if base_model.lower() not in map(str.lower, stated_names(card.get("base_model"))):
                continue
            facts = card.get(_FACTS)
            facts = facts if isinstance(facts, dict) else {}
            yield ListedBank(
                repo.id,
                bool(repo.private),
                adapters=int(facts.get("adapters") or 0),
                general=bool(facts.get("general")),
                size=repo.used_storage,
                license=card_license(card),
                downloads=repo.downloads or 0,
            )


def stated_names(value: Any) -> tuple[str, ...]:
    """Return the names in a card's field, which is a string, a list, or missing; each once.

    Example:
        >>> stated_names("o/d"), stated_names(["o/d", "o/e", "o/d", 3]), stated_names(None)
        (('o/d',), ('o/d', 'o/e'), ())
    """
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(name for name in listed if isinstance(name, str) and name))
