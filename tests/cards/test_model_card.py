"""The model card: its text, its metadata and its commands."""

import math
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_lorameta.cards.results import Outcome
from tests.cards.examples import (
    RIGHT,
    checked,
    command_of,
    many,
    metadata,
    metadata_fields,
    neighbor,
    of_dataset,
    rendered,
)
from tests.cards.variants import CARDS, CHECK, SCORES, SHORT, alone, cards
from tests.support.local_hub import card_rules as hub_rules


def test_cards_are_those_of_the_file() -> None:
    """After a change of wording: ``python -m tests.cards.variants --write``."""
    assert cards() == CARDS.read_text("utf-8")
    assert str(ModelCard(text := rendered("me/questions-lora"))) == text


@pytest.mark.parametrize("changes", [{}, alone()], ids=["bank", "no bank"])
def test_metadata_is_valid_for_the_hub(changes: dict[str, Any]) -> None:
    assert hub_rules.check(rendered("me/lora", **changes), "model") == ([], [])


SOURCES = ["bank/task-0", "bank/task-1", "bank/task-2"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SOURCES),
        ({"outcome": Outcome(SHORT)}, ["me/questions", *SOURCES]),
        ({"bank_published": False}, None),
        ({"bank_published": False, "outcome": Outcome(SHORT)}, ["me/questions"]),
        ({"outcome": Outcome(SHORT), **of_dataset(private=True)}, SOURCES),
        (
            {"outcome": Outcome(SHORT), **of_dataset(id="bank/task-1")},
            [SOURCES[1], SOURCES[0], SOURCES[2]],
        ),
        ({"neighbors": (neighbor(0, 0.6), neighbor(1, 0.4, dataset=SOURCES[0]))}, SOURCES[:1]),
        ({"neighbors": many(60)}, [f"bank/task-{i}" for i in range(50)]),
        (alone(), ["me/questions"]),
    ],
)
def test_metadata_lists_the_datasets_that_something_was_trained_on(
    changes: dict[str, Any], expected: list[str] | None
) -> None:
    assert metadata(rendered(None, **changes)).datasets == expected


@pytest.mark.parametrize(
    "bad", ["../data/train.jsonl", "/home/me/x", "a/b/c", "a/../b", "a\nb/c", "x" * 97, "a/b\n"]
)
def test_invalid_hub_ids_are_left_out_of_the_metadata(bad: str) -> None:
    used = (neighbor(0, 1.0, dataset=bad),)
    data = metadata_fields(
        rendered(None, base_model=bad, neighbors=used, outcome=Outcome(SHORT), **of_dataset(id=bad))
    )
    assert data["tags"] == ["lora", "hf-lorameta", "arxiv:2507.01806"]
    assert not {"datasets", "base_model", "base_model_relation"} & set(data)


def test_metadata_index_what_the_check_measured() -> None:
    check = checked(RIGHT | {"generated": 6}, None, SCORES, rows=8, measure="rouge_l")
    text = rendered("me/lora", outcome=Outcome(check=check))
    results = metadata(text).eval_results or []
    assert [(r.metric_type, r.metric_value, r.metric_name) for r in results] == [
        ("exact_match", 0.75, "Right answers, of 8 rows"),
        ("rouge", 0.5, "Rouge-L, of 8 rows"),
    ]
    assert {(r.dataset_type, r.dataset_config, r.dataset_split) for r in results} == {
        ("me/questions", "main", "train")
    }
    assert {r.dataset_revision for r in results} == {"d" * 40}
    assert metadata(text).model_name == "me/lora"
    assert hub_rules.check(text, "model") == ([], [])
    labels = Outcome(check=replace(check, measure="label_f1"))
    found = metadata(rendered(None, outcome=labels))
    assert [r.metric_type for r in found.eval_results or []] == ["exact_match", "f1"]
    assert found.model_name == "LoRA adapter"


@pytest.mark.parametrize(
    "hidden",
    [
        of_dataset(private=True),
        of_dataset(id=None),
        of_dataset(id="data/train.jsonl/x"),
        {"outcome": Outcome()},
    ],
)
def test_metadata_index_nothing_without_a_check_or_a_public_dataset(hidden: dict[str, Any]) -> None:
    text = rendered("me/lora", **{"outcome": Outcome(check=CHECK), **hidden})
    assert "model-index" not in text


def test_scores_that_are_not_finite_are_not_indexed() -> None:
    check = checked(RIGHT, None, {"generated": math.nan}, measure="rouge_l")
    results = metadata(rendered(None, outcome=Outcome(check=check))).eval_results or []
    assert [r.metric_type for r in results] == ["exact_match"]


@pytest.mark.parametrize("odd", ["a: b", "---\n", "\u2028", "'\"", "x\n  y: z"])
def test_names_in_the_index_are_escaped(odd: str) -> None:
    changes = of_dataset(config=odd, split=odd)
    text = rendered("me/lora", outcome=Outcome(check=CHECK), **changes)
    [result] = metadata(text).eval_results or []
    assert (result.dataset_config, result.dataset_split) == (odd, odd)
    assert hub_rules.check(text, "model")[0] == []


@pytest.mark.parametrize(("rank", "option"), [(8, None), (16, None), (20, "32"), (512, "512")])
def test_vllm_command_allows_the_rank(rank: int, option: str | None) -> None:
    (command,) = re.findall(r"```bash\n(.*vllm serve.*)\n", rendered("me/lora", rank=rank))
    words = [*shlex.split(command), None]
    assert "VLLM_LORA_RESOLVER_HF_REPO_LIST=me/lora" in words
    assert words[words.index("serve") + 1] == "org/base-7b"
    assert option == (words[words.index("--max-lora-rank") + 1] if rank > 16 else None)
    assert ("--max-lora-rank" in words) is (rank > 16)


# --- commands -----------------------------------------------------------------------------------


def test_cli_parses_the_commands_on_the_card() -> None:
    typer = pytest.importorskip("typer")
    app = typer.main.get_command(pytest.importorskip("hf_lorameta.cli.app").app)
    text = rendered("me/lora", command=command_of(top_k=3, temperature=2, seed=1))
    for block in re.findall(r"```bash\n(hf-lorameta .*?)\n```", text, re.DOTALL):
        _, name, *arguments = shlex.split(block.replace("\\\n", " "))
        parsed = app.commands[name].make_context(name, arguments).params
        assert parsed["dataset"] in ("me/questions", ["me/questions"])
        if name == "generate":
            names = ("metric", "top_k", "temperature", "seed", "budget")
            assert [parsed[field] for field in names] == ["kl", 3, 2, 1, "0"]
