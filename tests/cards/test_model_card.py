"""The card and the picture: pinned whole, valid for the Hub, and closed to what names try."""

import math
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.bank.index import EMBEDDED_BANK
from hf_lorameta.cards import chart, markdown, model_card
from hf_lorameta.cards.card_data import CardData, WeightedAdapter
from hf_lorameta.cards.chart import render_chart
from hf_lorameta.cards.licenses import HUB_LICENSES, license_of
from hf_lorameta.cards.model_card import render_card
from hf_lorameta.cards.scores_section import MeasuredScores, with_scores
from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.localhub import cards as hub_rules
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine.results import Refinement, Validation

PINNED = Path(__file__).parent / "card.txt"  # not .md: ruff formats the code in those
SVG = "{http://www.w3.org/2000/svg}"


def neighbor(index: int, coefficient: float, **changes: object) -> WeightedAdapter:
    plain = WeightedAdapter(
        adapter=f"bank/lora-{index}",
        adapter_revision=f"{index:040x}",
        dataset=f"bank/task-{index}",
        dataset_revision=f"{index + 256:040x}",
        license="apache-2.0",
        distance=0.1 * (index + 1),
        coefficient=coefficient,
    )
    return replace(plain, **changes)


PLAIN = CardData(
    base_model="org/base-7b",
    base_revision="b" * 40,
    base_license="apache-2.0",
    dataset_id="me/questions",
    dataset_revision="d" * 40,
    dataset_config="main",
    dataset_split="train",
    columns="input=question, output=answer",
    rows=1234,
    tokens=56789,
    dataset_license="cc-by-4.0",
    dataset_private=False,
    bank_id="org/bank",
    bank_revision="e" * 40,
    bank_size=3,
    bank_published=True,
    neighbors=(neighbor(0, 0.6), neighbor(1, 0.3), neighbor(2, 0.1)),
    effective_number=2.17,
    nearest_in_bank=0.08,
    rank=16,
    dtype="bfloat16",
    warnings=("the dataset has 12 rows_only [see] <docs>",),
    recipe=Recipe(metric="kl", coefficients="normalized", temperature=0.5),
    library_version="0.1.0",
)


def many(count: int) -> CardData:
    """Facts with `count` neighbors whose coefficients fall and sum to one."""
    weights = [1 / (i + 1) for i in range(count)]
    used = tuple(neighbor(i, w / sum(weights)) for i, w in enumerate(weights))
    return replace(PLAIN, neighbors=used, bank_size=count)


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


# --- the whole card -----------------------------------------------------------------------------


def test_the_whole_card_is_pinned() -> None:
    assert render_card(PLAIN, "me/questions-lora") == PINNED.read_text(encoding="utf-8")


def test_the_card_loads_back_and_the_hub_takes_it() -> None:
    text = render_card(PLAIN, "me/questions-lora")
    data = ModelCard(text).data
    assert str(ModelCard(text)) == text
    assert hub_rules.check(text, "model") == ([], [])
    assert data.to_dict() == {
        "base_model": "org/base-7b",
        "base_model_relation": "adapter",
        "datasets": ["me/questions"],
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "hf-lorameta", "base_model:adapter:org/base-7b", "arxiv:2507.01806"],
    }


def test_sections_come_in_their_order() -> None:
    titles = re.findall(r"^## (.+)$", render_card(PLAIN, None), re.MULTILINE)
    assert titles == [
        "How to use it",
        "How near the bank comes",
        "The adapters it is made of",
        "Recipe",
        "Licenses",
        "What was not measured",
        "Warnings of the run",
        "How to make it again",
        "Citation",
    ]


def test_facts_are_frozen_and_need_a_neighbor() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.rank = 8  # type: ignore[misc]
    with pytest.raises(LoraMetaError, match="at least one adapter used, got none"):
        replace(PLAIN, neighbors=())


def test_a_local_folder_gets_placeholders() -> None:
    text = render_card(PLAIN, None)
    assert 'PeftModel.from_pretrained(model, "path/to/this/folder")' in text
    assert "hf-lorameta evaluate FOLDER --dataset me/questions" in text
    assert "\n# LoRA adapter\n" in text


