"""The command on a card that makes the adapter again."""

from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from hf_lorameta import Generation, Plan, Recipe, plan
from hf_lorameta.bank.open_bank import embedded_bank
from tests.cards.examples import QUESTIONS
from tests.support.plain_bank import plain_bank

ROWS = [{"question": f"{i}?", "answer": "ab"[i % 2]} for i in range(9)]


@pytest.fixture(scope="module")
def planned() -> Plan:
    """A plan for a public dataset."""
    found = plan(ROWS, plain_bank(), columns="input=question,output=answer")
    return replace(found, dataset=QUESTIONS)


def options_of(planned: Plan) -> dict[str, str]:
    """Return the options of the command on an adapter's card."""
    command = Generation(planned, (), 2, (), 0.0).card().command
    return dict(zip(command[2::2], command[3::2], strict=True))


def with_bank(planned: Plan, name: str, **index: Any) -> Plan:
    bank = copy(planned.bank)
    bank.id, bank.index = name, bank.index.model_copy(update=index)
    return replace(planned, bank=bank)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({}, ["me/questions", "main"]),
        ({"private": True}, ["DATASET", "CONFIG"]),
        ({"id": None, "private": True}, ["DATASET", "CONFIG"]),
        ({"id": None, "private": True, "config": "default"}, ["DATASET"]),
        ({"id": None, "private": True, "config": None}, ["DATASET"]),
    ],
)
def test_a_configuration_is_named_unless_its_name_is_private(
    planned: Plan, dataset: dict[str, Any], words: list[str]
) -> None:
    options = options_of(replace(planned, dataset=replace(QUESTIONS, **dataset)))
    assert [options[name] for name in ("--dataset", "--config") if name in options] == words
    assert ("--revision" in options) == (words[0] != "DATASET")


def test_the_base_model_is_named_if_the_default_bank_is_for_another(planned: Plan) -> None:
    other = with_bank(planned, embedded_bank().id, base_model="org/base-7b")
    options = options_of(other)
    assert options["--base"] == "org/base-7b"
    assert "--bank" not in options


def test_a_folder_of_a_bank_is_not_named(planned: Plan) -> None:
    options = options_of(with_bank(planned, "/home/me/bank"))
    assert options["--bank"] == "BANK"
    assert "--base" not in options


def test_settings_are_named_that_are_not_the_default(planned: Plan) -> None:
    recipe = Recipe(metric="wd", coefficients="attentional", temperature=1 / 3, seed=1, max_rows=9)
    options = options_of(replace(planned, recipe=recipe))
    stated = {"--metric": "wd", "--coefficients": "attentional", "--seed": "1", "--max-rows": "9"}
    assert (stated | {"--budget": "0"}).items() <= options.items()
    assert float(options["--temperature"]) == 1 / 3
