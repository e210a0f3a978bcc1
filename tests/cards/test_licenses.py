"""The license of a combination, and how the card states it."""

from typing import Any

import pytest

from hf_lorameta.hub.licenses import SEVERAL
from tests.cards.examples import metadata, neighbor, of_dataset, rendered, section
from tests.support.local_hub import card_rules as hub_rules

BASE = "https://huggingface.co/org/base-7b"


def licensed(base: str | None, *adapters: str | None) -> dict[str, Any]:
    used = tuple(neighbor(i, 0.5, license=name) for i, name in enumerate(adapters))
    return {"base_license": base, "neighbors": used}


MANY = [f"cc-by-{i}.0-of-a-dataset" for i in range(9)]
GENERAL: dict[str, Any] = {"general_licenses": ("CC-BY-SA-4.0", None)}


@pytest.mark.parametrize(
    ("changes", "license_id", "name"),
    [
        (licensed("mit", "mit", "mit"), "mit", None),
        (licensed("MIT", " mit "), "mit", None),
        (licensed("llama3.1", "llama3.1"), "llama3.1", None),
        (licensed("openrail++", "openrail++"), "openrail++", None),
        (licensed("mit", "apache-2.0"), "other", "apache-2.0-and-mit"),
        (licensed("mit", "mit", None), "other", "mit-and-unknown"),
        (licensed(None, "mit"), "other", "mit-and-unknown"),
        (licensed(None, None), "other", "unknown"),
        (licensed("", ""), "other", "unknown"),
        (licensed("other", "other"), "other", "other"),
        (licensed("unknown", "unknown"), "other", "unknown"),
        (licensed("mit", "apache-2.0-and-mit", "gpl-and-mit"), "other",
         "apache-2.0-and-gpl-and-mit"),
        (licensed("my own terms", "my own terms"), "other", "my-own-terms"),
        (licensed("mit\nbase_model: x", "mit"), "other", "mit-and-mit-base-model-x"),
        (licensed("mit", *MANY), "other", SEVERAL),
        # the dataset's does not count; the general adapter is a part of each other one
        (of_dataset(license="gpl-3.0"), "apache-2.0", None),
        (GENERAL | {"general": 0.5}, "other", "apache-2.0-and-cc-by-sa-4.0-and-unknown"),
        (GENERAL | {"general": 0.0}, "other", "apache-2.0-and-cc-by-sa-4.0-and-unknown"),
    ],
)  # fmt: skip
def test_license_of_a_combination(
    changes: dict[str, Any], license_id: str, name: str | None
) -> None:
    text = rendered(**changes)
    data = metadata(text)
    expected = (license_id, name, BASE if name not in (None, SEVERAL) else None)
    assert (data.license, data.license_name, data.license_link) == expected
    assert hub_rules.check(text, "model") == ([], [])


def test_many_licenses_are_linked_to_their_list_on_the_published_card() -> None:
    text = rendered("user/adapter", **licensed("mit", *MANY))
    assert metadata(text).license_link == "https://huggingface.co/user/adapter#licenses"
    assert all(f"`{name}` (1)" in section(text, "Licenses") for name in MANY)


def test_card_counts_licenses_and_explains_unknown_ones() -> None:
    text = section(rendered(**licensed("mit", "mit", None, "mit", "x|y")), "Licenses")
    assert "- Base model: `mit`\n" in text
    assert "- Source adapters: `mit` (2), unknown (1), <code>x&#124;y</code> (1)\n" in text
    assert "Unknown means" in text
    assert "Unknown means" not in rendered()


def test_card_names_the_datasets_of_the_general_adapter() -> None:
    text = rendered(general=0.5, **GENERAL)
    assert "2 datasets together" in text
