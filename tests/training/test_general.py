"""The general adapter: gradients against autograd, threads, and the weights of rows and tasks."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from hf_lorameta.engines.row_tokens import Tokens
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.training.bank.runs import TaskRows, general_run  # noqa: E402
from hf_lorameta.training.device import DevicePlan  # noqa: E402 - they import torch
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import find_layout  # noqa: E402
from hf_lorameta.training.trainer import Trainer  # noqa: E402
from tests.training.test_trainer import Trained  # noqa: E402

SETTINGS = Settings(
    rank=4, targets=("q_proj", "v_proj"), warmup=0, general_steps=1, general_rows=6, general_lr=0.02
)
TASKS = [TaskRows(f"task{i}", tokens(i, 9 + i), tokens(i, 31)[24:]) for i in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = write_base(tmp_path_factory.mktemp("base"))
    loaded = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    return exact_norms(loaded.eval().requires_grad_(False))


def train(model: Any, settings: Settings = SETTINGS, **options: Any) -> Trained:
    model = copy.deepcopy(model)
    layout, plan = find_layout(model, settings.targets), DevicePlan(**options)
    settings = settings.of_general(len(TASKS))
    run = general_run(TASKS, settings, plan.workers)
    with Trainer(model, layout, settings, plan, plan.workers) as trainer:
        for _ in trainer.train([run]):
            pass
        return Trained(trainer.slots.factors(run.best[0]), run)


def batches() -> Iterator[Sequence[Tokens]]:
    """The rows of step after step."""
    run = general_run(TASKS, SETTINGS.of_general(len(TASKS)), slots=1)
    return (rows for [rows] in run.batches)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_a_step_follows_the_gradient_of_the_mean_over_rows(model: Any) -> None:
    """AdamW's first step moves every weight by the learning rate against its gradient's sign."""
    peft = pytest.importorskip("peft")
    start, end = (
        train(model, Settings(**SETTINGS.to_dict() | {"general_lr": lr})) for lr in (1e-30, 0.02)
    )
    batch = next(batches())
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).double()
    layers = [m for n, m in wrapped.named_modules() if n.endswith(("q_proj", "v_proj"))]
    for layer, (A, _) in zip(layers, start.factors, strict=True):
        layer.lora_A["default"].weight.data.copy_(torch.from_numpy(A))
    losses = []
    for prompt, output in batch:
        logits = wrapped(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(output)))
    torch.stack(losses).mean().backward()
    for layer, (_, before), (_, after) in zip(layers, start.factors, end.factors, strict=True):
        gradient = layer.lora_B["default"].weight.grad
        moved = torch.from_numpy(after - before) / 2  # the scaling is part of B
        clear = gradient.abs() > 1e-6
        assert clear.any()
        assert torch.allclose(moved[clear], -0.02 * gradient[clear].sign().float(), atol=1e-4)


def test_threads_and_passes_do_not_change_the_result(model: Any) -> None:
    settings = Settings(**SETTINGS.to_dict() | {"general_steps": 5})
    alone = train(model, settings)
    assert alone.run.loss < alone.run.base_loss
    for options in ({"workers": 2}, {"workers": 3, "pass_tokens": 30}):
        divided = train(model, settings, **options)
        assert divided.run.loss == pytest.approx(alone.run.loss, rel=1e-9)
        for ours, theirs in zip(alone.factors, divided.factors, strict=True):
            assert abs(ours[1] - theirs[1]).max() < 1e-9


def test_every_task_has_as_many_rows_and_none_twice_before_all() -> None:
    drawn = [row for _, rows in zip(range(6), batches(), strict=False) for row in rows]  # 9 turns
    owner = {str(row): task.name for task in TASKS for row in task.train}
    assert set(Counter(owner[str(row)] for row in drawn).values()) == {9}
    assert len({str(row) for row in drawn if owner[str(row)] == "task0"}) == 9
