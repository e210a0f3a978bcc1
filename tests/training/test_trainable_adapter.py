"""An adapter gets the updates that PEFT and torch compute."""

from typing import Any

import pytest

from hf_lorameta.engines.row_tokens import Tokens
from tests.support.codes import raises_code
from tests.support.tiny_architectures import tiny_model
from tests.training.tiny import exact_norms, tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from hf_lorameta.engines.transformers.one_pass import token_losses  # noqa: E402 - imports torch
from hf_lorameta.engines.transformers.row_mode import passes, rows_apart  # noqa: E402
from hf_lorameta.training.target_layers import find_layout, with_all_projections  # noqa: E402
from hf_lorameta.training.trainable_adapter import TrainableAdapter  # noqa: E402

RANK, SCALING, TARGETS, LAYERS = 3, 1.5, ("q_proj", "v_proj", "down_proj"), 4
pytestmark = pytest.mark.usefixtures("one_thread")
MODELS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma4_text", "phi3",
    "smollm3", "gpt2", "lfm2", "qwen3_5_text",
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "attn_implementation": "eager"},
    "gemma3_text": {"sliding_window": 4},
    "gemma4_text": {
        "sliding_window": 4, "num_kv_shared_layers": 2, "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "lfm2": {"layer_types": ["full_attention", "conv"] * 2},
}  # fmt: skip
OTHER_TARGETS = {
    "phi3": ("qkv_proj", "down_proj"),
    "gpt2": ("c_attn", "c_fc"),
    "lfm2": ("q_proj", "in_proj", "w2"),
    "qwen3_5_text": ("q_proj", "in_proj_qkv", "out_proj", "down_proj"),
}
TOLERANCES = {"gemma2": 1e-6, "qwen3_5_text": 1e-5}
"""Of models of which transformers computes parts in float32: a softmax, states."""


def model_of(name: str) -> Any:
    return exact_norms(tiny_model(name, **SETTINGS.get(name, {})).double())


def targets_of(name: str) -> tuple[str, ...]:
    return OTHER_TARGETS.get(name, TARGETS)


def start_of(adapter: Any) -> Any:
    """A start whose B is not zero, so that A has a gradient."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 * torch.randn(adapter.size, generator=generator, dtype=torch.float64)


def backward(model: Any, rows: dict[int, list[Tokens]], budget: int) -> float:
    """Mean loss of the rows of all shares, after its backward pass."""
    total, count = 0.0, sum(len(row.output) for of_share in rows.values() for row in of_share)
    for joined in passes(model, rows, budget):
        mean: Any = token_losses(model, joined).sum() / count
        mean.backward()
        total += mean.item()
    return total


def reference_loss(model: Any, rows: list[Tokens]) -> Any:
    """Mean loss of rows one by one, by the model's own attention."""
    losses = []
    for prompt, output in rows:
        logits = model(torch.tensor([[*prompt, *output]]), use_cache=False).logits[0]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[len(prompt) - 1 : -1], torch.tensor(output), reduction="none"
            )
        )
    return torch.cat(losses).mean()


@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied embeddings
@pytest.mark.parametrize("name", MODELS)
def test_an_update_equals_peft_with_torch_adamw(name: str) -> None:
    """However the rows are shared, after two updates."""
    shares = {0: tokens(1, 6), 1: tokens(1, 4, shared=False), 2: tokens(1, 3)}
    model = model_of(name)
    adapter = TrainableAdapter(model, find_layout(model, targets_of(name)), RANK, SCALING, 3)
    adapter.start(start_of(adapter))
    for _ in range(2):
        with rows_apart(model), adapter.attached():
            found = backward(model, shares, budget=60)
        adapter.update(lr=0.01)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=RANK * SCALING, target_modules=list(targets_of(name))
    )
    wrapped = peft.get_peft_model(model_of(name), config).double()
    factors = adapter.modules(start_of(adapter)[None])
    for module, (A, B) in zip(adapter.layout, factors, strict=True):
        layer = wrapped.base_model.model.get_submodule(module.name)
        layer.lora_A["default"].weight.data = A[0].clone()
        layer.lora_B["default"].weight.data = B[0].clone()
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.01, weight_decay=0)
    for _ in range(2):
        optimizer.zero_grad()
        loss = reference_loss(wrapped, [row for of_share in shares.values() for row in of_share])
        loss.backward()
        optimizer.step()
    tolerance = TOLERANCES.get(name, 1e-10)
    assert found == pytest.approx(float(loss), rel=tolerance)
    of_ours = adapter.modules(adapter.parameters[None])
    for module, pair in zip(adapter.layout, of_ours, strict=True):
        layer = wrapped.base_model.model.get_submodule(module.name)
        for factor, theirs in zip(pair, (layer.lora_A, layer.lora_B), strict=True):
            expected = theirs["default"].weight.data
            torch.testing.assert_close(factor[0], expected, rtol=0, atol=10 * tolerance)