def test_the_loading_code_is_python() -> None:
    quote = replace(PLAIN, base_model='a"); import os  #')
    for facts in (PLAIN, replace(PLAIN, base_revision=None), quote):
        (block,) = re.findall(r"```python\n(.*?)```", render_card(facts, "me/x"), re.DOTALL)
        compile(block, "card", "exec")
        assert 3 <= len(block.split("\n\n")[1].splitlines()) <= 5
    assert "import os" in block
    assert not re.search(r"^\s*import os", block, re.MULTILINE)


# --- what must not be said ----------------------------------------------------------------------


def test_a_local_dataset_is_never_named() -> None:
    facts = replace(PLAIN, dataset_id=None, dataset_revision="sha256:77", dataset_private=True)
    text = render_card(facts, None)
    assert "datasets" not in ModelCard(text).data.to_dict()
    assert "a local dataset" in text
    assert "sha256" not in text
    assert "--dataset DATASET" in section(text, "How to make it again")


def test_a_private_dataset_is_never_named() -> None:
    warned = ("me/questions has few rows",)
    facts = replace(PLAIN, dataset_private=True, warnings=warned)
    text = render_card(facts, "me/lora") + render_chart(facts)
    assert "me/questions" not in text
    assert "d" * 40 not in text
    assert "`main`" not in text
    assert "a private dataset" in text
    assert "- the dataset has few rows" in text
    assert ModelCard(text).data.eval_results is None


def test_an_id_the_hub_would_refuse_stays_out_of_the_metadata() -> None:
    for bad in (
        "../data/train.jsonl",
        "/home/me/x",
        "a/b/c",
        "a/../b",
        "a\nb/c",
        "x" * 97,
        "a/b\n",
    ):
        text = render_card(replace(PLAIN, dataset_id=bad, base_model=bad), None)
        data = ModelCard(text).data.to_dict()
        assert data["tags"] == ["lora", "hf-lorameta", "arxiv:2507.01806"], bad
        assert not {"datasets", "base_model", "base_model_relation"} & set(data), bad


def test_no_clock_and_no_duration() -> None:
    assert render_card(PLAIN, "a/b") == render_card(replace(PLAIN), "a/b")
    assert render_chart(PLAIN) == render_chart(replace(PLAIN))
    assert "seconds" not in {f.name for f in fields(CardData)}


def test_an_unpublished_bank_is_not_linked() -> None:
    text = render_card(replace(PLAIN, bank_published=False), None)
    assert "`bank/task-0`" in text
    assert "huggingface.co/bank" not in text
    assert "huggingface.co/datasets/bank" not in text
    assert "huggingface.co/datasets/bank/task-0/tree/" in render_card(PLAIN, None)


# --- licenses -----------------------------------------------------------------------------------


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
        ("my own terms", ["my own terms"], ("other", "my-own-terms")),
        ("mit\nbase_model: x", ["mit"], ("other", "mit-and-mit-base-model-x")),
    ],
)
def test_license(base: str | None, adapters: list[str | None], expected: tuple[str, str]) -> None:
    facts = licensed(base, *adapters)
    link = None if expected[1] is None else "https://huggingface.co/org/base-7b"
    assert license_of(facts) == (*expected, link)
    text = render_card(facts, None)
    data = ModelCard(text).data
    assert (data.license, data.license_name, data.license_link) == (*expected, link)
    assert hub_rules.check(text, "model") == ([], [])


def test_the_datasets_license_does_not_count() -> None:
    assert license_of(replace(PLAIN, dataset_license="gpl-3.0"))[0] == "apache-2.0"


def test_known_licenses_are_the_hubs() -> None:
    assert HUB_LICENSES | {"other", "unknown"} == hub_rules.LICENSES


