"""An adapter does not depend on threads, on the length of passes, or on interruptions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.types import no_progress
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402 - they import torch
from safetensors.torch import save_file  # noqa: E402

from hf_lorameta.engines.transformers import forward as torch_forward  # noqa: E402
from hf_lorameta.training import checkpoint as checkpoints  # noqa: E402
from hf_lorameta.training import trainer as trainers  # noqa: E402
from hf_lorameta.training.bank.held_out import TaskRows, train_with_held_out  # noqa: E402
from hf_lorameta.training.checkpoint import Checkpoint  # noqa: E402
from hf_lorameta.training.device import DevicePlan  # noqa: E402
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import find_layout  # noqa: E402
from hf_lorameta.training.trained import Trained  # noqa: E402
from hf_lorameta.training.trainer import TrainedPart, Trainer, batches  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FAST: dict[str, Any] = {"rank": 4, "rows": 4, "lr": 0.02, "warmup": 2}
ROWS = TaskRows(tokens(1, 20), tokens(1, 31)[24:])
NOTHING = LoraWeights((), ())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def load(base: Path) -> tuple[Any, TrainedPart]:
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = exact_norms(model.eval().requires_grad_(False))
    return model, TrainedPart.whole(model, find_layout(model, ("q_proj", "v_proj")))


def trained(base: Path, rows: TaskRows = ROWS, **options: Any) -> Trained:
    """Train in float64, with changed settings."""
    model, part = load(base)
    checkpoint = options.pop("checkpoint", Checkpoint(base / "none", "key"))
    progress = options.pop("progress", no_progress)
    settings = Settings(**{**FAST, "steps": 12, **options})
    return train_with_held_out(model, part, NOTHING, rows, settings, checkpoint, progress)


def assert_same(ours: Trained, theirs: Trained, tolerance: float = 0.0) -> None:
    assert (ours.taken, ours.steps) == (theirs.taken, theirs.steps)
    assert ours.losses == pytest.approx(theirs.losses, rel=tolerance, abs=0)
    for a, b in zip(ours.weights.pairs, theirs.weights.pairs, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def test_the_same_rows_and_seed_give_the_same_adapter(base: Path) -> None:
    first, second, other = trained(base), trained(base), trained(base, seed=1)
    assert first.steps
    assert first.losses[1] < first.losses[0]
    assert_same(first, second)
    for (A, _), (changed, _) in zip(first.weights.pairs, other.weights.pairs, strict=True):
        assert A.tobytes() != changed.tobytes()


@pytest.mark.parametrize("equal_rows", [False, True])
def test_threads_and_passes_do_not_change_the_result(
    base: Path, equal_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trained(base, equal_rows=equal_rows)
    for plan in (DevicePlan(2, 1024), DevicePlan(1, 40), DevicePlan(2, 30)):
        monkeypatch.setattr(trainers, "plan_device", lambda *_, plan=plan, **__: plan)
        assert_same(trained(base, equal_rows=equal_rows), alone, tolerance=1e-9)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
@pytest.mark.parametrize("equal_rows", [False, True])
def test_a_step_follows_the_gradient_of_the_mean_over_tokens_or_rows(
    base: Path, equal_rows: bool
) -> None:
    """AdamW's first step moves every weight by the learning rate against its gradient's sign."""
    peft = pytest.importorskip("peft")
    model, part = load(base)
    settings = Settings(**FAST, equal_rows=equal_rows)
    batch = next(batches(ROWS.train, settings))
    with Trainer(model, part, NOTHING, settings, batch) as trainer:
        before = trainer.weights(trainer.parameters()).pairs
        trainer.step(batch, 0.02)
        after = trainer.weights(trainer.parameters()).pairs
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(model, config).double()
    layers = [m for n, m in wrapped.named_modules() if n.endswith(("q_proj", "v_proj"))]
    for layer, (A, _) in zip(layers, before, strict=True):
        layer.lora_A["default"].weight.data.copy_(torch.from_numpy(A))
    losses = []
    for prompt, output in batch:
        logits = wrapped(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        losses.append(
            torch.nn.functional.cross_entropy(logits, torch.tensor(output), reduction="none")
        )
    by_row = torch.stack([loss.mean() for loss in losses]).mean()
    (by_row if equal_rows else torch.cat(losses).mean()).backward()
    for layer, (_, start), (_, end) in zip(layers, before, after, strict=True):
        gradient = layer.lora_B["default"].weight.grad
        moved = torch.from_numpy(end - start) / 2  # the scaling is part of B
        clear = gradient.abs() > 1e-6
        assert clear.any()
        assert torch.allclose(moved[clear], -0.02 * gradient[clear].sign().float(), atol=1e-4)


def test_losses_that_are_not_finite_leave_the_adapter_as_it_was(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_logits = vars(torch_forward)["output_logits"]

    def broken(*arguments: Any) -> Any:
        logits, targets = output_logits(*arguments)
        return logits * torch.nan, targets

    monkeypatch.setattr(torch_forward, "output_logits", broken)
    assert trained(base).steps == 0


# --- checkpoints ----------------------------------------------------------------------------------


def stopped(base: Path, path: Path, monkeypatch: pytest.MonkeyPatch, after: int = 8) -> None:
    """Train, and stop in the step after a checkpoint."""

    def progress(done: int, most: int) -> None:
        if done > after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            trained(base, checkpoint=Checkpoint(path, "key"), progress=progress)


@pytest.mark.parametrize("after", [4, 6, 8, 11])
def test_a_checkpoint_continues_exactly(
    base: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(base, tmp_path / "state", monkeypatch, after)
    seen, checkpoint = list[int](), Checkpoint(tmp_path / "state", "key")
    resumed = trained(base, checkpoint=checkpoint, progress=lambda done, most: seen.append(done))
    assert seen == list(range(after + 1, 13))
    assert_same(resumed, trained(base))
    checkpoint.discard()
    assert checkpoint.load() is None


@pytest.mark.parametrize("change", ["key", "version", "damage", "none"])
def test_another_checkpoint_is_not_used(
    base: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = tmp_path / "state", "other" if change == "key" else "key"
    if change != "none":
        stopped(base, path, monkeypatch)
    if change == "version":
        with safe_open(path, framework="pt") as file:
            vectors = file.get_tensor("vectors")
        save_file({"vectors": vectors, "best": vectors[0].clone()}, path, {"key": key, "run": "{}"})
    if change == "damage":
        path.write_bytes(path.read_bytes()[:100])
    assert Checkpoint(path, key).load() is None
    assert_same(trained(base, checkpoint=Checkpoint(path, key)), trained(base))


def test_a_score_of_no_number_is_the_worst(base: Path) -> None:
    model, part = load(base)
    with Trainer(model, part, NOTHING, Settings(**FAST), ROWS.held_out) as trainer:
        scores = trainer.score(ROWS.held_out, torch.full_like(trainer.start, math.nan))
    assert scores.by_row.max() == 0
