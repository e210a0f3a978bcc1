"""An adapter that is trained further on rows of its dataset, from the recipe to the card."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Recipe, generate  # noqa: E402 - they import torch
from hf_lorameta.data.dataset import open_dataset  # noqa: E402
from hf_lorameta.engines.scoring import Tokens  # noqa: E402
from hf_lorameta.errors import AdapterError, EmptyDatasetError, UsageError  # noqa: E402
from hf_lorameta.pipeline.generate import plan_with_rows  # noqa: E402
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.rows import draw_rows, require_rows, rows_used  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.training import device  # noqa: E402
from hf_lorameta.training.further import few_rows  # noqa: E402
from tests.training.tiny import loss, make  # noqa: E402


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a topic that the bank does not have."""
    return tiny.write_task(tmp_path_factory.mktemp("new"), "topic3", tiny.rows(3))


@pytest.fixture(autouse=True)
def suited_to_the_tiny_base(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, patience=2)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_training_lowers_the_loss_and_the_card_says_so(
    tiny_bank: Bank, new: Path, tmp_path: Path
) -> None:
    generated, trained = make(tiny_bank, new), make(tiny_bank, new, train=16, check=8)
    training = trained.plan.training
    assert training is not None
    assert (training.rows, training.held_out) == (16, 16)
    assert training.steps > 0
    assert training.end > training.start
    assert {module.name.rpartition(".")[2] for module in trained.layout} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert trained.plan.check is not None
    assert trained.plan.check.scale == 1
    generated.save_pretrained(tmp_path / "generated")
    trained.save_pretrained(tmp_path / "trained")
    pool = [(row["input"], row["output"]) for row in tiny.rows(3)]
    drawn = draw_rows(trained.plan.recipe, pool)
    used = drawn.train
    others = [row for row in pool if row not in used]
    assert loss(tiny_bank, others, tmp_path / "trained") < loss(
        tiny_bank, others, tmp_path / "generated"
    )
    assert trained.plan.check.end == pytest.approx(
        loss(tiny_bank, list(drawn.check), tmp_path / "trained"), abs=0.02
    )
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "**Trained on 16 rows of the dataset**" in card
    assert "No training took place" not in card
    assert "not trained on it" not in card.split("## Trained on 16 rows")[0]
    assert "--train 16" in card
    recipe = json.loads((tmp_path / "trained" / "recipe.json").read_bytes())
    assert recipe["training"]["steps"] == training.steps
    assert recipe["recipe"]["train"] == 16


def test_many_rows_train_the_upper_layers_alone(tiny_bank: Bank, tmp_path: Path) -> None:
    words = tiny.WORDS[12:16]
    pool = [
        (f"say {a} {b} {other}", f"{b} {a}") for a in words for b in words for other in tiny.WORDS
    ]
    lines = [{"input": text, "output": output} for text, output in pool]
    new = tiny.write_task(tmp_path, "many", lines)
    generated, trained = make(tiny_bank, new), make(tiny_bank, new, train=80)
    training = trained.plan.training
    assert training is not None
    assert (training.rows, training.held_out) == (60, 20)
    assert training.end > training.start
    before = dict(zip(generated.layout, generated.pairs, strict=True))
    for module, pair in zip(trained.layout, trained.pairs, strict=True):
        same = module in before and all(map(np.array_equal, pair, before[module]))
        assert same == (".layers.0." in module.name)
    drawn = draw_rows(trained.plan.recipe, pool).train
    [(_, held_out)] = few_rows.split([Tokens([i], [i]) for i in range(80)], seed=0)
    unseen = [drawn[row.prompt[0]] for row in held_out]
    trained.save_pretrained(tmp_path / "trained")
    losses = [loss(tiny_bank, [row], tmp_path / "trained") for row in unseen]
    assert training.end == pytest.approx(float(np.exp(-np.array(losses)).mean()), rel=0.01)


