"""The model card: its text, its metadata and its commands."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards.results import CheckResult, Drawn, Outcome, StageRecord, Training
from hf_lorameta.data.chat_form import ChatMode
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.recipe import Recipe
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
    rows_of,
    section,
)
from tests.support.local_hub import card_rules as hub_rules

SHORT = Training(rows=16, steps=30, seen=16, labeled=16, layers=6)
TRAINING = Training(rows=32, steps=20, seen=32, labeled=32)
FOLDED = replace(SHORT, folds=4)
CHECK = checked(RIGHT, rows=8)
PROMPTED = checked(RIGHT | {"3-shot": 9}, rows=8)
SCORES = {"generated": 0.5, "base": 0.25, "3-shot": 0.375}
ALL_ANSWERS = checked(PROMPTED.right, None, SCORES, rows=8, measure="rouge_l")
SEVERAL = replace(ALL_ANSWERS, measure="label_f1")
PINNED = Path(__file__).parent / "card.txt"  # not .md: ruff formats the code in those


def alone(**changes: Any) -> dict[str, Any]:
    """Return values of an adapter that was trained without a bank."""
    values = {"bank_id": NO_BANK, "bank_revision": None, "bank_size": 0, "bank_published": False,
              "neighbors": (), "nearest_in_bank": math.nan,
              "outcome": Outcome(training=TRAINING)}  # fmt: skip
    return values | changes


def test_card_equals_the_pinned_text() -> None:
    text = rendered("me/questions-lora")
    assert text == PINNED.read_text(encoding="utf-8")
    assert str(ModelCard(text)) == text


@pytest.mark.parametrize("changes", [{}, alone()], ids=["bank", "no bank"])
def test_metadata_is_valid_for_the_hub(changes: dict[str, Any]) -> None:
    assert hub_rules.check(rendered("me/lora", **changes), "model") == ([], [])


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({}, ["**No training took place.**", "not trained on it."], ["## Trained", "GGUF"]),
        (
            {"outcome": Outcome(SHORT)},
            [
                "**Trained on 16 rows of the dataset**, starting from a",
                "the dataset on whose rows it was trained.",
                "Dataset it is trained on",
                "the last 6 layers were trained",
                "combination was trained further for 30 steps. All projections",
                "This adapter was not evaluated, on this dataset or any other. Whether it is "
                "better than the base model, another adapter or a few-shot prompt is not known.",
            ],
            ["not trained on it.", "| the base model |"],
        ),
        (
            {"outcome": Outcome(FOLDED, CHECK, Drawn(16, 12, 4, 0))},
            ["that were answered in folds, each by an adapter that was not trained on them; this "
             "one was trained on all of them. They are too few for a benchmark."],
            [],
        ),
        *(
            ({"outcome": outcome}, ["rows of the dataset that were not trained on. They are"], [])
            for outcome in (
                Outcome(SHORT, CHECK, Drawn(20, 16, 4, 0)),
                Outcome(SHORT, CHECK, Drawn(28, 16, 4, 8)),
                Outcome(check=CHECK),
            )
        ),
        (
            {"outcome": Outcome(training=TRAINING), "command": command_of(train=32, budget=None)},
            [
                "**Trained on 32 rows of the dataset**, starting from a weighted combination",
                "combination was trained further for 20 steps.",
                "--train 32",
            ],
            ["not trained on it."],
        ),
        (
            {"outcome": Outcome(check=ALL_ANSWERS)},
            [
                "Right answers, apart from case, Rouge-L of all answers, and loss",
                "| the base model | 2 | 0.25 | 2.000 |",
                "| 3 examples in the prompt | 9 | 0.38 | – |",
                "| the adapter | 12 | 0.50 | 1.000 |",
            ],
            [],
        ),
        (
            {"outcome": Outcome(check=SEVERAL)},
            ["Right answers, apart from case and the order of labels, F1 of labels of all"],
            [],
        ),
        (
            {"outcome": Outcome(SHORT, CHECK, records=(StageRecord("x", {}, "Halved", "By 2."),))},
            ["were trained, also", "## Halved\n\nBy 2.\n\n## Checked on 8 rows"],
            [],
        ),
        (
            alone(),
            [
                "**Trained on 32 rows of the dataset.** It starts from the base model itself",
                "The adapter was trained for 20 steps.",
            ],
            ["## Source adapters", "## Citation", "before the"],
        ),
        (
            {"bank_published": False},
            ["`bank/task-0`"],
            ["huggingface.co/bank", "huggingface.co/datasets/bank", "this card's metadata"],
        ),
        (of_dataset(languages=("en", "de"), columns=Columns(input="a", instruction_text="Sort")),
         ["language:\n- en\n- de\n", "**Intended use.** Inputs like those of the dataset, in",
          "in en, de, in the prompt below, with the instruction: Sort\n"], []),
        (of_dataset(id=None, revision="sha256:77", private=True) | {"command": []},
         ["\n# LoRA adapter for base-7b\n", "a local dataset",
          "evaluate . --dataset path/to/unseen.jsonl  # in this folder\n"],
         ["me/questions", "sha256"]),
        ({"outcome": Outcome(SHORT), "command": [], **of_dataset(private=True)},
         ["a private dataset"], ["me/questions", "d" * 40, "`main`"]),
        ({}, ['(model, "path/to/this/folder")',
              "evaluate . --dataset me/questions  # in this folder\n",
              "\n# LoRA adapter of base-7b for me/questions\n"], ["vllm"]),
        (of_dataset(columns=Columns(input="text", template="<u>{prompt}<b>", chat=ChatMode())),
         ["the token that ends a turn, or if the base model does not stop at that, the end-of-"],
         []),
        ({"neighbors": (neighbor(0, 1.0, title="Requests"),), "bank_published": False},
         ["closest source dataset is Requests,", "\n| Requests | in the bank |"], ["task-0"]),
        (of_dataset(config=None, revision="", split=""), [],
         ["| Configuration |", "| Dataset revision |", "| Split |"]),
        ({"base_revision": None}, ['AutoTokenizer.from_pretrained("org/base-7b")\n'], []),
        ({"gguf": True}, ["\nllama serve -m base.gguf --lora adapter.gguf\n",
                          "llama-server -m base.gguf --lora adapter.gguf\n"], []),
        ({"neighbors": (neighbor(0, 1.0, title="Requests | their intent"),)},
         [": Requests \\| their intent |"], []),
    ],
)  # fmt: skip
def test_card_of_a_local_folder_says(
    changes: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    text = rendered(None, **changes)
    assert [phrase for phrase in present if phrase not in text] == []
    assert [phrase for phrase in absent if phrase in text] == []
    assert "\n\n\n" not in text.split("---\n", 2)[2]


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


@pytest.mark.parametrize(
    ("check", "unknown"),
    [
        (None, "the base model, the nearest source adapter or a few-shot prompt"),
        (CHECK, "the nearest source adapter or a few-shot prompt"),
        (PROMPTED, "the nearest source adapter"),
    ],
)
def test_card_says_what_the_adapter_was_not_compared_with(
    check: CheckResult | None, unknown: str
) -> None:
    card = rendered(outcome=Outcome(check=check))
    text = section(card, "What was not measured")
    assert unknown in text
    assert ("rows | 7 |" in card) == (check is not None)


@pytest.mark.parametrize(
    ("columns", "spaced"),
    [
        (Columns(input="question", output="answer"), True),
        (Columns(messages="messages"), True),
        (Columns(output="text", instruction_text="Write."), True),
        (Columns(output="text"), False),
        (Columns(input="question", output="answer", template="Q: {input}\n"), False),
    ],
    ids=str,
)
def test_card_says_whether_outputs_begin_with_a_space(columns: Columns, spaced: bool) -> None:
    text = section(rendered(**of_dataset(columns=columns)), "Usage")
    assert f"continues it with {'a space, ' * spaced}the output" in text


@pytest.mark.parametrize(("rank", "option"), [(8, None), (16, None), (20, "32"), (512, "512")])
def test_vllm_command_allows_the_rank(rank: int, option: str | None) -> None:
    (command,) = re.findall(r"```bash\n(.*vllm serve.*)\n", rendered("me/lora", rank=rank))
    words = [*shlex.split(command), None]
    assert "VLLM_LORA_RESOLVER_HF_REPO_LIST=me/lora" in words
    assert words[words.index("serve") + 1] == "org/base-7b"
    assert option == (words[words.index("--max-lora-rank") + 1] if rank > 16 else None)
    assert ("--max-lora-rank" in words) is (rank > 16)


@pytest.mark.parametrize(
    ("distance", "typical", "expected"),
    [
        (0.1, 0.2, "0.200 from its nearest neighbor; this distance is no larger."),
        (0.2, 0.2, "this distance is no larger."),
        (0.209, 0.2, "this distance is hardly larger."),
        (0.3, 0.2, "this distance is 1.5 times as large: a loosely related dataset."),
        (0.32, 0.2, "1.6 times as large: no dataset of the bank is close to this one. Expect"),
        (0.0, 0.2, "it may be the same dataset"),
        (0.6, 0.0, "too small to tell"),
        (0.6, math.nan, "too small to tell"),
        (0.6, math.inf, "too small to tell"),
    ],
)
def test_card_describes_the_distance_to_the_nearest_dataset(
    distance: float, typical: float, expected: str
) -> None:
    used = (neighbor(0, 0.9, distance=5.0), neighbor(1, 0.1, distance=distance))
    text = rendered(neighbors=used, nearest_in_bank=typical)
    similarity = section(text, "Similarity to the bank")
    assert "[`bank/task-1`]" in similarity
    assert expected in " ".join(similarity.split())
    assert "Expect little" not in rendered(
        neighbors=used, nearest_in_bank=typical, outcome=Outcome(check=CHECK)
    )


def test_table_has_twenty_neighbors_and_sums_up_the_others() -> None:
    used = many(25)
    text = section(rendered(neighbors=used), "Source adapters")
    assert len(rows_of(text)) == 2 + 20
    rest = sum(n.coefficient for n in used[20:])
    assert f"sum to {rest:.1%}." in text
    assert "The other" not in rendered(neighbors=many(20))


def test_recipe_table_lists_every_setting() -> None:
    recipe = Recipe(metric="wd", top_k=2, coefficients="neural", seed=7)
    settings = dict(rows_of(section(rendered(recipe=recipe), "Recipe")))
    assert settings["Metric"] == "1-Wasserstein distance on token ids"
    assert settings["Coefficients"].startswith("neural: ")
    assert settings["Adapters kept"] == "the 2 largest coefficients"
    assert settings["Seed"] == "7"


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
