"""The advice at the end of a plan."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from hf_lorameta import Columns, Recipe, plan
from hf_lorameta.bank.bank import Bank
from hf_lorameta.pipeline import budget
from hf_lorameta.pipeline.budget import (
    LONGEST_SECONDS,
    advise,
    forward_passes,
    measure_operations,
    training_seconds,
)
from hf_lorameta.pipeline.plan import Plan
from tests.conftest import Shell

FAST, SLOW = 1e15, 1e3


def advise_on(of_plan: Plan, speed: float) -> str:
    advice = advise(of_plan, speed)
    assert advice is not None
    return advice


def planned(folder: Path, output: str | None, rows: int = 30) -> Plan:
    lines = [
        {"input": f"Question {i}?"} | ({} if output is None else {"output": f"{output} {i}"})
        for i in range(rows)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return plan(path, Bank.embedded())


@pytest.mark.parametrize("output", ["yes", "and so on " * 40])
def test_training_is_advised_where_it_is_quick(tmp_path: Path, output: str) -> None:
    of_output, other = planned(tmp_path, output), "use the default"
    advice = advise_on(of_output, FAST)
    assert advice.startswith("train on 16 rows with --train 16, at most about 0 s")
    assert advice.endswith(other)
    assert advise_on(of_output, SLOW).startswith(f"{other}; --train 16 takes at most about ")


def test_as_many_rows_as_there_are_are_advised_if_they_do_not_take_too_long(
    tmp_path: Path,
) -> None:
    for rows, advised in ((99, 64), (100, 100)):
        of_dataset = planned(tmp_path, "yes", rows)
        assert advise_on(of_dataset, FAST).startswith(f"train on {advised} rows")
    in_seconds = training_seconds(of_dataset, 64, 1.0)
    speed = in_seconds / (LONGEST_SECONDS - 1)  # 64 rows take a second less than the longest time
    assert training_seconds(of_dataset, 100, speed) > LONGEST_SECONDS
    assert advise_on(of_dataset, speed).startswith(
        "train on 64 rows with --train 64, at most about"
    )
    assert "; --train 64 takes at most about 2.0 h" in advise_on(of_dataset, speed / 2)


def test_a_fit_is_advised_for_labels_wherever_the_base_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(50)]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    of_labels, of_texts = plan(path, Bank.embedded()), planned(tmp_path, "yes", 50)
    monkeypatch.setattr(budget, "find_at_hand", lambda name, revision: tmp_path)
    fit = "fit the adapter with --fit 34, at most about 0 s on this CPU. Or train on 32 rows"
    assert fit in advise_on(of_labels, FAST)
    checked = of_labels.with_recipe(Recipe(check=16))
    assert "--fit 34" in advise_on(checked, FAST)
    for other in (of_texts, of_labels.with_recipe(Recipe(fit=16))):
        assert "--fit" not in advise_on(other, FAST)
    more = plan(lines + [line | {"input": line["input"] * 2} for line in lines], Bank.embedded())
    assert "use the default: it fits the adapter on 84 rows" in advise_on(more, FAST)
    monkeypatch.setattr(budget, "find_at_hand", lambda name, revision: None)
    assert "fit the adapter with --fit 84" in advise_on(more, FAST)
    assert "--fit" not in advise_on(more, 1e8)  # longer than an hour


def test_what_the_recipe_says_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "find_at_hand", lambda name, revision: tmp_path)
    rows = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(50)]
    of_labels = plan(rows, Bank.embedded())
    assert advise_on(of_labels.with_recipe(Recipe(fit=16)), FAST).startswith("train on 32 rows")
    for recipe in (Recipe(train=16), Recipe(fit=16, train=16)):
        of_recipe = advise(of_labels.with_recipe(recipe), FAST)
        assert of_recipe == "training on 16 rows takes at most about 0 s on this CPU"
    few = planned(tmp_path, "yes", 5).with_recipe(Recipe(train=16))
    assert advise(few, FAST) is None


def test_the_default_is_advised_where_it_fits_the_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(budget, "find_at_hand", lambda name, revision: tmp_path)
    rows = [{"input": f"Question {i}?", "output": ("yes", "no")[i % 2]} for i in range(80)]
    assert advise_on(plan(rows, Bank.embedded()), FAST) == (
        "for labels such as these, use the default: it fits the adapter on 64 rows, at most about "
        "0 s on this CPU. Or train on 64 rows with --train 64, at most about 0 s on this CPU: this "
        "usually lowers the loss most"
    )


def test_no_training_is_advised_where_other_purposes_take_the_rows(tmp_path: Path) -> None:
    of_dataset = planned(tmp_path, "yes").with_recipe(Recipe(fit=16, check=12))
    assert "too few" in advise_on(of_dataset, FAST)


def test_rows_to_check_on_are_not_counted(tmp_path: Path) -> None:
    of_dataset = planned(tmp_path, "yes", rows=64).with_recipe(Recipe(check=16))
    assert advise_on(of_dataset, FAST).startswith("train on 32 rows")


def test_a_job_is_proposed_where_training_takes_long_and_the_dataset_is_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = [SimpleNamespace(name="cpu-upgrade", unit_cost_usd=0.0005, unit_label="minute")]
    monkeypatch.setattr(huggingface_hub, "list_jobs_hardware", lambda token: prices)
    local = planned(tmp_path, "yes", rows=64)
    columns = Columns(input="input", output="output")
    local = replace(local, dataset=replace(local.dataset, columns=columns))
    assert "Jobs" not in advise_on(local, SLOW)
    dataset = replace(local.dataset, id="user/data", revision="0" * 40)
    on_hub = replace(local, dataset=dataset, recipe=Recipe(rank=8))
    assert "Jobs" not in advise_on(on_hub, FAST)
    until_command, _, command = advise_on(on_hub, SLOW).partition(": hf-lorameta ")
    assert until_command.endswith("on Hugging Face Jobs 6 min, $0.01")  # to start
    assert command == (
        f"push --dataset user/data --revision {'0' * 40} --config default --split train "
        "--columns input=input,output=output --rank 8 --train 64 --on jobs"
    )

    def refuse(token: str | None) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "list_jobs_hardware", refuse)
    assert "on Hugging Face Jobs 6 min: hf-lorameta push" in advise_on(on_hub, SLOW)


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    assert "no outputs" in advise_on(planned(tmp_path, None), FAST)
    assert "too few" in advise_on(planned(tmp_path, "yes", rows=3), FAST)


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
