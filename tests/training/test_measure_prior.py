"""The output prior on tiny models: it makes the tokens that it is given likelier."""

from typing import Any

import numpy as np
import pytest

from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.method.output_prior import ARCHITECTURES
from tests.support.random_adapter import random_pairs
from tests.training.test_trainable_adapter import model_of
from tests.training.tiny import tokens

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_lorameta.engines.transformers import row_mode  # noqa: E402
from hf_lorameta.training.bank.held_out import TaskRows  # noqa: E402
from hf_lorameta.training.bank.measure_prior import (  # noqa: E402 - they import torch
    collect_states,
    last_projection,
    measure_prior,
)
from hf_lorameta.training.target_layers import find_layout  # noqa: E402

TASKS = [TaskRows(tokens(i, 12), tokens(i, 2)) for i in range(3)]
LIKELY = 7


def measured(kind: str, *targets: str) -> tuple[Any, Any]:
    model = model_of(kind).float()
    layout = find_layout(model, targets or ("q_proj", "v_proj"))
    shapes = [(m.shape("A", 2), m.shape("B", 2)) for m in layout]
    general = [(np.zeros(a, np.float32), np.zeros(b, np.float32)) for a, b in shapes]
    return model, measure_prior(model, LoraWeights(layout, general), TASKS)


def logprob(model: Any, token: int) -> float:
    """Mean log-probability of a token as the first of an output."""
    rows = [row for task in TASKS for row in task.train]
    total = 0.0
    for row in rows:
        logits = model(torch.tensor([row.prompt]), use_cache=False).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
    return total / len(rows)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3"])
def test_prior_makes_the_counted_token_likelier(kind: str) -> None:
    model, prior = measured(kind)
    assert model.config.model_type in ARCHITECTURES
    counts = np.bincount([LIKELY] * 10, minlength=96)
    A, B = prior.factors(OutputCounts(counts, np.zeros_like(counts), 0.0))
    layer = model.get_submodule(prior.module.name)
    before = logprob(model, LIKELY)
    update = torch.from_numpy(B @ A)
    layer.register_forward_hook(lambda module, inputs, output: output + inputs[0] @ update.T)
    assert logprob(model, LIKELY) > before + 1


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "gemma4_text"])
def test_models_with_a_norm_after_the_last_projection_have_no_prior(kind: str) -> None:
    assert measured(kind)[1] is None


def test_adapters_of_the_last_projection_have_no_prior() -> None:
    assert measured("llama", "q_proj", "down_proj")[1] is None
    assert measured("llama", "q_proj", "up_proj")[1] is not None


def test_states_are_those_of_each_row_with_the_adapter() -> None:
    model, rows = model_of("llama"), tokens(1, 6)
    layout = find_layout(model, ("q_proj", "v_proj"))
    pairs = random_pairs(layout, 2, scale=0.2)
    states = collect_states(model, layout, pairs, rows, pass_tokens=30)
    seen: dict[str, list[Any]] = {"inputs": [], "sums": []}
    down = model.get_submodule(last_projection(model).name)
    down.register_forward_pre_hook(lambda _, x: seen["inputs"].append(x[0][0]))
    model.get_decoder().norm.register_forward_pre_hook(lambda _, x: seen["sums"].append(x[0][0]))
    for module, (A, B) in zip(layout, pairs, strict=True):
        model.get_submodule(module.name).weight += torch.from_numpy(B @ A).double()
    for row in rows:
        model(torch.tensor([row.read]), use_cache=False)
    for name, values in seen.items():
        at = [x[-len(row.output) :] for x, row in zip(values, rows, strict=True)]
        torch.testing.assert_close(getattr(states, name), torch.cat(at).float())


def test_prior_of_a_model_on_another_device_is_computed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def to_cpu(values: Any) -> Any:
        return torch.full(values.shape, 0.5, dtype=values.dtype)  # the device has no data

    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    model = model_of("llama").float().to("meta")
    vars(row_mode)["_modes"][model] = row_mode.RowMode.JOINED  # there is nothing to compare
    layout = find_layout(model, ("q_proj", "v_proj"))
    prior = measure_prior(model, LoraWeights(layout, random_pairs(layout, 2)), TASKS)
    assert prior is not None
    assert np.isfinite(prior.embeddings).all()