def test_outputs_of_other_rows_take_part_unless_they_are_few(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    different = [row | {"output": f"{row['output']} {i}"} for i, row in enumerate(tiny.rows(3))]
    new = tiny.write_task(tmp_path, "new", different)
    trained = make(tiny_bank, new, train=16)
    assert trained.plan.training is not None
    assert trained.plan.training.other_outputs == 24
    card = trained.save_pretrained(tmp_path / "adapter") / "README.md"
    assert "one row had the output of one of 24 other rows" in card.read_text()
    pool = [(row["input"], row["output"]) for row in different]
    drawn = draw_rows(trained.plan.recipe, pool)
    assert len(drawn.outputs) == 24
    used = rows_used(trained.plan.provenance(), open_dataset(new))
    assert used is not None
    assert set(used) == {*drawn.train, *drawn.outputs}
    small = tiny.write_task(tmp_path, "small", different[:30])
    training = make(tiny_bank, small, train=16).plan.training
    assert training is not None
    assert training.other_outputs == 0


def test_other_rows_decide_where_hardly_any_rows_have_an_output_in_common(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    """Cross-validation would score labels that its half of the rows does not have."""
    pool = [(f"Which number is in {i}?", f"label {i % 16}") for i in range(96)]
    many_labels = tiny.write_task(tmp_path, "labels", [{"input": i, "output": o} for i, o in pool])
    trained = make(tiny_bank, many_labels, train=16)
    training, recipe = trained.plan.training, trained.plan.recipe
    assert training is not None
    assert (training.rows, training.held_out, training.on_other_rows) == (16, 16, True)
    drawn = draw_rows(recipe, pool)
    assert len({output for _, output in drawn.train}) == 16
    assert len(drawn.decide) == 16
    assert not {*drawn.decide} & {*drawn.train, *drawn.outputs}
    used = rows_used(trained.plan.provenance(), open_dataset(many_labels))
    assert used is not None
    assert {*used} == {*drawn.train, *drawn.outputs, *drawn.decide}
    card = trained.save_pretrained(tmp_path / "adapter") / "README.md"
    assert "The number of steps was chosen on 16 other rows." in card.read_text()


@pytest.mark.parametrize("labels", [2, 8, 96])
def test_rows_decide_by_themselves_where_other_rows_share_no_more_outputs(labels: int) -> None:
    pool = [(f"question {i}", f"label {i % labels}") for i in range(96)]
    assert draw_rows(Recipe(train=16), pool).decide == ()


def test_without_training_no_rows_are_drawn_for_it() -> None:
    pool = [(f"question {i}", f"label {i % 16}") for i in range(96)]
    rows = draw_rows(Recipe(check=16), pool)
    assert (rows.train, rows.outputs, rows.decide) == ((), (), ())
    assert len(rows.check) == 16


def test_too_little_memory_is_an_error_with_a_way_out(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 100_000)
    with pytest.raises(UsageError, match="GB of memory") as caught:
        make(tiny_bank, new, train=16)
    assert caught.value.hint == "leave out --train, or use a machine with more memory"


def test_the_same_seed_gives_the_same_adapter(tiny_bank: Bank, new: Path) -> None:
    first, second = make(tiny_bank, new, train=16), make(tiny_bank, new, train=16)
    other = make(tiny_bank, new, train=16, seed=1)
    for ours, same in zip(first.pairs, second.pairs, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(ours, same, strict=True))
    assert first.plan.training != other.plan.training


def test_rows_to_fit_train_and_check_on_are_disjoint(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    pool = [(f"question {i}", f"{i}") for i in range(40)]
    recipe = Recipe(fit=8, train=100, check=8)
    rows = draw_rows(recipe, pool)
    drawn = [rows.fit, rows.train, rows.check]
    assert [len(part) for part in drawn] == [8, 24, 8]  # rows to check on are kept
    assert sorted(row for part in drawn for row in part) == sorted(pool)
    require_rows(rows, recipe)
    assert caplog.messages == ["Only 24 labeled rows are left to train on, not 100"]
    recipe = Recipe(fit=16, train=16, check=8)
    with pytest.raises(EmptyDatasetError, match="6 labeled rows left to train on, expected"):
        require_rows(draw_rows(recipe, pool[:30]), recipe)


def test_a_base_model_that_cannot_be_trained_is_refused_before_the_fit(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(tiny_bank) as session:
        recipe = Recipe(fit=8, train=16)
        plan, rows = plan_with_rows(session.open_dataset(new), session, recipe)
        session.evaluator.model._supports_attention_backend = False
        monkeypatch.setattr("hf_lorameta.pipeline.make.fit_adapter", pytest.fail)
        with pytest.raises(UsageError, match="cannot be trained here: its layers are not all"):
            make_adapter(plan, rows, session)


@pytest.mark.parametrize("stage", ["Running 80 rows", "Training on 80 rows"])
def test_an_interruption_before_a_step_helped_says_that_there_is_no_adapter(
    tiny_bank: Bank, tmp_path: Path, stage: str
) -> None:
    lines = [{"input": f"say {word} {i}", "output": word} for i in range(20) for word in "abcd"]
    new = tiny.write_task(tmp_path, "many", lines)

    def interrupted(title: str, done: int, total: int) -> None:
        if title == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        generate(new, tiny_bank, Recipe(rank=4, train=80), progress=interrupted)
    [note] = caught.value.__notes__
    assert note == "Training was interrupted before a step had helped: no adapter was made"


def test_an_adapter_worse_than_the_base_model_is_refused(
    tiny_bank: Bank, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = few_rows.continue_training

    def worse(*args: object, **options: object) -> few_rows.Continued:
        result = real(*args, **options)  # type: ignore[arg-type]
        training = replace(result.training, base=0.5, start=0.1, end=0.2)
        return result._replace(training=training)

    monkeypatch.setattr(few_rows, "continue_training", worse)
    with pytest.raises(AdapterError, match="worse than the base model: an output token"):
        make(tiny_bank, new, train=16)
