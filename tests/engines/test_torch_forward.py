"""Packed rows give the results of single rows, for the architectures of possible banks."""

from typing import Any

import pytest

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.joined_rows import join_rows, row_attention
from hf_lorameta.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.transformers.forward import (  # noqa: E402 - it imports torch
    PassRunner,
    rows_apart,
    sequence_budget,
    token_losses,
)

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
    logs = [logprobs(model, row).gather(1, torch.tensor(row.output)[:, None]) for row in rows]
    expected = -torch.cat(logs)[:, 0].double()
    attention = model.config._attn_implementation
    parts = list(join_rows({0: rows}, sequence_budget(model)))
    assert len(parts) == 1 or not sequence_budget(model)
    with rows_apart(model):
        found = torch.cat([token_losses(model, part) for part in parts])
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert model.config._attn_implementation == attention


def test_the_losses_of_rows_are_their_sums_by_slot_and_row() -> None:
    model = model_of("Llama")
    rows = {2: ROWS[:3], 0: WITHOUT_PREFIX}
    done: list[int] = []
    with rows_apart(model):
        for workers, budget in ((1, 1000), (3, 20)):
            runner = PassRunner(model, workers, budget)
            found = runner.losses(rows, done=done.append)
            for slot, of_slot in rows.items():
                for row, total in zip(of_slot, found[slot].sums, strict=True):
                    log = logprobs(model, row).gather(1, torch.tensor(row.output)[:, None])
                    assert total == pytest.approx(-float(log.sum()), rel=1e-5)
                assert found[slot].sizes == [len(row.output) for row in of_slot]
    assert done[0] == 6
    assert sum(done[1:]) == 6
    assert len(done) > 3


@pytest.mark.parametrize("name", ["s_aux", "position_bias"])
def test_attention_with_other_scores_is_refused(name: str) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(UsageError, match=f"attention with {name}"):
        row_attention(None, q, q, q, None, **{name: torch.zeros(1)})


def test_a_model_with_attention_sinks_gets_one_row_at_a_time() -> None:
    config = transformers.GptOssConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    with torch.device("meta"):
        assert sequence_budget(transformers.GptOssForCausalLM(config)) == 0


def sizes(rows: list[Tokens], budget: int) -> list[int]:
    """Number of rows in each pass."""
    return [len(one.by_row) for one in join_rows({0: rows}, budget)]


def test_common_prefix_counts_once_and_an_output_token_half_more() -> None:
    rows = [Tokens([*range(30), i], [i]) for i in range(40, 50)]
    assert sizes(rows, 43) == [5, 5]
    mixed = [*rows[:2], Tokens([1], [2]), *rows[2:4]]
    assert sizes(mixed, 43) == [2, 2, 1]
    targets = [token for one in join_rows({0: mixed}, 43) for token in one.targets]
    assert targets == [40, 41, 2, 42, 43]
    assert sizes(rows, 0) == [1] * 10


def test_sequence_budget_depends_on_the_architecture_and_its_width() -> None:
    assert {name: sequence_budget(model_of(name)) for name in MODELS} == {
        "Llama": 1024, "Mistral": 1024, "Qwen2": 1024, "Gemma2": 1024, "GPT2": 1024, "Bloom": 0,
        "Mamba": 0,
    }  # fmt: skip
    model = model_of("Llama")
    model.config.hidden_size = 4096
    assert sequence_budget(model) == 2048
