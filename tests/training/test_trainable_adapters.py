"""Adapters in slots get the updates that PEFT and torch compute for each on its own."""

from typing import Any

import pytest

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import UsageError
from tests.training.tiny import exact_norms, tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from hf_lorameta.engines.transformers.one_pass import (  # noqa: E402 - they import torch
    by_row,
    token_losses,
)
from hf_lorameta.engines.transformers.row_mode import passes, rows_apart  # noqa: E402
from hf_lorameta.training.target_layers import find_layout, with_all_projections  # noqa: E402
from hf_lorameta.training.trainable_adapters import TrainableAdapters  # noqa: E402

RANK, SCALING, TARGETS = 3, 1.5, ("q_proj", "v_proj", "down_proj")
pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
     "pad_token_id": 0,
}  # fmt: skip
LAYER_TYPES = ["full_attention", "sliding_attention", "full_attention"]
MODELS: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": SIZES | {"sliding_window": 3},
    "Qwen2": SIZES,
    "Qwen3": SIZES | {"head_dim": 8},
    "Gemma2": SIZES
    | {
        "head_dim": 8,
        "sliding_window": 4,
        "attn_logit_softcapping": 5.0,
        "attn_implementation": "eager",
    },
    "Gemma3": SIZES | {"head_dim": 8, "sliding_window": 4, "layer_types": LAYER_TYPES},
    "Gemma4": SIZES
    | {
        "num_hidden_layers": 4,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 4,
        "layer_types": LAYER_TYPES[1:] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 20,
        "final_logit_softcapping": 3.0,
    },
    "Phi3": SIZES,
    "SmolLM3": SIZES | {"eos_token_id": 1, "bos_token_id": 0},
    "GPT2": {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "Lfm2": SIZES | {"layer_types": ["full_attention", "conv", "full_attention"]},
    "Qwen3_5": SIZES
    | {
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}
OTHER_TARGETS = {
    "Phi3": ("qkv_proj", "down_proj"),
    "GPT2": ("c_attn", "c_fc"),
    "Lfm2": ("q_proj", "in_proj", "w2"),
    "Qwen3_5": ("q_proj", "in_proj_qkv", "out_proj", "down_proj"),
}
TOLERANCES = {"Gemma2": 1e-6, "Qwen3_5": 1e-5}
"""Of models of which transformers computes parts in float32: a softmax, states."""


def model_of(name: str) -> Any:
    is_text = name in ("Gemma3", "Gemma4", "Qwen3_5")
    config = getattr(transformers, f"{name}TextConfig" if is_text else f"{name}Config")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**MODELS[name]))
    return exact_norms(model.double().eval().requires_grad_(False))


def targets_of(name: str) -> tuple[str, ...]:
    return OTHER_TARGETS.get(name, TARGETS)


def start_of(slots: Any, slot: int) -> Any:
    """A start whose B is not zero, so that A has a gradient."""
    generator = torch.Generator().manual_seed(slot)
    return 0.2 * torch.randn(slots.size, generator=generator, dtype=torch.float64)


def backward(model: Any, rows: dict[int, list[Tokens]], budget: int) -> dict[int, float]:
    """Mean losses by slot, after a backward pass of their sum."""
    sums: dict[int, float] = dict.fromkeys(rows, 0.0)
    for joined in passes(model, rows, budget):
        parts = by_row(joined, token_losses(model, joined))
        for slot, part in zip(joined.slots, parts, strict=True):
            mean: Any = part.sum() / sum(len(row.output) for row in rows[slot])
            mean.backward(retain_graph=True)
            sums[slot] += mean.item()
    return sums


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


def updated(name: str, rows: dict[int, list[Tokens]]) -> tuple[TrainableAdapters, dict[int, float]]:
    """Two updates of a model's slots, and the losses before the second."""
    model = model_of(name)
    slots = TrainableAdapters(model, find_layout(model, targets_of(name)), RANK, SCALING, count=3)
    for slot in rows:
        slots.start(slot, start_of(slots, slot))
    for _ in range(2):
        with rows_apart(model), slots.attached():
            found = backward(model, rows, budget=60)
        for slot in rows:
            slots.update(slot, lr=0.01)
    return slots, found


@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied embeddings
@pytest.mark.parametrize("name", MODELS)
def test_an_update_equals_peft_with_torch_adamw(name: str) -> None:
    rows = {0: tokens(1, 6), 1: tokens(2, 4, shared=False), 2: tokens(3, 3)}
    slots, found = updated(name, rows)
    for slot, of_slot in rows.items():
        config = peft.LoraConfig(
            r=RANK, lora_alpha=RANK * SCALING, target_modules=list(targets_of(name))
        )
        wrapped = peft.get_peft_model(model_of(name), config).double()
        factors = slots.modules(start_of(slots, slot)[None])
        for module, (A, B) in zip(slots.layout, factors, strict=True):
            layer = wrapped.base_model.model.get_submodule(module.name)
            layer.lora_A["default"].weight.data = A[0].clone()
            layer.lora_B["default"].weight.data = B[0].clone()
        trainable = [p for p in wrapped.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=0.01, weight_decay=0)
        for _ in range(2):
            optimizer.zero_grad()
            loss = reference_loss(wrapped, of_slot)
            loss.backward()
            optimizer.step()
        tolerance = TOLERANCES.get(name, 1e-10)
        assert found[slot] == pytest.approx(float(loss), rel=tolerance)
        of_ours = slots.modules(slots.parameters[slot][None])
        for module, pair in zip(slots.layout, of_ours, strict=True):
            layer = wrapped.base_model.model.get_submodule(module.name)
            for factor, theirs in zip(pair, (layer.lora_A, layer.lora_B), strict=True):
                expected = theirs["default"].weight.data
                torch.testing.assert_close(factor[0], expected, rtol=0, atol=10 * tolerance)


