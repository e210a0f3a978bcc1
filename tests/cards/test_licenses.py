"""The license of a combination, and how the card states it."""

from dataclasses import replace

import pytest

from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.model_card import render_card
from tests.cards.examples import PLAIN, metadata, neighbor, of_dataset, section
from tests.support.full_hub import card_rules as hub_rules


def license_of(card: CardData) -> tuple[object, object, object]:
    """Return license, name and link in the metadata of a card."""
    data = metadata(render_card(card, None))
    return data.license, data.license_name, data.license_link


def licensed(base: str | None, *adapters: str | None) -> CardData:
    used = tuple(neighbor(i, 0.5, license=name) for i, name in enumerate(adapters))
    return replace(PLAIN, base_license=base, neighbors=used)


@pytest.mark.parametrize(
    ("base", "adapters", "expected"),
    [
        ("mit", ["mit", "mit"], ("mit", None)),
        ("MIT", [" mit "], ("mit", None)),
        ("llama3.1", ["llama3.1"], ("llama3.1", None)),
        ("openrail++", ["openrail++"], ("openrail++", None)),
        ("mit", ["apache-2.0"], ("other", "apache-2.0-and-mit")),
        ("mit", ["mit", None], ("other", "mit-and-unknown")),
        (None, ["mit"], ("other", "mit-and-unknown")),
        (None, [None], ("other", "unknown")),
        ("", [""], ("other", "unknown")),
        ("other", ["other"], ("other", "other")),
        ("unknown", ["unknown"], ("other", "unknown")),
        ("mit", ["apache-2.0-and-mit", "gpl-and-mit"], ("other", "apache-2.0-and-gpl-and-mit")),
        ("my own terms", ["my own terms"], ("other", "my-own-terms")),
        ("mit\nbase_model: x", ["mit"], ("other", "mit-and-mit-base-model-x")),
    ],
)
def test_license_of_a_combination(
    base: str | None, adapters: list[str | None], expected: tuple[str, str]
) -> None:
    card = licensed(base, *adapters)
    link = None if expected[1] is None else "https://huggingface.co/org/base-7b"
    assert license_of(card) == (*expected, link)
    assert hub_rules.check(render_card(card, None), "model") == ([], [])


def test_many_licenses_are_named_together_with_a_link_to_their_list() -> None:
    names = [f"cc-by-{i}.0-of-a-dataset" for i in range(9)]
    card = licensed("mit", *names)
    assert license_of(card) == ("other", "several-licenses", "https://huggingface.co/org/base-7b")
    text = render_card(card, "user/adapter")
    data = metadata(text)
    assert (data.license, data.license_name) == ("other", "several-licenses")
    assert data.license_link == "https://huggingface.co/user/adapter#licenses"
    assert all(f"`{name}` (1)" in section(text, "Licenses") for name in names)


def test_dataset_license_does_not_count() -> None:
    assert license_of(of_dataset(PLAIN, license="gpl-3.0"))[0] == "apache-2.0"


def test_card_counts_licenses_and_explains_unknown_ones() -> None:
    text = section(render_card(licensed("mit", "mit", None, "mit", "x|y"), None), "Licenses")
    assert "- Base model: `mit`\n" in text
    assert "- Source adapters: `mit` (2), unknown (1), <code>x&#124;y</code> (1)\n" in text
    assert "Unknown means" in text
    assert "Unknown means" not in render_card(PLAIN, None)


def test_the_general_adapters_datasets_count_as_it_is_a_part_of_each_adapter() -> None:
    card = replace(PLAIN, general=0.5, general_licenses=("CC-BY-SA-4.0", None))
    assert license_of(card)[:2] == ("other", "apache-2.0-and-cc-by-sa-4.0-and-unknown")
    text = render_card(card, None)
    assert "datasets of the general adapter" in text
    assert "It was trained on 2 datasets together." in text
    assert license_of(replace(card, general=0.0)) == license_of(card)
