"""The sentences of a card, one by one; `test_model_card.py` has the card that they are on."""

from dataclasses import replace
from typing import Any

import pytest

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards import sentences
from hf_lorameta.cards.results import Outcome, Training
from hf_lorameta.data.chat_form import ChatMode
from hf_lorameta.data.columns.columns import Columns
from tests.cards.examples import PLAIN, neighbor

pytestmark = pytest.mark.unit

TRAINED = Outcome(Training(rows=16, steps=30, seen=16, labeled=16))
NO_TRAINING = "**No training took place.** This adapter is"
GENERAL: dict[str, Any] = {
    "neighbors": (), "general": 0.8, "scale": 0.8, "general_licenses": ("mit", None)
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, [f"{NO_TRAINING} a weighted combination of 3 existing adapters, each trained on"]),
        ({"neighbors": (neighbor(0, 1.0),)},
         [f"{NO_TRAINING} a weighted combination of 1 existing adapter, trained on its own"]),
        ({"outcome": TRAINED},
         ["**Trained on 16 rows of the dataset**, starting from a weighted combination of 3"]),
        (GENERAL, [f"{NO_TRAINING} the general adapter of a bank, which was trained on 2 datasets "
                   "together and is the same for every dataset.", "It was scaled by 0.80, since"]),
        (GENERAL | {"general": 0.5, "scale": 1.0}, [f"{NO_TRAINING} the general adapter"]),
        ({"general": 0.25, "general_licenses": ("mit",), "output_prior": 0.5, "scale": 0.5},
         [f"{NO_TRAINING} a weighted", "Besides these, the bank's general adapter takes part with "
          "the coefficient 25.0%. It was trained on 1 dataset together.",
          "An update of the last down-projection,", "All coefficients were scaled by 0.50, since"]),
        ({"bank_id": NO_BANK, "neighbors": (), "outcome": TRAINED},
         ["**Trained on 16 rows of the dataset.** It starts from the base model itself"]),
    ],
)  # fmt: skip
def test_the_introduction_says_what_it_was_made_from(
    changes: dict[str, Any], starts: list[str]
) -> None:
    _, *paragraphs = sentences.introduction(replace(PLAIN, **changes))
    assert len(paragraphs) == len(starts)
    assert [p for p, start in zip(paragraphs, starts, strict=True) if not p.startswith(start)] == []


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        (ChatMode(), "as chat requests to a server get it."),
        (ChatMode(system="/no_think"), "get it with the system text `/no_think`."),
        (ChatMode(chat_template_kwargs={"think": False}, system="/no_think"),
         'get it with `"chat_template_kwargs": {"think": false}` and the system text `/no_think`.'),
    ],
)  # fmt: skip
def test_the_form_of_a_chat_says_what_a_server_is_given(mode: ChatMode, given: str) -> None:
    columns = Columns(input="a", output="b", template="<u>{prompt}<b>", chat=mode)
    assert given in sentences.prompt_form(columns)
