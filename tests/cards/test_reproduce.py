"""The command on a card that makes the adapter again."""

from dataclasses import replace
from typing import Any

import pytest

from hf_lorameta.cards.model_card import reproduce_command
from tests.cards.examples import PLAIN, QUESTIONS


@pytest.mark.unit
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
    dataset: dict[str, Any], words: list[str]
) -> None:
    command = reproduce_command(replace(PLAIN, dataset=replace(QUESTIONS, **dataset)))
    options = dict(zip(command[2::2], command[3::2], strict=False))
    assert [options[name] for name in ("--dataset", "--config") if name in options] == words
