"""Adapters do not depend on the tasks trained with them, on threads, or on interruptions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hf_lorameta.types import FactorPair
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402 - they import torch
from safetensors.torch import save_file  # noqa: E402

from hf_lorameta.engines.transformers import forward as torch_forward  # noqa: E402
from hf_lorameta.training import trainer as trainers  # noqa: E402
from hf_lorameta.training.bank.runs import TaskRows, task_run  # noqa: E402
from hf_lorameta.training.device import DevicePlan  # noqa: E402
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import find_layout  # noqa: E402
from hf_lorameta.training.trainer import Run, Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = Settings(
    rank=4, targets=("q_proj", "v_proj"), steps=12, rows=4, lr=0.02, warmup=2, evaluate_every=3
)
TASKS = [
    TaskRows(f"task{i}", tokens(i, 20 + i, shared=i % 2 == 0), tokens(i, 31)[24:]) for i in range(4)
]


class Trained(NamedTuple):
    """A finished run and its adapter."""

    factors: list[FactorPair]
    run: Run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def train(
    base: Path,
    tasks: Sequence[TaskRows],
    settings: Settings = SETTINGS,
    stop_after: int | None = None,
    **options: Any,
) -> dict[str, Trained]:
    """Train in float64; with `stop_after`, break off after so many reports of progress."""
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = exact_norms(model.eval().requires_grad_(False))
    layout, slots = find_layout(model, settings.targets), options.pop("at_once", 1)
    checkpoints = options.pop("checkpoints", None)
    plan = DevicePlan(**options)
    trained = {}
    with Trainer(model, layout, settings, plan, slots, checkpoints=checkpoints) as trainer:
        runs = (task_run(task, settings) for task in tasks)
        for reports, (run, ended) in enumerate(trainer.train(runs), 1):
            if reports == stop_after:
                raise KeyboardInterrupt
            if ended:
                trained[run.name] = Trained(trainer.slots.factors(run.best[0]), run)
    return trained


def assert_same(a: Trained, b: Trained) -> None:
    assert (a.run.step, a.run.best_step) == (b.run.step, b.run.best_step)
    assert a.run.base_loss == pytest.approx(b.run.base_loss, rel=1e-9)
    assert a.run.loss == pytest.approx(b.run.loss, rel=1e-9)
    for ours, theirs in zip(a.factors, b.factors, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert abs(x - y).max() < 1e-9  # rounded to float32 at the end, equally


def test_an_adapter_does_not_depend_on_the_tasks_beside_it(base: Path) -> None:
    alone = {t.name: train(base, [t])[t.name] for t in TASKS}
    ways: list[dict[str, Any]] = [
        {"at_once": 4},
        {"at_once": 2, "pass_tokens": 40},
        {"at_once": 3, "workers": 2},
    ]
    for options in ways:
        together = train(base, TASKS[::-1], **options)
        for name, result in alone.items():
            assert_same(result, together[name])
    assert all(result.run.loss < result.run.base_loss for result in alone.values())


def test_training_is_deterministic_and_depends_on_the_seed(base: Path) -> None:
    first, second = (train(base, TASKS[:2], at_once=2) for _ in range(2))
    other = train(base, TASKS[:2], Settings(**SETTINGS.to_dict() | {"seed": 1}), at_once=2)
    for name, result in first.items():
        for ours, theirs, changed in zip(
            result.factors, second[name].factors, other[name].factors, strict=True
        ):
            assert ours[0].tobytes() == theirs[0].tobytes()
            assert ours[1].tobytes() == theirs[1].tobytes()
            assert ours[0].tobytes() != changed[0].tobytes()


def test_a_checkpoint_continues_exactly(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(base, TASKS[:2], at_once=2)
    monkeypatch.setattr(trainers, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(base, TASKS[:2], at_once=2, checkpoints=tmp_path, stop_after=11)
    steps, step = [], Trainer._step

    def counted(self: Trainer) -> None:
        steps.append(1)
        step(self)

    monkeypatch.setattr(Trainer, "_step", counted)
    resumed = train(base, TASKS[:2], at_once=2, checkpoints=tmp_path)
    assert len(steps) == SETTINGS.steps - 5
    for name, result in expected.items():
        for ours, theirs in zip(result.factors, resumed[name].factors, strict=True):
            assert ours[1].tobytes() == theirs[1].tobytes()
        assert resumed[name].run.loss == result.run.loss


def test_a_checkpoint_of_an_earlier_version_is_not_used(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(base, TASKS[:1])
    with monkeypatch.context() as patch:
        patch.setattr(trainers, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(base, TASKS[:1], checkpoints=tmp_path, stop_after=6)
    [path] = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        metadata, vectors = file.metadata(), file.get_tensor("vectors")
    save_file({"parameters": vectors[0], "best": vectors[1:2].clone()}, path, metadata)
    again = train(base, TASKS[:1], checkpoints=tmp_path)
    for name, result in expected.items():
        assert_same(result, again[name])


def test_a_checkpoint_of_other_settings_is_not_used(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(base, TASKS[:1], checkpoints=tmp_path, stop_after=6)
    task = TaskRows(TASKS[0].name, TASKS[0].train, TASKS[0].held_out, key="other")
    assert_same(train(base, [task], checkpoints=tmp_path)["task0"], train(base, [task])["task0"])


def test_training_stops_when_the_held_out_loss_stops_falling(base: Path) -> None:
    contradiction = TaskRows("task", tokens(1, 16), tokens(3, 16))
    settings = Settings(**SETTINGS.to_dict() | {"steps": 300, "patience": 2, "lr": 0.05})
    result = train(base, [contradiction], settings)["task"].run
    assert result.step < 300
    assert result.step == result.best_step + 2 * settings.evaluate_every
    assert result.loss <= result.base_loss


def test_every_epoch_has_every_row_once() -> None:
    batches = task_run(TASKS[0], SETTINGS).batches
    drawn = [row for _ in range(10) for row in next(batches)[0]]
    for epoch in (drawn[:20], drawn[20:]):
        assert sorted(map(str, epoch)) == sorted(map(str, TASKS[0].train))
    assert drawn[:20] != drawn[20:]


def test_a_task_whose_loss_is_not_finite_ends_alone(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_logits = vars(torch_forward)["output_logits"]

    def broken(model: Any, packed: Any, adapters: bool = True) -> Any:
        logits, targets = output_logits(model, packed, adapters)
        factors = torch.ones_like(logits)
        sizes = zip(packed.slots, packed.by_row, strict=True)
        factors[: sum(size for slot, size in sizes if slot == 0)] = torch.nan
        return logits * factors, targets

    expected = train(base, TASKS[1:2])
    monkeypatch.setattr(torch_forward, "output_logits", broken)
    results = train(base, TASKS[:2], at_once=2)
    assert (results["task0"].run.step, results["task0"].run.best_step) == (1, 0)
    assert_same(results["task1"], expected["task1"])
