"""A bank with a general adapter and an output prior, from training to a published adapter."""

import json
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.maintain import verify
from tests.pipeline.conftest import with_recipe
from tests.support.codes import raises_code
from tests.training import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Plan, Recipe, open_dataset, plan  # noqa: E402
from hf_lorameta.bank.pack import pack  # noqa: E402
from hf_lorameta.bank.share import bank_card  # noqa: E402
from hf_lorameta.bank.train_neural_rule import train_neural_rule  # noqa: E402
from hf_lorameta.data.counts.output_counts import OutputCounter  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402
from hf_lorameta.errors import RecipeError  # noqa: E402
from hf_lorameta.pipeline.bank_prompts import prompts_like  # noqa: E402
from hf_lorameta.pipeline.make import combine_adapters, make_adapter  # noqa: E402
from hf_lorameta.types import no_progress  # noqa: E402

GENERAL: dict[str, Any] = {
    "general_steps": 30, "general_rows": 4, "general_lr": 0.02, "forms": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return tiny.write_bank(tmp_path_factory.mktemp, **GENERAL)


@pytest.fixture(scope="module")
def base(bank: Bank) -> Path:
    return Path(bank.index.base_model)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """A bank whose only adapter is the general one."""
    return tiny.write_bank(tmp_path_factory.mktemp, general_only=True, **GENERAL)


def _warnings(of: Plan) -> list[str]:
    return [remark.text for remark in of.remarks if remark.level == "warning"]


def card_of(of: Plan) -> str:
    return make_adapter(of).texts()["README.md"]


def loss(bank: Bank, adapter: Path | None) -> float:
    """Return the loss of the rows of `new`."""
    return tiny.loss(bank, [(row["input"], row["output"]) for row in tiny.rows(3)], adapter)


def test_a_plan_gives_the_general_adapter_what_is_left_of_one(bank: Bank, new: Path) -> None:
    planned = plan(new, bank)
    single, general = planned.coefficients, planned.general_coefficient or 0.0
    assert len(single) == len(bank) == 3
    assert sum(single) + general == pytest.approx(1)
    assert planned.output_strength == Recipe().output_prior
    assert len(planned.neighbors()) == 3
    assert planned.effective_number <= 3
    one = with_recipe(planned, Recipe(top_k=1, output_prior=0))
    assert np.count_nonzero(one.coefficients) == 1
    assert one.coefficients.sum() == pytest.approx(sum(single))
    assert one.output_strength is None
    paper = with_recipe(planned, Recipe.paper())
    assert paper.general_coefficient == pytest.approx(0)
    assert paper.layout == bank.layout


def test_coefficients_are_scaled_for_outputs_longer_than_the_banks(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    lines = [row | {"output": " ".join([row["output"]] * 4)} for row in tiny.rows(3)]
    short = plan(new, bank)
    longer = plan(tiny.write_task(tmp_path, "long", lines), bank)
    assert short.scale == 1
    profiles = bank.profiles
    typical = np.exp(np.mean([np.log(profiles[i].output_length) for i in range(len(profiles))]))
    assert longer.scale == pytest.approx((typical / longer.profile.output_length) ** 0.5)
    assert longer.scale < 0.7
    whole = with_recipe(longer, Recipe(scale=1))
    np.testing.assert_allclose(longer.coefficients, longer.scale * whole.coefficients)
    general = whole.general_coefficient or 0.0
    assert whole.coefficients.sum() + general == pytest.approx(1)
    assert longer.general_coefficient == pytest.approx(longer.scale * general)
    assert whole.output_strength == Recipe().output_prior
    assert longer.output_strength == pytest.approx(longer.scale * whole.output_strength)
    assert "are longer" in card_of(longer)
    assert "All coefficients were scaled" not in card_of(whole)
    assert longer.to_dict()["scale"] == longer.scale


def test_outputs_are_compared_with_those_of_the_general_adapter(
    bank: Bank, lone: Bank, new: Path, tmp_path: Path
) -> None:
    lines = [row | {"output": " ".join([row["output"]] * 4)} for row in tiny.rows(3)]
    longer = tiny.write_task(tmp_path, "long", lines)
    assert plan(new, lone).scale == 1
    scaled = plan(longer, lone)
    assert scaled.scale == pytest.approx(plan(longer, bank).scale, rel=0.1)
    intro = card_of(scaled).partition("## Usage")[0]
    assert f"scaled by {scaled.scale:.2f}" in intro
    assert ", times" not in intro  # stated once


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_a_general_adapter_is_a_bank_without_others(lone: Bank, new: Path, tmp_path: Path) -> None:
    general = lone.index.general
    assert general is not None
    assert (len(lone), len(lone.index.adapters), verify(lone)) == (0, 1, [])
    planned = plan(new, lone)
    assert (planned.coefficients.tolist(), planned.general_coefficient) == ([], 1)
    assert planned.output_counts is not None  # by which a training is proposed
    assert planned.neighbors() == ()
    assert not any("instruction" in text or "near" in text for text in _warnings(planned))
    generated = make_adapter(planned)
    for (A, B), module in zip(generated.pairs, lone.layout, strict=False):
        ours = lone.adapter(general).factors(module.name)
        np.testing.assert_allclose(B @ A, general.scaling * ours[1] @ ours[0], atol=1e-5)
    generated.save_pretrained(tmp_path / "adapter")
    assert loss(lone, tmp_path / "adapter") < loss(lone, None)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "trained on 3 datasets" in card
    for absent in ("Similarity", "Source adapters", "Metric", "Citation", "arxiv"):
        assert absent not in card
    assert not (tmp_path / "adapter" / "neighbors.svg").exists()
    for setting in ({"metric": "mmd"}, {"output_prior": 0.7}):
        refused = rf"{next(iter(setting))}=.* is for the .* and local bank has only one"
        with pytest.raises(RecipeError, match=refused) as caught:
            plan(new, lone, Recipe(**setting))
        assert "name another bank" in caught.value.hint


def test_prompts_get_the_chat_format_of_the_general_adapter(bank: Bank, new: Path) -> None:
    general, chat = bank.index.general, "<user>{prompt}<assistant>"
    assert general is not None
    index = bank.index.model_copy(update={"general": general.model_copy(update={"template": chat})})
    in_chat = copy(bank)
    in_chat.index = index
    before, after = (prompts_like(b)(open_dataset(new)).head(1)[0][0] for b in (bank, in_chat))
    assert after.startswith("<user>")
    assert after.endswith("<assistant>")
    assert before in after
    assert "<user>" not in before


def test_warnings_of_a_general_adapter_name_nothing_that_was_compared(
    lone: Bank, tmp_path: Path
) -> None:
    few = tiny.rows(3)[:1]
    texts = [{"output": row["output"]} for row in few]
    inputs = [{"input": row["input"]} for row in few]
    found = {
        tuple(_warnings(plan(tiny.write_task(tmp_path, name, lines), lone)))
        for name, lines in (("few", few), ("texts", texts), ("inputs", inputs))
    }
    shown = " ".join(sum(found, ()))
    assert "The dataset has no inputs, only text." in shown
    assert "The dataset has no outputs. The adapter is not scaled for long outputs" in shown
    for absent in ("compared", "distances", "coefficients", "most bank datasets"):
        assert absent not in shown


def test_a_general_adapter_alone_can_be_published(lone: Bank) -> None:
    assert (len(lone), verify(lone)) == (0, [])
    assert "a general adapter for" in repr(lone)
    assert "general LoRA adapter" in bank_card(lone, "user/bank")
    with raises_code("bank.too-few-adapters", match="0 adapters"):
        train_neural_rule(lone)


@pytest.mark.parametrize(
    "settings",
    [{"coefficients": "normalized"}, {"coefficients": "attentional"}],
)
def test_rules_of_the_paper_are_not_scaled_unasked(
    settings: dict[str, str], bank: Bank, new: Path, tmp_path: Path
) -> None:
    lines = [row | {"output": " ".join([row["output"]] * 4)} for row in tiny.rows(3)]
    planned = plan(tiny.write_task(tmp_path, "long", lines), bank, Recipe.of(**settings))
    assert planned.scale == 1
    half = with_recipe(planned, Recipe.of(scale=0.5, **settings))
    np.testing.assert_allclose(half.coefficients, planned.coefficients / 2)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_general_adapter_and_output_prior_lower_the_loss(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    planned = plan(new, bank)
    losses = {"base": loss(bank, None)}
    for name, recipe in (("without", Recipe(output_prior=0)), ("with", Recipe())):
        generated = make_adapter(with_recipe(planned, recipe))
        generated.save_pretrained(tmp_path / name)
        losses[name] = loss(bank, tmp_path / name)
    assert losses["with"] < losses["without"]
    assert losses["with"] < losses["base"]
    card = (tmp_path / "with" / "README.md").read_text()
    assert "general adapter takes part" in card
    assert "output tokens" in card
    recipe = json.loads((tmp_path / "with" / "recipe.json").read_bytes())
    assert recipe["output_prior"] == Recipe().output_prior
    modules = json.loads((tmp_path / "with" / "adapter_config.json").read_bytes())
    assert "model.layers.1.mlp.down_proj" in modules["target_modules"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_factors_are_averaged_without_the_output_prior(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    planned = plan(new, bank, Recipe(combine="factors"))
    assert planned.output_strength is None
    make_adapter(planned).save_pretrained(tmp_path / "adapter")
    assert np.isfinite(loss(bank, tmp_path / "adapter"))


def test_a_pack_keeps_both(bank: Bank, new: Path, tmp_path: Path) -> None:
    packed = pack(bank, tmp_path / "pack", basis=1000)
    assert verify(packed) == []
    assert packed.index.general is not None
    assert len(packed) == len(bank)
    for ours, theirs in zip(
        combine_adapters(plan(new, packed), no_progress),
        combine_adapters(plan(new, bank), no_progress),
        strict=True,
    ):
        exact = theirs[1] @ theirs[0]
        assert np.linalg.norm(ours[1] @ ours[0] - exact) < 0.02 * np.linalg.norm(exact)


def test_output_tokens_are_counted_as_they_are_trained_on(base: Path) -> None:
    rows = [("say one", "two one"), ("say\n", "six"), ("say one ", "red red"), ("", "blue")]
    evaluator: Any = TorchEvaluator.from_folder(base, "float32")
    backend = evaluator.tokenizer.backend_tokenizer

    def encode(texts: Any) -> list[list[int]]:
        return [e.ids for e in backend.encode_batch(list(texts), add_special_tokens=False)]

    counter = OutputCounter(encode, len(tiny.VOCABULARY), evaluator.end_token)
    counter.add(rows)
    first, later = (np.zeros(len(tiny.VOCABULARY), int) for _ in range(2))
    for row in evaluator.encode(rows):
        first[row.output[0]] += 1
        np.add.at(later, row.output[1:], 1)
    assert counter.counts.first.tolist() == first.tolist()
    assert counter.counts.later.tolist() == later.tolist()
    assert counter.counts.copied == 0