@pytest.mark.filterwarnings("ignore")
def test_clipping_equals_torch_clip_grad_norm() -> None:
    adapter = adapter_of(model_of("llama"), 2, 0.5)
    adapter.start(start_of(adapter))
    gradient = torch.linspace(-1, 2, adapter.size, dtype=torch.float64)
    parameter = torch.nn.Parameter(adapter.parameters.clone())
    parameter.grad = gradient.clone()
    adapter.gradients[0], adapter.gradients[1] = 3 * gradient, -2 * gradient
    torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    torch.optim.AdamW([parameter], lr=0.1, weight_decay=0).step()
    adapter.update(lr=0.1)
    torch.testing.assert_close(adapter.parameters, parameter.data, rtol=0, atol=1e-12)
    assert not adapter.gradients.any()


def adapter_of(model: Any, *options: Any) -> TrainableAdapter:
    return TrainableAdapter(model, find_layout(model, TARGETS), RANK, SCALING, *options)


def test_the_start_is_the_base_model_and_that_of_peft_in_scale() -> None:
    adapter = adapter_of(model_of("llama"))
    for module, (A, B) in zip(adapter.layout, adapter.factors(adapter.initial(0)), strict=True):
        assert not B.any()
        assert 0.7 / module.in_features**0.5 < abs(A).max() <= 1 / module.in_features**0.5
    assert torch.equal(adapter.initial(5), adapter.initial(5))
    assert not torch.equal(adapter.initial(5), adapter.initial(6))


def test_detaching_restores_the_models_own_layers() -> None:
    model = model_of("llama")
    names = [name for name, _ in model.named_modules()]
    with adapter_of(model).attached():
        assert [name for name, _ in model.named_modules()] != names
    assert [name for name, _ in model.named_modules()] == names


def test_unknown_targets_are_refused_with_the_choices() -> None:
    with raises_code("targets.unknown", match="nope") as caught:
        find_layout(model_of("llama"), ("q_proj", "nope"))
    assert "down_proj" in caught.value.hint


@pytest.mark.parametrize(("name", "count", "beside"), [("llama", 7, 4), ("phi3", 4, 3)])
def test_all_projections_are_added_to_a_layout_but_for_those_of_experts(
    name: str, count: int, beside: int
) -> None:
    model = model_of(name)
    head = find_layout(model, ["lm_head"])
    assert len(with_all_projections(model, head)) == count * LAYERS + 1
    experts = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    model.model.layers[0].mlp.add_module("experts", experts)
    layout = with_all_projections(model, head)
    assert set(head) < set(layout)
    assert len(layout) == beside * LAYERS + 1
    assert not [module.name for module in layout if "experts" in module.name]
    assert with_all_projections(model, layout) == layout


def test_all_layers_but_routers_are_adapted_where_names_are_unusual() -> None:
    model = model_of("llama")
    model.config.model_type = "unusual"
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = torch.nn.Module(), torch.nn.Module()
        layer.mlp.mix, layer.mlp.router = torch.nn.Linear(32, 32), torch.nn.Linear(32, 4)
    layout = with_all_projections(model, ())
    assert [module.name for module in layout] == [
        f"model.layers.{i}.mlp.mix" for i in range(LAYERS)
    ]
    for layer in model.model.layers:
        del layer.mlp.mix
    with raises_code("targets.none-in-model"):
        with_all_projections(model, ())


def test_fused_projections_are_adapted_in_place_of_their_parts() -> None:
    layout = find_layout(model_of("phi3"), ("q_proj", "v_proj", "up_proj"))
    leaves = {module.name.rpartition(".")[2] for module in layout}
    assert leaves == {"qkv_proj", "gate_up_proj"}
    assert len(layout) == 2 * LAYERS


@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_the_text_part_of_a_model_of_images_is_trained(kind: str) -> None:
    model = model_of(kind)
    layout = find_layout(model, ("q_proj", "k_proj"))
    assert all(m.name.startswith("model.language_model.layers.") for m in layout)
    assert len(layout) > LAYERS
    rows = tokens(1, 6)
    expected = float(reference_loss(model, rows))
    [joined] = passes(model, {0: rows}, 1000)
    with rows_apart(model):
        assert float(token_losses(model, joined).mean()) == pytest.approx(expected, rel=1e-6)
