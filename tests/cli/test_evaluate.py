"""``evaluate`` in child processes, against the loopback Hub, with fixed scores."""

import json
import shutil
from pathlib import Path

import pytest

from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE
from tests.cli.conftest import Published, fake_evaluator
from tests.conftest import BASE, Account, Built, Shell, rows

# --- the base model -----------------------------------------------------------------------------

RECORD_LOCATE = """
import hf_lorameta.pipeline.evaluate as b
from hf_lorameta.errors import NotFoundError
def locate(*args):
    raise NotFoundError(f"located {args}")
b.locate = locate
"""


def test_evaluate_loads_the_base_model_at_the_adapters_revision(
    cli: Shell, bank: Built, data: Path
) -> None:
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "a")
    commit = cli.hub.commits(BASE)[0].sha
    command = ("evaluate", "a", "-d", data, "--token", "hf_x")
    message = cli(*command, before=RECORD_LOCATE, code=6).err
    assert f"located ('{BASE}', '{commit}', 'hf_x')" in message


def test_evaluate_shows_scores_and_what_they_mean_and_leaves_the_repo_alone(
    cli: Shell, published: Published
) -> None:
    repo, dataset = published
    count = len(cli.hub.commits(repo))
    done = cli("evaluate", repo, "-d", dataset, before=fake_evaluator())
    assert "| adapter | 0.500 |" in done.out
    assert "  adapter: loss 0.500\n" in done.err
    legend = "base: the base model; 3-shot: it with 3 examples in the prompt"
    assert f"\n{legend}; loss: nats per token" in done.err
    assert len(cli.hub.commits(repo)) == count


def test_a_file_among_the_adapters_is_advised_as_the_dataset(cli: Shell, data: Path) -> None:
    done = cli("evaluate", "a", data, code=2)
    assert "rows.jsonl is a file" in done.err
    assert f"Next:  hf-lorameta evaluate a --dataset {data}\n" in done.err


# --- rows ---------------------------------------------------------------------------------------


def test_columns_and_split_come_from_the_adapters_recipe(
    cli: Shell, bank: Built, user: Account
) -> None:
    lines = [{"title": f"bread {i}", "kind": "egg salt"[:3], "note": "x"} for i in range(30)]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    dataset = user.dataset("own", {"train.jsonl": content, "validation.jsonl": content})
    generate = ("generate", "-d", dataset, "--columns", "input=title,output=kind")
    cli(*generate, "--bank", bank.folder, "-o", "a")
    messages = cli("evaluate", "a", before=fake_evaluator()).err
    assert "30 rows of split validation" in messages
    few = cli("evaluate", "a", "--max-rows", 30, "--shots", 0, before=fake_evaluator()).err
    assert "rows to score" not in few
    assert "few-shot" not in few
    assert "Warning" not in messages
    messages = cli("evaluate", "a", "--split", "train", "-q", before=fake_evaluator()).err
    warning = "An adapter was generated for split train: its rows are not new to it."
    assert messages == f"Warning: {warning}\n"
    other = user.dataset("other", {"test.jsonl": rows(1)})
    messages = cli("evaluate", "a", "-d", other, before=fake_evaluator()).err
    assert "input=input,output=output" in messages
    assert "3 other rows of split test" in messages


def test_the_commit_of_the_dataset_comes_from_the_adapters_recipe(
    cli: Shell, published: Published
) -> None:
    cli.hub.commit(published.dataset, {"test.jsonl": rows(1, 5)}, repo_type="dataset")
    assert "Scoring 9 rows" in cli("evaluate", published.repo, before=fake_evaluator()).err
    newest = ("--revision", "main")
    assert "Scoring 5 rows" in cli("evaluate", published.repo, *newest, before=fake_evaluator()).err


SHOW_ROWS = """
import collections, sys
outputs = collections.Counter(output for _, output in rows)
examples = collections.Counter(shot.split()[-1] for shot in rows[0][0].split("\\n\\n")[:-1])
print("scored", sorted(outputs.items()), "shots", sorted(examples.items()), file=sys.stderr)
"""


def test_scored_rows_and_examples_of_a_sorted_dataset_are_of_all_labels(
    cli: Shell, bank: Built, user: Account
) -> None:
    """Labels are sorted, over several files of a split."""
    parts = [("say", "sun", 0), ("rain", "sun", 1), ("wind", "snow", 2), ("milk", "snow", 3)]
    files = {
        f"data/{split}-{part}.jsonl": b"".join(
            json.dumps({"input": f"{split} {word} {i}", "output": label}).encode() + b"\n"
            for i in range(400)
        )
        for split in ("train", "test")
        for word, label, part in parts
    }
    dataset = user.dataset("sorted", files)
    cli("generate", "-d", dataset, "--bank", bank.folder, "-o", "a")
    show = "exec(" + repr(SHOW_ROWS) + ")"
    command = ("evaluate", "a", "--max-rows", 20, "--shots", 4)
    messages = cli(*command, before=fake_evaluator(show)).err
    assert "scored [('snow', 10), ('sun', 10)] shots [('snow', 2), ('sun', 2)]" in messages
    assert messages == cli(*command, before=fake_evaluator(show)).err


