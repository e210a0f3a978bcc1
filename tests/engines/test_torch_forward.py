"""Packed rows give the results of single rows, for the architectures of possible banks."""

import threading
from typing import Any

import pytest

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.joined_rows import join_rows, pad_rows
from hf_lorameta.errors import UsageError
from tests.support.tiny_architectures import tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.row_mode import (  # noqa: E402
    RowMode,
    row_mode,
    rows_apart,
    suited_tokens,
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
MODELS["Qwen3_5"] = SIZES | {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
MODELS["GptOss"] = SIZES | {
    "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8,
}  # fmt: skip
PADDED = {"Bloom", "Mamba", "Qwen3_5", "GptOss"}
PREFIX = [5, 7, 9, 11]
ROWS = [
    Tokens([*PREFIX, 1, 2, 3], [4, 5]),
    Tokens([*PREFIX, 8], [9]),
    Tokens([*PREFIX, 1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [6, 6, 6]),
    Tokens(PREFIX, [3, 1, 2]),  # all of the prompt but its last token is shared
]
WITHOUT_PREFIX = [Tokens([1, 2], [3]), Tokens([4], [5, 6]), Tokens([7, 8, 9], [10])]


def model_of(name: str) -> Any:
    suffix = "TextConfig" if name == "Qwen3_5" else "Config"
    config = getattr(transformers, f"{name}{suffix}")(**MODELS[name])
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
def test_rows_together_give_the_results_of_single_rows(name: str, rows: list[Tokens]) -> None:
    model = model_of(name)
    logs = [logprobs(model, row) for row in rows]
    expected = [
        -float(log.gather(1, torch.tensor(row.output)[:, None]).sum())
        for log, row in zip(logs, rows, strict=True)
    ]
    attention = model.config._attn_implementation
    mode = RowMode.PADDED if name in PADDED else RowMode.JOINED
    assert row_mode(model) is mode
    counts: list[int] = []
    with rows_apart(model):
        found = PassRunner(model, 1, suited_tokens(model)).losses({0: rows}, done=counts.append)[0]
    assert counts == [len(rows)]
    assert found.sums == pytest.approx(expected, abs=1e-4)
    assert found.likeliest == [log.argmax(-1).tolist() for log in logs]
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


@pytest.mark.parametrize(("kind", "one_thread_only"), [("recurrent_gemma", True), ("mamba", False)])
def test_passes_of_layers_that_keep_states_run_in_one_thread(
    kind: str, one_thread_only: bool
) -> None:
    model, used = tiny_model(kind), set[int]()
    runner = PassRunner(model, 2, 16)
    model.register_forward_pre_hook(lambda *_: used.add(threading.get_ident()))
    runner.losses({0: ROWS[:3]})
    assert (used == {threading.get_ident()}) is one_thread_only


def test_rows_that_change_each_other_in_a_batch_run_one_by_one() -> None:
    class Mixing(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def forward(self, input_ids: Any, logits_to_keep: Any = 0) -> Any:
            found = super().forward(input_ids, logits_to_keep=logits_to_keep)
            found.logits[..., 0] += len(input_ids)
            return found

        def set_attn_implementation(self, name: str) -> None:
            raise ValueError(name)

    model = Mixing(transformers.LlamaConfig(**SIZES)).eval().requires_grad_(False)
    assert row_mode(model) is RowMode.SINGLE
    with rows_apart(model):
        found = PassRunner(model, 1, 1000).losses({0: ROWS[:2]})[0]
    singly = [PassRunner(model, 1, 1000).losses({0: [row]})[0].sums for row in ROWS[:2]]
    assert [found.sums] == [[total for [total] in singly]]


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(UsageError, match="BertLMHeadModel is not a causal language model"):
        row_mode(model)


def test_a_model_that_needs_more_than_token_ids_is_refused() -> None:
    class Needy(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def forward(self, input_ids: Any, pixels: Any) -> Any:
            return super().forward(input_ids, pixels=pixels)

    model = Needy(transformers.LlamaConfig(**SIZES)).eval()
    with pytest.raises(UsageError, match=r"cannot be run on a text alone: .*pixels"):
        row_mode(model)


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


def test_wide_models_get_more_tokens_in_a_pass() -> None:
    model = model_of("Llama")
    assert suited_tokens(model) == 1024
    model.config.hidden_size = 4096
    assert suited_tokens(model) == 2048


def test_padding_and_outputs_count_in_the_size_of_a_batch() -> None:
    rows = [Tokens([1] * 9, [2, 3]), Tokens([1] * 9, [2, 3]), Tokens([1], [2])]
    assert [one.indices for one in pad_rows({0: rows}, 22)] == [(2,), (0, 1)]
    assert [one.indices for one in pad_rows({0: rows}, 21)] == [(2,), (0,), (1,)]
    assert [one.indices for one in pad_rows({0: rows}, 40)] == [(2, 0, 1)]
