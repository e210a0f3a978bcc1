"""The license of a combination of adapters."""

from collections.abc import Iterable

from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.markdown import hub_url, is_hub_id
from hf_lorameta.hub.licenses import SEVERAL, combined_license


def source_licenses(card: CardData) -> list[str | None]:
    """Return the licenses of the adapters used, and of what the general adapter was trained on.

    The general adapter is a part of each other one, so it counts whatever its own coefficient.
    """
    return [*(n.license for n in card.neighbors), *card.general_licenses]


def license_of(card: CardData, repo_id: str | None = None) -> tuple[str, str | None, str | None]:
    """Return (Hub's license id, name, link) for a combination; `repo_id` is where it is published.

    The base model and the adapters used count; the dataset does not, since none of it is
    redistributed. If they have no common license that the Hub knows, the id is ``other``, the name
    lists each license (``unknown`` if the authors state none) and the link is to the base model.
    Of more licenses than fit into a name, the link is to the list on the published card.
    """
    return common_license([card.base_license, *source_licenses(card)], card.base_model, repo_id)


def common_license(
    stated: Iterable[str | None], base_model: str, repo_id: str | None = None
) -> tuple[str, str | None, str | None]:
    """Return what `license_of` does, from the stated licenses."""
    license_id, name = combined_license(stated)
    if name is None:
        return license_id, None, None
    link = hub_url(base_model) if is_hub_id(base_model) else None
    if name == SEVERAL and repo_id:
        link = f"{hub_url(repo_id)}#licenses"
    return license_id, name, link