@pytest.mark.filterwarnings("ignore")
def test_clipping_equals_torch_clip_grad_norm() -> None:
    slots = TrainableAdapters(
        model := model_of("Llama"), find_layout(model, TARGETS), RANK, SCALING, 1, 0.5
    )
    slots.start(0, start_of(slots, 0))
    gradient = torch.linspace(-1, 2, slots.size, dtype=torch.float64)
    parameter = torch.nn.Parameter(slots.parameters[0].clone())
    slots.gradients[0], parameter.grad = gradient, gradient.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    torch.optim.AdamW([parameter], lr=0.1, weight_decay=0).step()
    slots.update(0, lr=0.1)
    torch.testing.assert_close(slots.parameters[0], parameter.data, rtol=0, atol=1e-12)
    assert not slots.gradients[0].any()


def test_the_start_is_the_base_model_and_that_of_peft_in_scale() -> None:
    model = model_of("Llama")
    slots = TrainableAdapters(model, find_layout(model, TARGETS), RANK, SCALING, count=1)
    for module, (A, B) in zip(slots.layout, slots.factors(slots.initial(0)), strict=True):
        assert not B.any()
        assert 0.7 / module.in_features**0.5 < abs(A).max() <= 1 / module.in_features**0.5
    assert torch.equal(slots.initial(5), slots.initial(5))
    assert not torch.equal(slots.initial(5), slots.initial(6))


def test_detaching_restores_the_models_own_layers() -> None:
    model = model_of("Llama")
    names = [name for name, _ in model.named_modules()]
    slots = TrainableAdapters(model, find_layout(model, TARGETS), RANK, SCALING, count=1)
    with slots.attached():
        assert [name for name, _ in model.named_modules()] != names
    assert [name for name, _ in model.named_modules()] == names


def test_unknown_targets_are_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match="no linear layers nope") as caught:
        find_layout(model_of("Llama"), ("q_proj", "nope"))
    assert "down_proj" in caught.value.hint


@pytest.mark.parametrize(("name", "count", "beside"), [("Llama", 7, 4), ("Phi3", 4, 3)])
def test_all_projections_are_added_to_a_layout_but_for_those_of_experts(
    name: str, count: int, beside: int
) -> None:
    model, layers = model_of(name), SIZES["num_hidden_layers"]
    head = find_layout(model, ["lm_head"])
    assert len(with_all_projections(model, head)) == count * layers + 1
    experts = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    model.model.layers[0].mlp.add_module("experts", experts)
    layout = with_all_projections(model, head)
    assert set(head) < set(layout)
    assert len(layout) == beside * layers + 1
    assert not [module.name for module in layout if "experts" in module.name]
    assert with_all_projections(model, layout) == layout


def test_all_layers_but_routers_are_adapted_where_names_are_unusual() -> None:
    model = model_of("Llama")
    model.config.model_type = "unusual"
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = torch.nn.Module(), torch.nn.Module()
        layer.mlp.mix, layer.mlp.router = torch.nn.Linear(32, 32), torch.nn.Linear(32, 4)
    layout = with_all_projections(model, ())
    assert [module.name for module in layout] == [f"model.layers.{i}.mlp.mix" for i in range(3)]
    for layer in model.model.layers:
        del layer.mlp.mix
    with pytest.raises(UsageError, match="LlamaForCausalLM has no linear layers that can be"):
        with_all_projections(model, ())


def test_fused_projections_are_adapted_in_place_of_their_parts() -> None:
    layout = find_layout(model_of("Phi3"), ("q_proj", "v_proj", "up_proj"))
    leaves = {module.name.rpartition(".")[2] for module in layout}
    assert leaves == {"qkv_proj", "gate_up_proj"}
    assert len(layout) == 2 * SIZES["num_hidden_layers"]


def with_images(kind: str) -> Any:
    """A model of texts and images, whose text model is that of `model_of`."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        text_config=MODELS[kind], vision_config=vision, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return exact_norms(model.double().eval().requires_grad_(False))


@pytest.mark.parametrize("kind", ["Gemma3", "Gemma4"])
def test_the_text_part_of_a_model_of_images_is_trained(kind: str) -> None:
    model = with_images(kind)
    layout = find_layout(model, ("q_proj", "k_proj"))
    assert all(m.name.startswith("model.language_model.layers.") for m in layout)
    assert len(layout) > MODELS[kind]["num_hidden_layers"]
    rows = tokens(1, 6)
    expected = float(reference_loss(model, rows))
    [joined] = passes(model, {0: rows}, 1000)
    with rows_apart(model):
        assert float(token_losses(model, joined).mean()) == pytest.approx(expected, rel=1e-6)
