"""The model card: its text, its metadata and its commands."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_lorameta.bank.index import EMBEDDED_BANK, NO_BANK
from hf_lorameta.cards import model_card
from hf_lorameta.cards.card_data import CardData, Routing
from hf_lorameta.cards.chart import render_chart
from hf_lorameta.cards.model_card import render_card
from hf_lorameta.cards.results import Check, Training
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.recipe import Recipe
from tests.cards.examples import (
    PLAIN,
    RIGHT,
    datasets_of,
    many,
    metadata,
    metadata_fields,
    neighbor,
    of_dataset,
    rows_of,
    section,
)
from tests.support.full_hub import card_rules as hub_rules

FIT = Training(rows=16, held_out=4, base=0.1, start=0.25, end=0.75, steps=30, layers=6, outputs=2)
TRAINING = Training(rows=32, held_out=32, base=0.1, start=0.25, end=0.5, steps=20)
PINNED = Path(__file__).parent / "card.txt"  # not .md: ruff formats the code in those


def test_card_equals_the_pinned_text() -> None:
    assert render_card(PLAIN, "me/questions-lora") == PINNED.read_text(encoding="utf-8")


def test_card_parses_and_its_metadata_is_valid_for_the_hub() -> None:
    text = render_card(PLAIN, "me/questions-lora")
    assert str(ModelCard(text)) == text
    assert hub_rules.check(text, "model") == ([], [])


TRAINED = Training(rows=16, held_out=16, base=3.0, start=2.5, end=1.5, steps=24)
ALONE = replace(
    PLAIN, bank_id=NO_BANK, bank_revision=None, bank_size=0, neighbors=(), bank_published=False,
    nearest_in_bank=math.nan, recipe=Recipe(train=16), training=TRAINED,
)  # fmt: skip


def test_card_without_a_bank_says_what_the_adapter_was_made_of() -> None:
    text = render_card(ALONE, "me/questions-lora")
    assert hub_rules.check(text, "model") == ([], [])
    fields = metadata_fields(text)
    assert (fields["datasets"], fields["license"]) == (["me/questions"], "apache-2.0")
    assert fields["tags"] == ["lora", "hf-lorameta", "base_model:adapter:org/base-7b"]
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == [
        "Usage",
        "Trained on 16 rows",
        "Recipe",
        "Licenses",
        "What was not measured",
        "Warnings",
        "How to reproduce it",
    ]
    assert "\n\n\n" not in text.split("---\n", 2)[2]
    assert "**Trained on 16 rows of the dataset.** It starts from the base model itself" in text
    assert rows_of(section(text, "Trained on 16 rows"))[2:] == [
        ["base model", "3"], ["trained (slightly optimistic)", "1.5"],
    ]  # fmt: skip
    assert model_card.reproduce_command(ALONE)[-10:] == [
        "--base", "org/base-7b", "--bank", "none", "--base-revision", ALONE.base_revision,
        "--train", "16", "--output", "my-adapter",
    ]  # fmt: skip


def test_card_without_a_bank_tells_a_fit_from_a_training() -> None:
    fitted = render_card(replace(ALONE, training=None, fit=FIT, recipe=Recipe(fit=16)), None)
    assert "**Fitted on 16 rows of the dataset** in its upper layers; no other layer" in fitted
    assert "The adapter was trained for 30 steps." in fitted
    both = render_card(replace(ALONE, fit=FIT), None)
    assert "**Fitted on 16 rows of the dataset, and then trained on 16 others.**" in both
    assert ["before the training", "2.5"] in rows_of(section(both, "Trained on 16 rows"))


def test_card_of_a_local_folder_has_placeholders() -> None:
    text = render_card(PLAIN, None)
    assert 'PeftModel.from_pretrained(model, "path/to/this/folder")' in text
    assert "hf-lorameta evaluate FOLDER --dataset me/questions" in text
    assert "\n# LoRA adapter\n" in text
    assert "vllm" not in text


def test_loading_code_is_valid_python() -> None:
    quote = replace(PLAIN, base_model='a"); import os  #')
    for facts in (PLAIN, replace(PLAIN, base_revision=None), quote):
        (block,) = re.findall(r"```python\n(.*?)```", render_card(facts, "me/x"), re.DOTALL)
        compile(block, "card", "exec")
    assert "import os" in block
    assert not re.search(r"^\s*import os", block, re.MULTILINE)


def mixture(size: int, **changes: Any) -> CardData:
    paths = tuple(f"experts/lora-{i}" for i in range(size))
    routing = Routing(paths, min(3, size), "shared")
    recipe = Recipe(emit="mixture", top_k=size)
    return replace(many(size), routing=replace(routing, **changes), recipe=recipe)


def test_card_of_a_mixture_lists_every_adapter_and_loads_it() -> None:
    text = render_card(mixture(25), "me/mix")
    assert hub_rules.check(text, "model") == ([], [])
    assert {"mixture", "arxiv:2405.11157"} <= set(metadata_fields(text)["tags"])
    assert len(rows_of(section(text, "Source adapters"))) == 2 + 25
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    assert 'mixture = "me/mix"' in code
    assert "--lora-modules lora-0=mix/experts/lora-0" in text
    assert "--max-loras 25" in text
    assert "not trained on it" not in text
    settings = dict(rows_of(section(text, "Recipe")))
    assert settings["Combination"] == "mixture: routed, not merged"
    assert "--emit mixture \\\n    --top-k 25" in text


def test_card_of_a_local_mixture_without_an_output_prior_loads_only_the_adapters() -> None:
    alone = render_card(mixture(4, shared=None), None)
    assert "merge_and_unload" not in alone
    assert "hf download" not in alone


def test_metadata_lists_the_datasets_that_something_was_fitted_on() -> None:
    def datasets(facts: CardData) -> str | list[str] | None:
        return metadata(render_card(facts, None)).datasets

    sources = ["bank/task-0", "bank/task-1", "bank/task-2"]
    unpublished, fitted = replace(PLAIN, bank_published=False), replace(PLAIN, fit=FIT)
    assert datasets(PLAIN) == sources
    assert datasets(fitted) == ["me/questions", *sources]
    assert datasets(unpublished) is None
    assert datasets(replace(unpublished, fit=FIT)) == ["me/questions"]
    assert datasets(of_dataset(fitted, private=True)) == sources
    assert datasets(of_dataset(fitted, id="bank/task-1")) == [
        "bank/task-1", "bank/task-0", "bank/task-2",
    ]  # fmt: skip
    same = (neighbor(0, 0.6), neighbor(1, 0.4, dataset="bank/task-0"))
    assert datasets(replace(PLAIN, neighbors=same)) == ["bank/task-0"]
    assert datasets(many(60)) == [f"bank/task-{i}" for i in range(50)]


def test_card_of_a_fitted_adapter_does_not_say_that_it_is_not_trained_on_the_dataset() -> None:
    assert "not trained on it." in render_card(PLAIN, None)
    fitted = render_card(replace(PLAIN, fit=FIT), None)
    assert "**Fitted on 16 rows of the dataset** in its upper layers, starting from a" in fitted
    assert "not trained on it." not in fitted
    assert "the dataset on whose rows it was fitted." in fitted


def test_card_of_a_trained_adapter_says_so_and_lists_the_dataset() -> None:
    facts = replace(PLAIN, training=TRAINING, recipe=Recipe(train=32))
    text = render_card(facts, None)
    assert "**Trained on 32 rows of the dataset**, starting from a weighted combination" in text
    assert "not trained on it." not in text
    assert "Whether it is better than the nearest source adapter" in text  # the base is above
    assert "trained further for 20 steps." in section(text, "Trained on 32 rows")
    assert "| trained (slightly optimistic) | 0.5 |" in text
    assert "--train 32" in text
    assert datasets_of(text)[0] == "me/questions"
    useless = replace(facts, training=replace(TRAINING, steps=0, end=0.25))
    text = render_card(useless, None)
    assert "No training took place" in text
    assert "the adapter stayed as it was." in section(text, "Training tried on 32 rows")
    assert "me/questions" not in datasets_of(text)
    stopped = replace(facts, training=replace(TRAINING, interrupted=True))
    assert "for 20 steps, until it was interrupted." in render_card(stopped, None)


def test_card_of_an_adapter_that_was_fitted_and_trained_says_both_in_this_order() -> None:
    text = render_card(replace(PLAIN, fit=FIT, training=TRAINING), None)
    expected = (
        "**Fitted on 16 rows of the dataset, and then trained on 32 others**, starting from a "
        "weighted combination of"
    )
    assert expected in text
    assert "The fitted adapter was trained further" in section(text, "Trained on 32 rows")


@pytest.mark.parametrize(
    ("check", "unknown"),
    [
        (None, "the base model, the nearest source adapter or a few-shot prompt"),
        (Check(8, 2.5, 0.5, 0.5, 1.0, RIGHT), "the nearest source adapter or a few-shot prompt"),
        (Check(8, 2.5, 0.5, 0.5, 1.0, RIGHT, prompt=0.7, shots=3), "the nearest source adapter"),
    ],
)
def test_card_says_what_the_adapter_was_not_compared_with(
    check: Check | None, unknown: str
) -> None:
    text = section(render_card(replace(PLAIN, check=check), None), "What was not measured")
    assert f"Whether it is better than {unknown} is not known." in text


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
    text = section(render_card(of_dataset(PLAIN, columns=columns), None), "Usage")
    assert ("continues it with a space, the output" in text) is spaced
    assert ("continues it with the output" in text) is not spaced


@pytest.mark.parametrize(("rank", "option"), [(8, ""), (16, ""), (20, "32"), (512, "512")])
def test_vllm_command_allows_the_rank(rank: int, option: str) -> None:
    text = section(render_card(replace(PLAIN, rank=rank), "me/lora"), "Usage")
    (command,) = re.findall(r"```bash\n(.*vllm serve.*)\n", text)
    words = shlex.split(command)
    assert "VLLM_LORA_RESOLVER_HF_REPO_LIST=me/lora" in words
    assert words[words.index("serve") + 1] == "org/base-7b"
    given = words[words.index("--max-lora-rank") + 1] if "--max-lora-rank" in words else ""
    assert given == option


# --- privacy ------------------------------------------------------------------------------------


def test_local_dataset_is_not_named() -> None:
    facts = of_dataset(PLAIN, id=None, revision="sha256:77", private=True)
    text = render_card(facts, None)
    assert not {"me/questions"} & set(datasets_of(text))
    assert "a local dataset" in text
    assert "sha256" not in text
    assert "--dataset DATASET" in section(text, "How to reproduce it")


def test_private_dataset_is_not_named() -> None:
    facts = of_dataset(replace(PLAIN, fit=FIT), private=True)
    text = render_card(facts, "me/lora") + render_chart(facts)
    assert "me/questions" not in text
    assert "d" * 40 not in text
    assert "`main`" not in text
    assert "a private dataset" in text
    assert metadata(text).eval_results is None


def test_invalid_hub_ids_are_left_out_of_the_metadata() -> None:
    for bad in (
        "../data/train.jsonl",
        "/home/me/x",
        "a/b/c",
        "a/../b",
        "a\nb/c",
        "x" * 97,
        "a/b\n",
    ):
        used = (neighbor(0, 1.0, dataset=bad),)
        facts = replace(PLAIN, base_model=bad, neighbors=used, fit=FIT)
        text = render_card(of_dataset(facts, id=bad), None)
        data = metadata_fields(text)
        assert data["tags"] == ["lora", "hf-lorameta", "arxiv:2507.01806"], bad
        assert not {"datasets", "base_model", "base_model_relation"} & set(data), bad


def test_unpublished_bank_is_not_linked() -> None:
    text = render_card(replace(PLAIN, bank_published=False), None)
    assert "`bank/task-0`" in text
    assert "huggingface.co/bank" not in text
    assert "huggingface.co/datasets/bank" not in text
    assert "this card's metadata" not in text


# --- similarity to the bank ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "usual", "expected"),
    [
        (0.1, 0.2, "0.2 from its nearest neighbor; this distance is no larger."),
        (0.2, 0.2, "this distance is no larger."),
        (0.3, 0.2, "this distance is 1.5 times as large"),
        (0.3, 0.2, "a loosely related dataset."),
        (0.32, 0.2, "1.6 times as large: no dataset of the bank is close to this one."),
        (0.6, 0.2, "3.0 times as large"),
        (0.6, 0.2, "Expect little"),
        (0.0, 0.2, "it may be the same dataset"),
        (0.6, 0.0, "too small to tell"),
        (0.6, math.nan, "too small to tell"),
        (0.6, math.inf, "too small to tell"),
    ],
)
def test_card_describes_the_distance_to_the_nearest_dataset(
    distance: float, usual: float, expected: str
) -> None:
    used = (neighbor(0, 0.9, distance=5.0), neighbor(1, 0.1, distance=distance))
    facts = replace(PLAIN, neighbors=used, nearest_in_bank=usual)
    text = section(render_card(facts, None), "Similarity to the bank")
    assert facts.nearest is used[1]
    assert "`bank/task-1`" in text
    assert expected in " ".join(text.split())
    assert "![Bar chart of the coefficients](neighbors.svg)" in text
    checked = replace(facts, check=Check(8, 2.5, 0.5, 0.5, 1.0, RIGHT))
    assert "Expect little" not in render_card(checked, None)


# --- tables -------------------------------------------------------------------------------------


def test_table_has_twenty_neighbors_and_sums_up_the_others() -> None:
    facts = many(25)
    text = section(render_card(facts, None), "Source adapters")
    assert len(rows_of(text)) == 2 + 20
    rest = sum(n.coefficient for n in facts.neighbors[20:])
    assert f"The other 5 adapters have coefficients that sum to {rest:.4f}." in text
    assert "The other" not in render_card(many(20), None)


def test_recipe_table_lists_every_setting() -> None:
    facts = replace(PLAIN, recipe=Recipe(metric="wd", top_k=2, coefficients="neural", seed=7))
    settings = dict(rows_of(section(render_card(facts, None), "Recipe")))
    assert settings["Metric"] == "1-Wasserstein distance on token ids"
    assert settings["Coefficients"].startswith("neural: ")
    assert settings["Adapters kept"] == "the 2 largest coefficients"
    assert settings["Seed"] == "7"
    bare = of_dataset(PLAIN, config=None, revision="", split="")
    settings = dict(rows_of(section(render_card(bare, None), "Recipe")))
    assert not {"Configuration", "Dataset revision", "Split"} & set(settings)


# --- commands -----------------------------------------------------------------------------------


def test_reproduce_command_is_quoted_for_the_shell() -> None:
    columns = Columns(input="my question", output="a'b")
    facts = of_dataset(replace(PLAIN, bank_id=EMBEDDED_BANK), columns=columns)
    (block,) = re.findall(
        r"```bash\n(hf-lorameta generate.*?)\n```", render_card(facts, None), re.DOTALL
    )
    command = shlex.split(block.replace("\\\n", " "))
    assert command == model_card.reproduce_command(facts)
    assert command[:2] == ["hf-lorameta", "generate"]
    assert dict(zip(command[2::2], command[3::2], strict=True)) == {
        "--dataset": "me/questions",
        "--revision": "d" * 40,
        "--base": "org/base-7b",  # the default bank is for another one
        "--config": "main",
        "--split": "train",
        "--columns": "input=my question,output=a'b",
        "--bank-revision": "e" * 40,
        "--metric": "kl",
        "--coefficients": "normalized",
        "--temperature": "0.5",
        "--output": "my-adapter",
        "--budget": "0",
    }


def test_a_dataset_is_shown_with_its_title_if_the_bank_states_one() -> None:
    titled = replace(neighbor(0, 1.0), title="Requests | their intent")
    text = render_card(replace(PLAIN, neighbors=(titled,)), None)
    dataset = rows_of(section(text, "Source adapters"))[-1][0]
    assert dataset.endswith(": Requests \\| their intent")


def test_cli_parses_the_commands_on_the_card() -> None:
    typer = pytest.importorskip("typer")
    app = typer.main.get_command(pytest.importorskip("hf_lorameta.cli.app").app)
    recipe = Recipe(
        metric="wd", coefficients="attentional", combine="factors", top_k=3, temperature=2,
        rank=8, dtype="float32", seed=1, max_rows=9, fit=8,
        output_prior=0.25,
    )  # fmt: skip
    text = render_card(replace(PLAIN, recipe=recipe), "me/lora")
    for block in re.findall(r"```bash\n(hf-lorameta .*?)\n```", text, re.DOTALL):
        _, name, *arguments = shlex.split(block.replace("\\\n", " "))
        parsed = app.commands[name].make_context(name, arguments).params
        assert parsed["dataset"] == "me/questions"
        if name == "generate":
            fields = {field: parsed[field] for field in Recipe.model_fields}
            assert Recipe(**{k: v for k, v in fields.items() if v is not None}) == recipe


def test_card_shows_the_probabilities_of_a_fit() -> None:
    text = render_card(replace(PLAIN, fit=FIT), None)
    fitted = section(text, "Fitted on 16 rows")
    assert "All projections of attention and MLP in the last 6 layers were trained" in fitted
    assert "Probability of an output token, the mean over the 4 rows" in fitted
    probabilities = dict(rows_of(fitted))
    assert probabilities["before the fit"] == "0.25"
    assert probabilities["fitted (slightly optimistic)"] == "0.75"
    assert "Dataset it is fitted on" in text
    useless = render_card(replace(PLAIN, fit=replace(FIT, end=0.25, steps=0)), None)
    tried = section(useless, "Fit tried on 16 rows")
    assert "the adapter stayed as it was" in tried
    assert [name for name, _ in rows_of(tried)][-1] == "before the fit"
    assert "No training took place" in useless
    assert "fitted" not in render_card(PLAIN, None)


def test_negative_coefficients_have_another_color() -> None:
    neighbors = (neighbor(0, 1.5), neighbor(1, -0.25))
    assert render_chart(replace(PLAIN, neighbors=neighbors)).count('fill="#718096"') == 1


def test_reproduce_command_does_not_name_a_bank_folder() -> None:
    command = model_card.reproduce_command(replace(PLAIN, bank_id="/home/me/bank"))
    assert command[command.index("--bank") + 1] == "BANK"
