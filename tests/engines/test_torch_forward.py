"""Packed rows give the results of single rows, for the architectures of possible banks."""

from typing import Any

import pytest

from hf_lorameta.engines.packing import passes
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.engines.torch_forward import output_nll, row_nll, sequence_budget, summed_nll

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": SIZES | {"sliding_window": 14},
    "Qwen2": SIZES,
    "Gemma2": SIZES | {"head_dim": 8, "sliding_window": 16},
    "GPT2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "Bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mamba": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}
PREFIX = [5, 7, 9, 11]
ROWS = [
    Tokens([*PREFIX, 1, 2, 3], [4, 5]),
    Tokens([*PREFIX, 8], [9]),
    Tokens([*PREFIX, 1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [6, 6, 6]),
    Tokens(PREFIX, [3, 1, 2]),  # all of the prompt but its last token is shared
]
WITHOUT_PREFIX = [Tokens([1, 2], [3]), Tokens([4], [5, 6]), Tokens([7, 8, 9], [10])]


def model_of(name: str) -> Any:
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    kind = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval().requires_grad_(False)


def logprobs(model: Any, row: Tokens) -> Any:
    """(outputs, V) log-probabilities from a plain forward pass."""
    logits = model(torch.tensor([row.prompt + row.output]), use_cache=False).logits[0]
    return logits[len(row.prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("rows", [ROWS, WITHOUT_PREFIX, ROWS[:1]], ids=["alike", "unlike", "one"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:The fast path is not available")
def test_packed_rows_give_the_results_of_single_rows(name: str, rows: list[Tokens]) -> None:
    model = model_of(name)
    parts = list(passes({0: rows}, sequence_budget(model), output_cost=0))
    logs = [logprobs(model, row).gather(1, torch.tensor(row.output)[:, None]) for row in rows]
    expected = torch.cat(logs)[:, 0].double()
    found = sum(float(summed_nll(model, part)) for part in parts)
    assert found == pytest.approx(-float(expected.sum()), rel=1e-5)
    unshared = passes({0: rows}, sequence_budget(model), share=False, output_cost=0)
    each = torch.cat([row_nll(model, part) for part in unshared])
    assert each.tolist() == pytest.approx([-float(log.mean()) for log in logs], rel=1e-5)
    by_token = torch.cat([output_nll(model, part) for part in parts])
    assert torch.allclose(by_token.double(), -expected, atol=1e-4)


def sizes(rows: list[Tokens], budget: int, share: bool = True) -> list[int]:
    """Number of rows in each pass."""
    return [len(one.by_row) for one in passes({0: rows}, budget, share, output_cost=0)]


def test_common_prefix_counts_once() -> None:
    rows = [Tokens([*range(30), i], [i]) for i in range(40, 50)]
    assert sizes(rows, 40) == [5, 5]
    assert sizes(rows, 64, share=False) == [2] * 5
    mixed = [*rows[:2], Tokens([1], [2]), *rows[2:4]]
    assert sizes(mixed, 40) == [2, 2, 1]
    targets = [token for one in passes({0: mixed}, 40, output_cost=0) for token in one.targets]
    assert targets == [40, 41, 2, 42, 43]
    assert sizes(rows, 0) == [1] * 10


def test_sequence_budget_depends_on_the_architecture() -> None:
    assert {name: sequence_budget(model_of(name)) for name in MODELS} == {
        "Llama": 512, "Mistral": 14, "Qwen2": 512, "Gemma2": 16, "GPT2": 512, "Bloom": 0,
        "Mamba": 0,
    }  # fmt: skip


def test_sequences_of_wide_models_are_longer_except_for_gradients() -> None:
    model = model_of("Llama")
    model.config.hidden_size = 4096
    assert sequence_budget(model) == 2048
    evaluator = TorchEvaluator.__new__(TorchEvaluator)
    evaluator.batch_tokens, evaluator._sequence_budget = 4096, sequence_budget(model)
    rows = [Tokens([i] * 99, [i]) for i in range(40)]
    assert [len(part.by_row) for part in evaluator.packed(rows)] == [20, 20]
    assert [len(part.by_row) for part in evaluator.packed(rows, gradients=True)] == [5] * 8
