"""An adapter of an earlier version, which was fitted before it was trained, can still be used."""

import json
from pathlib import Path

import pytest

from hf_lorameta.pipeline.adapter_folder import COEFFICIENTS_FILE, RECIPE_FILE, read_provenance
from tests.cli.conftest import fake_evaluator
from tests.conftest import Shell

RECIPE = Path(__file__).parent / "recipe_with_fit.json"
"""Written by ``generate numbers.jsonl --fit 16 --train 16 --check 4 --steps 24,12``."""


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """The file that the adapter was made for."""
    rows = [
        {
            "input": f"Is {i} a {'small' if i < 32 else 'large'} number?",
            "output": "odd" if i % 2 else "even",
        }
        for i in range(64)
    ]
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def fitted(cli: Shell, numbers: Path, tmp_path: Path) -> Path:
    """An adapter for the file, with the stored recipe."""
    cli("generate", numbers, "--budget", 0, "-o", "fitted")
    (tmp_path / "fitted" / RECIPE_FILE).write_bytes(RECIPE.read_bytes())
    return tmp_path / "fitted"


def test_it_is_inspected_with_its_fit_and_both_numbers_of_steps(cli: Shell, fitted: Path) -> None:
    shown = " ".join(cli("inspect", fitted).out.split())
    assert "--fit 16 --train 16 --steps 24,12 --check 4" in shown
    assert shown.count("12 rows, 24 steps") == shown.count("12 rows, 12 steps") == 1
    assert "not made by hf-lorameta" not in shown
    provenance = cli("inspect", fitted, "--json").json["provenance"]
    assert provenance == json.loads(RECIPE.read_bytes())


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("dataset", "id", 5), ("dataset", "split", 3), ("dataset", "columns", ["a"]),
        ("recipe", "seed", None), ("recipe", "max_rows", "many"), (None, "recipe", [["rank", 8]]),
        (None, "training", 3), (None, "rows", [1]), (None, "rows", {"pool": "x"}),
        (None, "remarks", ["good"]),
    ],
)  # fmt: skip
def test_a_recipe_that_nobody_wrote_is_not_read(
    tmp_path: Path, part: str | None, field: str, value: object
) -> None:
    """It may be of a stranger's repo: what reads it later must not fail on it."""
    recipe = json.loads(RECIPE.read_bytes())
    (tmp_path / COEFFICIENTS_FILE).write_text("[]")
    (tmp_path / RECIPE_FILE).write_text(json.dumps(recipe))
    assert read_provenance(tmp_path) == (recipe, [])
    (recipe[part] if part else recipe)[field] = value
    (tmp_path / RECIPE_FILE).write_text(json.dumps(recipe))
    assert read_provenance(tmp_path) == (None, [])


def test_it_is_exported(cli: Shell, fitted: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    cli("export", fitted, "-o", "a.gguf")
    assert (tmp_path / "a.gguf").stat().st_size


@pytest.mark.parametrize("merged", [False, True])
def test_rows_of_its_split_are_not_scored_and_others_are(
    cli: Shell, fitted: Path, numbers: Path, tmp_path: Path, merged: bool
) -> None:
    """Which of them it was fitted, trained and checked on is not drawn again."""
    if merged:
        cli("merge", f"{fitted}:0.5", "-o", "merged")
        [part] = json.loads((tmp_path / "merged" / RECIPE_FILE).read_bytes())["adapters"]
        assert part["generated"][0]["recipe"]["fit"] == 16
    evaluate = ("evaluate", tmp_path / "merged" if merged else fitted)
    refused = cli(*evaluate, "-d", numbers, code=3, before=fake_evaluator()).err
    assert "split train" in refused
    assert "--split NAME" in refused
    lines = [json.dumps({"input": f"Is {i} a new number?", "output": "odd"}) for i in range(9)]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    other = cli(*evaluate, "-d", "new.jsonl", before=fake_evaluator())
    assert "| adapter |" in other.out
    assert "not new to it" not in other.err


def test_it_can_be_published(cli: Shell, fitted: Path) -> None:
    push = ("push", "--from", fitted, "--repo-id", "user/odd", "--dry-run", "--json")
    assert cli(*push, token=None).json["private"]