# --- several adapters ---------------------------------------------------------------------------


@pytest.fixture
def two(cli: Shell, bank: Built, published: Published) -> Published:
    """The repo of an adapter, beside a folder ``b`` with another one for the same dataset."""
    cli("generate", "-d", published.dataset, "--bank", bank.folder, "--rank", 1, "-o", "b")
    return published


def test_several_adapters_are_in_one_table_under_their_names(cli: Shell, two: Published) -> None:
    repo, dataset = two
    result = cli("evaluate", repo, "b", "--json", before=fake_evaluator()).json
    losses = {name: scores["loss"] for name, scores in result["scores"].items()}
    assert losses == {"base": 2.0, repo: 0.5, "b": 0.25, "3-shot": 1.0}
    assert set(result["samples"][0]["outputs"]) == set(losses)
    assert set(result) == {"scores", "samples"}
    config = json.loads((cli.cwd / "b" / CONFIG_FILE).read_bytes())
    config["base_model_name_or_path"] = BASE.upper()  # ids of the Hub ignore case
    (cli.cwd / "b" / CONFIG_FILE).write_text(json.dumps(config))
    done = cli("evaluate", repo, "b", "-d", dataset, "--shots", 1, before=fake_evaluator())
    assert f"| {repo} | 0.500 |" in done.out
    assert "| b " in done.out
    assert "1-shot: it with 1 example" in done.err


def test_rows_that_an_adapter_or_a_part_of_a_merge_was_fitted_on_are_not_scored(
    cli: Shell, two: Published, tmp_path: Path
) -> None:
    recipe = json.loads((tmp_path / "b" / RECIPE_FILE).read_bytes())
    recipe["recipe"]["check"] = 4
    recipe["rows"] = {"pool": 12, "train": 0, "held_out": 0, "check": 4}
    (tmp_path / "b" / RECIPE_FILE).write_text(json.dumps(recipe))
    cli("merge", "b:1", "-o", "once")
    cli("merge", "once:0.5", "-o", "twice")
    for adapters in ((two.repo, "b"), ("twice",)):
        command = ("evaluate", *adapters, "--split", "train", "--shots", 0)
        messages = cli(*command, before=fake_evaluator()).err
        assert "Skipping 4 rows" in messages
        assert "for split train" in messages
    recipe["dataset"]["split"] = 3
    (tmp_path / "b" / RECIPE_FILE).write_text(json.dumps(recipe))
    evaluate = ("evaluate", "b", "-d", two.dataset, "--shots", 0)
    messages = cli(*evaluate, before=fake_evaluator()).err
    assert "recipe.json" in messages


def test_adapters_that_cannot_be_in_one_table_are_refused(
    cli: Shell, two: Published, bank: Built, user: Account, data: Path, tmp_path: Path
) -> None:
    evaluate = ("evaluate", "b", "--json")
    missing = cli("evaluate", two.repo, "no-such", "b", "-d", two.dataset, code=5).err
    assert "no-such" in missing
    assert "named twice" in cli(*evaluate, "b", code=2).err
    shutil.copytree(tmp_path / "b", tmp_path / "base")
    assert "./base" in cli(*evaluate, "base", code=2).err
    cli(*evaluate, "./base", before=fake_evaluator())
    cli("generate", "-d", data, "--bank", bank.folder, "-o", "c")
    different = cli(*evaluate, "c", code=2).err
    assert f"a local or private one, {two.dataset}" in different
    assert "--dataset" in different
    config = json.loads((tmp_path / "c" / CONFIG_FILE).read_bytes())
    config["base_model_name_or_path"] = "other/model"
    (tmp_path / "c" / CONFIG_FILE).write_text(json.dumps(config))
    assert "c is for other/model" in cli(*evaluate, "c", code=5).err
    config["base_model_name_or_path"] = None
    (tmp_path / "c" / CONFIG_FILE).write_text(json.dumps(config))
    assert cli("evaluate", "c", "-d", data, code=2).err
    scaled = config | {"base_model_name_or_path": BASE, "alpha_pattern": {"q_proj": 2}}
    (tmp_path / "c" / CONFIG_FILE).write_text(json.dumps(scaled))
    cli("evaluate", "c", "-d", data, before=fake_evaluator())  # PEFT applies the pattern
    (tmp_path / "c" / CONFIG_FILE).write_text(json.dumps(config | {"use_dora": True}))
    assert "c: use_dora is set" in cli(*evaluate, "c", code=5).err