def test_licenses_are_counted_and_the_unknown_flagged() -> None:
    text = section(render_card(licensed("mit", "mit", None, "mit", "x|y"), None), "Licenses")
    assert "- Base model: `mit`\n" in text
    assert "- Adapters used: `mit` (2), <code>x&#124;y</code> (1), unknown (1)\n" in text
    assert "Unknown means" in text
    assert "Unknown means" not in render_card(PLAIN, None)


# --- nearness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "usual", "expected"),
    [
        (0.1, 0.2, "That is as near as datasets of the bank usually are to each other"),
        (0.2, 0.2, "That is as near as"),
        (0.3, 0.2, "1.5 times as far as datasets of the bank usually are from each other"),
        (0.4, 0.2, "related, but loosely"),
        (0.6, 0.2, "3.0 times as far"),
        (0.6, 0.2, "Expect little"),
        (0.0, 0.2, "it may well be the same dataset"),
        (0.6, 0.0, "too small to say"),
        (0.6, math.nan, "too small to say"),
        (0.6, math.inf, "too small to say"),
    ],
)
def test_nearness_in_words(distance: float, usual: float, expected: str) -> None:
    used = (neighbor(0, 0.9, distance=5.0), neighbor(1, 0.1, distance=distance))
    facts = replace(PLAIN, neighbors=used, nearest_in_bank=usual)
    said = section(render_card(facts, None), "How near the bank comes")
    assert facts.nearest is used[1]
    assert "`bank/task-1`" in said
    assert expected in said
    assert "![coefficients](neighbors.svg)" in said


# --- tables -------------------------------------------------------------------------------------


