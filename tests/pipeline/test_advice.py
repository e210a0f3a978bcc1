"""The advice at the end of a plan."""

import json
from pathlib import Path

import pytest

from hf_lorameta import Recipe, plan
from hf_lorameta.bank.bank import Bank
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.pipeline import automatic, budget
from hf_lorameta.pipeline.automatic import NO_BASE
from hf_lorameta.pipeline.budget import (
    advise,
    forward_passes,
    measure_operations,
    training_seconds,
)
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.session import Session
from tests.conftest import Shell


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose products take no time, and that has the extra eval."""
    monkeypatch.setattr(budget, "measure_operations", lambda: 1e15)
    monkeypatch.setattr(automatic, "require_eval", lambda: None)


def of_labels(rows: int) -> Plan:
    labels = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(rows)]
    return plan(labels, Bank.embedded())


def planned(folder: Path, output: str | None, rows: int = 30) -> Plan:
    lines = [
        {"input": f"Question {i}?"} | ({} if output is None else {"output": f"{output} {i}"})
        for i in range(rows)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return plan(path, Bank.embedded())


def test_training_is_advised_on_as_many_rows_as_there_are_up_to_100(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows, trained in ((99, 99), (101, 100)):
        text = f"--train {trained} takes at most about 0 s on this CPU"
        of = planned(tmp_path, "yes", rows)
        assert advise(of, Session()) == text
    speed = training_seconds(of, 100, 1.0) / 7200
    monkeypatch.setattr(budget, "measure_operations", lambda: speed)
    assert advise(of, Session()) == "--train 100 takes at most about 2.0 h on this CPU"


def test_a_fit_is_advised_for_labels_and_leaves_rows_to_check_on() -> None:
    for rows, fitted in ((50, 34), (400, 300)):
        text = f"--fit {fitted} takes at most about 0 s on this CPU"
        assert advise(of_labels(rows), Session()) == text
    assert str(advise(of_labels(20), Session())).startswith("--train 20 takes")


def test_the_default_is_advised_only_where_it_fits_the_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(automatic, "find_at_hand", lambda name, revision: tmp_path)
    of, few, session = of_labels(80), of_labels(50), Session()
    asked = "--fit 64 takes at most about 0 s on this CPU"
    assert advise(of, session) == asked  # HF_LORAMETA_NO_BASE is set
    monkeypatch.delenv(NO_BASE)
    unasked = "use the default: its fit on 64 rows with labels takes at most about 0 s on this CPU"
    assert advise(of, session) == unasked
    assert advise(of, session, may_fit=False) == asked
    assert advise(of.with_recipe(Recipe(top_k=3)), session) == asked
    assert str(advise(few, session)).startswith("--fit 34 ")

    def missing() -> None:
        raise MissingExtraError("torch is not installed", hint="pip install torch")

    with monkeypatch.context() as patched:
        patched.setattr(automatic, "require_eval", missing)
        assert advise(of, session) == f"{asked}; it needs the extra eval: pip install torch"
    monkeypatch.setattr(automatic, "_LARGEST", -1)
    assert advise(of, session) == asked


@pytest.mark.parametrize("recipe", [Recipe(train=16), Recipe(fit=8, check=8)])
def test_what_the_recipe_says_or_excludes_is_not_advised(recipe: Recipe) -> None:
    assert advise(of_labels(80).with_recipe(recipe), Session()) is None


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    assert "no outputs" in (advice := str(advise(planned(tmp_path, None), Session())))
    assert "Where answers are labels, label 64 rows first" in advice
    assert "too few" in str(advise(planned(tmp_path, "yes", rows=3), Session()))


def test_the_time_follows_from_tokens_and_parameters(tmp_path: Path) -> None:
    of_output = planned(tmp_path, "yes")
    tokens = (of_output.profile.input.total + of_output.profile.output.total) / 30
    parameters = 12 * 30 * 576**2  # SmolLM2-135M: 30 layers of width 576
    logits = 49152 * 576 * of_output.profile.output.total / 30
    for rows in (16, 64):
        passes, of_logits = forward_passes(rows)
        expected = 2 * (parameters * tokens * passes + logits * of_logits) / 1e9
        assert training_seconds(of_output, rows, 1e9) == pytest.approx(expected)


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 1e8 < measure_operations(seconds=0.01) < 1e16


def test_plan_explains_its_figures_unless_it_is_quiet(cli: Shell, tmp_path: Path) -> None:
    planned(tmp_path, "yes")
    legend = cli("plan", "rows.jsonl").err.splitlines()[-1]
    for figure in ("distance", "coefficient", "effective number"):
        assert f"{figure}: " in legend
    for option in ("-q", "--json"):
        assert "effective number: " not in cli("plan", "rows.jsonl", option).err
