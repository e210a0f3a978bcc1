"""Adapters that are scored together get the scores and answers that each gets on its own."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.engines.scoring import compare
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE
from tests.engines.test_torch_evaluator import (
    HIDDEN,
    LAYERS,
    ROWS,
    SHOTS,
    assert_as_before,
    save_adapter,
    save_base,
    state,
)
from tests.support.random_adapter import random_pairs, write_adapter

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("rouge_score")

KINDS: dict[str, tuple[tuple[tuple[str, int, int], ...], int, dict[str, Any]]] = {
    "attention": (
        (("self_attn.q_proj", HIDDEN, HIDDEN), ("self_attn.v_proj", HIDDEN, HIDDEN // 2)),
        2,
        {},
    ),
    "mlp": ((("mlp.down_proj", 48, HIDDEN),), 5, {"lora_alpha": 3}),
    "rslora": ((("self_attn.q_proj", HIDDEN, HIDDEN),), 4, {"use_rslora": True}),
}
"""Modules of a layer, rank, and changes of the config."""


def save(folder: Path, seed: int, kind: str) -> Path:
    """Write a random adapter of a kind."""
    modules, rank, changes = KINDS[kind]
    layout = tuple(
        Module(f"model.layers.{layer}.{name}", n, out)
        for layer in range(LAYERS)
        for name, n, out in modules
    )
    return write_adapter(folder, layout, random_pairs(layout, rank, seed, 0.2), **changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def evaluator(base: Path) -> TorchEvaluator:
    return TorchEvaluator(base, "float32", batch_tokens=96, max_new_tokens=6, base_model="o/base")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        f"{kind} {seed}": save(folder / f"{kind}{seed}", seed, kind)
        for seed in (1, 2)
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def alone(evaluator: TorchEvaluator, adapters: dict[str, Path]) -> dict[str, Any]:
    """The scores and answers of each adapter on its own, which PEFT has attached."""
    return {name: evaluator.evaluate(ROWS, folder) for name, folder in adapters.items()}


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "order", "pass_tokens"),
    [
        (1, [0, 1, 2, 3, 4, 5], 30),
        (2, [0, 1, 2, 3, 4, 5], 1024),
        (1, [4, 1], 1024),
        (2, [5, 0, 3], 30),
    ],
    ids=str,
    indirect=["threads"],
)
def test_results_do_not_depend_on_what_else_is_scored(
    evaluator: TorchEvaluator,
    adapters: dict[str, Path],
    alone: dict[str, Any],
    threads: int,
    order: list[int],
    pass_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hf_lorameta.engines.transformers import forward as torch_forward

    monkeypatch.setattr(torch_forward, "_LEAST_TOKENS", pass_tokens)
    monkeypatch.setattr(TorchEvaluator, "evaluate", None)  # nothing is scored on its own
    chosen = {name: adapters[name] for name in (list(adapters)[i] for i in order)}
    results = evaluator.evaluate_adapters(ROWS, chosen)
    assert list(results) == list(chosen)
    for name, (scores, answers) in results.items():
        assert scores.loss == pytest.approx(alone[name][0].loss, rel=1e-5)
        assert answers == alone[name][1]
        assert scores.rouge_l == pytest.approx(alone[name][0].rouge_l)
    assert len({round(scores.loss, 4) for scores, _ in results.values()}) == len(chosen)
    with ThreadPoolExecutor(1) as pool:  # a new thread has them, too
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads


def test_the_base_model_is_as_before(
    evaluator: TorchEvaluator, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, modules = state(evaluator), list(evaluator.model.modules())
    attention = evaluator.model.config._attn_implementation
    plain = evaluator.evaluate(ROWS)
    evaluator.evaluate_adapters(ROWS, adapters)

    def interrupt(method: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_lorameta.engines.scoring.PROGRESS_DELAY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate_adapters(ROWS, adapters, progress=interrupt)
    assert_as_before(evaluator, before, modules)
    assert evaluator.model.config._attn_implementation == attention
    assert evaluator.evaluate(ROWS) == plain


@pytest.mark.filterwarnings("ignore")  # PEFT uses what transformers deprecates
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"target_modules": ["lm_head"]},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 3}},
    ],
    ids=str,
)
def test_adapters_other_than_plain_lora_of_inner_layers_are_scored_one_by_one(
    settings: dict[str, Any],
    base: Path,
    evaluator: TorchEvaluator,
    adapters: dict[str, Path],
    alone: dict[str, Any],
    tmp_path: Path,
) -> None:
    defaults = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **(defaults | settings))
    model = peft.get_peft_model(TorchEvaluator(base, "float32").model, config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    stored = json.loads((tmp_path / CONFIG_FILE).read_text())
    stored["base_model_name_or_path"] = "o/base"
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored))
    name, plain = next(iter(adapters.items()))
    results = evaluator.evaluate_adapters(ROWS, {"other": tmp_path, name: plain})
    assert results == {"other": evaluator.evaluate(ROWS, tmp_path), name: alone[name]}


def test_an_adapter_that_does_not_fit_raises(
    evaluator: TorchEvaluator, adapters: dict[str, Path], tmp_path: Path
) -> None:
    for folder, reason in (
        (save_adapter(tmp_path / "fewer", LAYERS - 1), "4 are missing"),
        (save_adapter(tmp_path / "other", base="o/other"), "is for o/other, expected o/base"),
    ):
        with pytest.raises(AdapterError, match=reason):
            evaluator.evaluate_adapters(ROWS, {"bad": folder} | adapters)


def test_compare_scores_several_adapters_together(
    evaluator: TorchEvaluator, adapters: dict[str, Path]
) -> None:
    methods: dict[str, Path | None] = {"base": None, **adapters}
    report = compare(evaluator, ROWS, methods, shots=SHOTS, samples=1)
    assert list(report.scores) == ["base", *adapters, "2-shot"]
    together = evaluator.evaluate_adapters(ROWS, adapters)
    for name, (scores, answers) in together.items():
        assert report.scores[name] == scores
        assert report.samples[0].outputs[name] == answers[0]


def test_progress_counts_the_rows_of_all_adapters(
    evaluator: TorchEvaluator, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.engines.scoring.PROGRESS_DELAY", 0.0)
    steps: list[tuple[str, int, int]] = []
    evaluator.evaluate_adapters(ROWS, adapters, progress=lambda *step: steps.append(step))
    total = 2 * len(ROWS) * len(adapters)
    done = [step for _, step, _ in steps]
    assert done == sorted(set(done))
    assert steps[-1] == (f"{len(adapters)} adapters", total, total)