def rows_of(table: str) -> list[list[str]]:
    """Cells of a GFM table, split as GFM does: at pipes that no backslash precedes."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_twenty_neighbors_and_the_rest_in_one_line() -> None:
    facts = many(25)
    text = section(render_card(facts, None), "The adapters it is made of")
    assert len(rows_of(text)) == 2 + 20
    rest = 100 * sum(n.coefficient for n in facts.neighbors[20:])
    assert f"and 5 more, together {rest:.1f} %." in text
    assert " more, together" not in render_card(many(20), None)


def test_recipe_table() -> None:
    facts = replace(PLAIN, recipe=Recipe(metric="wd", top_k=2, coefficients="neural", seed=7))
    told = dict(rows_of(section(render_card(facts, None), "Recipe")))
    assert told["Metric"] == "1-Wasserstein distance on token ids"
    assert told["Coefficients"].startswith("neural: ")
    assert told["Adapters kept"] == "the 2 largest coefficients"
    assert told["Seed"] == "7"
    assert told["Read"] == "1,234 rows, 56,789 tokens"
    assert told["Dataset revision"] == f"`{'d' * 40}`"
    assert told["Bank"] == f"`org/bank` at `{'e' * 40}`, 3 adapters"
    bare = replace(PLAIN, dataset_config=None, dataset_revision=None, dataset_split=None)
    told = dict(rows_of(section(render_card(bare, None), "Recipe")))
    assert not {"Configuration", "Dataset revision", "Split"} & set(told)


MEASURED = MeasuredScores(
    dataset_id="me/questions",
    dataset_revision="d" * 40,
    dataset_config="main",
    dataset_split="test",
    dataset_private=False,
    rows=1200,
    engine="transformers",
    scores={
        "base": {"loss": 2.25, "rouge_l": 0.125, "exact_match": 0.0, "contains": 0.25},
        "generated": {"loss": 0.3456789, "rouge_l": 0.5, "exact_match": 0.25, "contains": 0.375},
        "3-shot": {"loss": 0.5, "rouge_l": None, "exact_match": None, "contains": None},
    },
)
CARD = render_card(PLAIN, "me/lora")


def results(text: str) -> list[tuple[object, ...]]:
    found = ModelCard(text).data.eval_results or []
    return [
        (r.dataset_type, r.dataset_config, r.dataset_split, r.metric_type, r.metric_value)
        for r in found
    ]


def test_scores_are_shown_and_this_adapters_are_indexed() -> None:
    text = with_scores(CARD, MEASURED, "me/lora")
    part = section(text, "What was measured")
    assert "### `me/questions` `main`, split `test`" in part
    assert f"datasets/me/questions/tree/{'d' * 40}" in part
    assert "1,200 rows" in part
    assert [line for line in part.splitlines() if line.startswith("| `")] == [
        "| `base` | 2.25 | 0.125 | 0 | 0.25 |",
        "| `generated` | 0.3457 | 0.5 | 0.25 | 0.375 |",
        "| `3-shot` | 0.5 | – | – | – |",
    ]
    place = ("me/questions", "main", "test")
    assert results(text) == [
        (*place, "loss", 0.3456789), (*place, "rouge", 0.5), (*place, "exact_match", 0.25),
    ]  # fmt: skip
    assert {r.dataset_revision for r in ModelCard(text).data.eval_results} == {"d" * 40}
    assert ModelCard(text).data.model_name == "me/lora"
    assert "not evaluated" not in text
    assert "Nothing but the values above" in section(text, "What was not measured")
    assert "hf-lorameta evaluate me/lora" in section(text, "What was not measured")
    assert hub_rules.check(text, "model") == ([], [])


def test_the_rest_of_the_card_stays_as_it_was() -> None:
    text = with_scores(CARD, MEASURED, "me/lora")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    before = re.findall(r"^## (.+)$", CARD, re.MULTILINE)
    assert titles == [
        *before[: before.index("What was not measured")],
        "What was measured",
        *before[before.index("What was not measured") :],
    ]
    for title in set(before) - {"What was not measured"}:
        assert section(text, title) == section(CARD, title)
    old, new = ModelCard(CARD).data.to_dict(), ModelCard(text).data.to_dict()
    assert {name: new[name] for name in old} == old
    assert set(new) - set(old) == {"model-index"}


def test_scoring_again_replaces_and_other_datasets_stay() -> None:
    again = replace(
        MEASURED, dataset_revision="e" * 40, rows=7, scores={"generated": {"loss": 0.25}}
    )
    other = replace(MEASURED, dataset_id="you/others", dataset_config=None)
    text = with_scores(CARD, MEASURED, "me/lora")
    assert with_scores(text, MEASURED, "me/lora") == text
    text = with_scores(with_scores(text, other, "me/lora"), again, "me/lora")
    part = section(text, "What was measured")
    assert (part.count("### `me/questions`"), part.count("### `you/others`")) == (1, 1)
    assert "1,200 rows" in part  # of the other
    assert "| `generated` | 0.25 | – | – | – |" in part
    assert sorted({found[:1] + found[3:] for found in results(text)}) == [
        ("me/questions", "loss", 0.25),
        ("you/others", "exact_match", 0.25),
        ("you/others", "loss", 0.3456789),
        ("you/others", "rouge", 0.5),
    ]
    assert text.count("Nothing but the values above") == 1


@pytest.mark.parametrize("hidden", [{"dataset_private": True}, {"dataset_id": None}])
def test_scores_on_a_private_dataset_do_not_name_it(hidden: dict[str, object]) -> None:
    before = render_card(replace(PLAIN, **hidden), "me/lora")
    text = with_scores(before, replace(MEASURED, **hidden), "me/lora")
    assert "### a local or private dataset, split `test`" in text
    assert "| `generated` | 0.3457 |" in text
    assert not re.search(r"me/questions|d{40}|`main`", text)
    assert "model-index" not in text


def test_a_card_its_owner_rewrote_gets_the_scores_at_its_end() -> None:
    text = with_scores("---\nlicense: mit\n---\nMine alone.", MEASURED, None)
    assert text.index("Mine alone.") < text.index("## What was measured")
    assert len(results(text)) == 3
    with pytest.raises(AdapterError, match="metadata cannot be read"):
        with_scores("---\nlicense: [\n---\n", MEASURED, None)


def test_what_is_not_a_number_is_not_indexed() -> None:
    odd = replace(MEASURED, scores={"generated": {"loss": math.nan, "exact_match": math.inf}})
    assert results(with_scores(CARD, odd, None)) == []


@given(st.text(max_size=20))
def test_names_of_a_scored_dataset_break_nothing(text: str) -> None:
    odd = replace(
        MEASURED, dataset_id=text, dataset_config=text, dataset_split=text, engine=text,
        scores={text: {"loss": 1.0}, "generated": {"loss": 1.0}},
    )  # fmt: skip
    written = with_scores(CARD, odd, "me/lora")
    assert re.findall(r"^## (.+)$", written, re.MULTILINE)[-1] == "Citation"
    assert written.count("\n### ") == 1
    assert hub_rules.check(written, "model")[0] == []


def test_unmeasured_is_said_with_the_command() -> None:
    text = render_card(PLAIN, "me/lora")
    assert ModelCard(text).data.eval_results is None
    assert "was not evaluated" in section(text, "What was not measured")
    assert "\nhf-lorameta evaluate me/lora --dataset me/questions\n" in text


# --- the command --------------------------------------------------------------------------------


def test_the_command_on_the_card_is_the_one_that_is_meant() -> None:
    facts = replace(PLAIN, columns="input=my question, output=a'b", bank_id=EMBEDDED_BANK)
    (block,) = re.findall(
        r"```bash\n(hf-lorameta generate.*?)\n```", render_card(facts, None), re.DOTALL
    )
    command = shlex.split(block.replace("\\\n", " "))
    assert command == model_card.reproduce_command(facts)
    assert command[:2] == ["hf-lorameta", "generate"]
    assert dict(zip(command[2::2], command[3::2], strict=True)) == {
        "--dataset": "me/questions",
        "--revision": "d" * 40,
        "--config": "main",
        "--split": "train",
        "--columns": "input=my question,output=a'b",
        "--bank-revision": "e" * 40,
        "--metric": "kl",
        "--coefficients": "normalized",
        "--temperature": "0.5",
        "--output": "my-adapter",
    }


def test_the_command_line_takes_the_commands_on_the_card() -> None:
    typer = pytest.importorskip("typer")
    app = typer.main.get_command(pytest.importorskip("hf_lorameta.cli.app").app)
    recipe = Recipe(
        metric="wd", coefficients="attentional", combine="factors", top_k=3, temperature=2,
        rank=8, dtype="float32", seed=1, max_rows=9, refine=8, refiner="search",
    )  # fmt: skip
    text = render_card(replace(PLAIN, recipe=recipe), "me/lora")
    for block in re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL):
        _, name, *arguments = shlex.split(block.replace("\\\n", " "))
        asked = app.commands[name].make_context(name, arguments).params
        assert asked["dataset"] == "me/questions"
        if name == "generate":
            assert {field: asked[field] for field in Recipe.model_fields} == recipe.model_dump()


def test_a_fit_on_rows_is_told_with_its_losses() -> None:
    fit = Refinement("gradient", 16, 2.5, 1.75, 0.5, 0.625, 3, (1.75, 0.625, 0.5))
    neighbors = (neighbor(0, 1.5), neighbor(1, -0.25))
    text = render_card(replace(PLAIN, refinement=fit, neighbors=neighbors), None)
    told = section(text, "Fitted on 16 rows")
    losses = dict(rows_of(told))
    assert losses["base model"] == "2.5"
    assert losses["coefficients from the distances alone"] == "1.75"
    assert losses["this adapter, fitted on them"] == "0.5"
    assert "0.625" in losses.values()
    assert "They sum to 1.25, and 1 of 2 are negative" in " ".join(told.split())
    assert "of its own" not in told
    apart = render_card(replace(PLAIN, refinement=replace(fit, by_module=True)), None)
    told = " ".join(section(apart, "Fitted on 16 rows").split())
    assert "Each adapted module has coefficients of its own" in told
    assert "Fitted" not in render_card(PLAIN, None)
    picture = render_chart(replace(PLAIN, neighbors=neighbors))
    assert picture.count('fill="#718096"') == 1


def test_another_engine_is_told_and_named_in_the_command() -> None:
    fit = Refinement("search", 16, 2.5, 1.75, 0.5, 0.625, 3, (1.75, 0.5), engine="llama.cpp")
    check = Validation(8, 2.5, 0.5, 0.5, 1.0, engine="llama.cpp")
    recipe = Recipe(refine=16, refiner="search", check=8)
    for change in ({"refinement": fit}, {"check": check}, {"refinement": fit, "check": check}):
        facts = replace(PLAIN, recipe=recipe, **change)
        text = render_card(facts, None)
        if "refinement" in change:
            told = section(text, "Fitted on 16 rows")
            assert "Loss, as llama.cpp computes it, of these rows, in nats a token" in told
        if "check" in change:
            told = section(text, "Checked on 8 rows")
            assert "Loss, as llama.cpp computes it, on 8 rows of the dataset" in told
        again = section(text, "How to make it again")
        assert "--engine llama.cpp" in again
        assert "--base-gguf BASE.gguf" in again
        found = model_card.reproduce_command(replace(facts, bank_id=EMBEDDED_BANK))
        assert "--engine" in found
        assert "--base-gguf" not in found
    here = replace(PLAIN, recipe=recipe, refinement=replace(fit, engine="transformers"))
    text = render_card(here, None)
    assert "Loss of these rows, in nats a token" in section(text, "Fitted on 16 rows")
    assert "--engine" not in text


def test_a_bank_folder_is_not_named() -> None:
    command = model_card.reproduce_command(replace(PLAIN, bank_id="/home/me/bank"))
    assert command[command.index("--bank") + 1] == "BANK"


# --- hostile names ------------------------------------------------------------------------------

HOSTILE = (
    "a|b",
    "a\nb",
    "a\r\n\n# Title\n\nb",
    "`code` ``x``",
    "</svg><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "]]>&lt;",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/p.png)",
    "a\\|b\\",
    "---\nlicense: mit\n---",
    "```\nrm -rf /\n```",
    "\u202eevil\u2066",
    "\ud800",
    "\x00\x1b[31m",
    "\ufffe",
    "<!--",
    "$(rm -rf /)",
    "**b** _i_ ~~s~~ $x$",
    "| - | - |",
    "- item",
    "1. item",
    "",
)


def attacked(text: str) -> CardData:
    bad = neighbor(
        0, 1.0, adapter=text, dataset=text, license=text, adapter_revision=text,
        dataset_revision=text,
    )  # fmt: skip
    return replace(
        PLAIN, base_model=text, base_revision=text, base_license=text, dataset_id=text,
        dataset_revision=text, dataset_config=text, dataset_split=text, columns=text,
        dataset_license=text, bank_id=text, bank_revision=text, neighbors=(bad,), dtype=text,
        warnings=(text,), library_version=text,
    )  # fmt: skip


def outline(text: str) -> list[str]:
    """What gives a card its shape: headings, fences, table rows by their number of cells."""
    shape = []
    for line in text.splitlines():
        if re.match(r"\s{0,3}(#|```|---|- )", line):
            shape.append(line.split()[0])
        elif line.lstrip().startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            shape.append(f"{len(cells)} cells")
    return shape


def check_attack(text: str) -> None:
    facts = attacked(text)
    written = render_card(facts, text)
    body = ModelCard(written).text
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    prose = re.sub(r"`[^`\n]+`", "", prose)
    tags = set(re.findall(r"<[^>]*>?", prose))
    assert tags <= {"<code>", "</code>"}
    assert not re.search(r"(?<!\\)!\[(?!coefficients\])", prose)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", written)
    assert not re.search(r"(?<!\\)\]\((?!https://huggingface\.co/|neighbors\.svg)", prose)
    assert len(re.findall("^```", body, re.MULTILINE)) == 8
    assert hub_rules.check(written, "model") == ([], [])
    plain = "calm" if markdown.is_hub_id(text) else "calm words"
    calm = outline(ModelCard(render_card(attacked(plain), plain)).text)
    if markdown.clean(text):
        assert outline(body) == calm
    else:  # empty values drop their rows
        assert set(outline(body)) <= set(calm)
    written.encode("utf-8")

    drawn = render_chart(facts)
    root = ET.fromstring(drawn)
    assert {e.tag.removeprefix(SVG) for e in root.iter()} == {
        "svg", "title", "desc", "style", "rect", "text",
    }  # fmt: skip
    drawn.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text: str) -> None:
    check_attack(text)


@given(
    st.text(alphabet=st.sampled_from("a1 .-_|`<>&\\\n\r[]()!#*~$'\"{}:/\u2028\ud800é"), max_size=12)
)
def test_no_text_breaks_out(text: str) -> None:
    check_attack(text)


def test_ordinary_names_stay_readable() -> None:
    assert markdown.code("org/some_model-v0.2") == "`org/some_model-v0.2`"
    assert markdown.code("a|b") == "<code>a&#124;b</code>"
    assert markdown.prose("0.5 of my_rows are new") == "0.5 of my_rows are new"
    assert markdown.prose("1. x") == "&#49;. x"


# --- the picture --------------------------------------------------------------------------------


def test_the_picture_is_self_contained_and_described() -> None:
    drawn = render_chart(many(30))
    root = ET.fromstring(drawn)
    assert root.get("role") == "img"
    ids = {e.get("id") for e in root.iter()}
    assert set((root.get("aria-labelledby") or "").split()) <= ids
    description = root.findtext(f"{SVG}desc") or ""
    assert "task-0: coefficient 0.2503, distance 0.1" in description
    assert not re.search(r"href|url\(|@import|<image|<script|<foreignObject", drawn)
    assert set(re.findall(r"https?://[^\"]+", drawn)) == {"http://www.w3.org/2000/svg"}


def test_bars_follow_the_coefficients() -> None:
    facts = many(30)
    root = ET.fromstring(render_chart(facts))
    widths = [float(r.get("width", "0")) for r in root.findall(f"{SVG}rect")][1:]
    expected = [n.coefficient / facts.neighbors[0].coefficient for n in facts.neighbors[:12]]
    assert [w / widths[0] for w in widths] == pytest.approx(expected, abs=0.002)
    said = [e.text for e in root.findall(f"{SVG}text")]
    assert "task-11" in said
    assert "task-12" not in said
    rest = 100 * sum(n.coefficient for n in facts.neighbors[12:])
    assert f"and 18 more, together {rest:.1f} %" in said
    assert "12 of 30 coefficients · distance: Kullback–Leibler divergence" in said


def test_everything_drawn_lies_on_the_panel() -> None:
    for facts in (many(1), many(12), many(13), many(500)):
        root = ET.fromstring(render_chart(facts))
        width, height = float(root.get("width", "0")), float(root.get("height", "0"))
        for element in (*root.findall(f"{SVG}text"), *root.findall(f"{SVG}rect")):
            right = float(element.get("x", "0")) + float(element.get("width", "0"))
            bottom = float(element.get("y", "0")) + float(element.get("height", "0"))
            assert 0 <= right <= width
            assert bottom <= height


def test_long_names_are_cut_in_the_middle() -> None:
    long = "task123_" + "very_" * 20 + "long_question_generation"
    used = (neighbor(0, 1.0, dataset=f"org/{long}"),)
    drawn = render_chart(replace(PLAIN, neighbors=used))
    (label,) = [t for t in re.findall(r">([^<]*)</text>", drawn) if "…" in t]
    assert label.startswith("task123_")
    assert label.endswith("_generation")
    assert chart._cells(label) <= 40
    assert long in drawn  # whole in the description


@given(st.text(max_size=80), st.integers(3, 60))
def test_shortening_fits_and_keeps_the_ends(name: str, cells: int) -> None:
    cut = chart._shortened(name, cells)
    assert chart._cells(cut) <= cells
    if cut != name:
        head, tail = cut.split("…", 1) if "…" not in name else ("", "")
        assert name.startswith(head)
        assert name.endswith(tail)


def test_coefficients_of_zero_are_drawn() -> None:
    facts = replace(PLAIN, neighbors=(neighbor(0, 0.0), neighbor(1, 0.0)))
    ET.fromstring(render_chart(facts))
