"""Packed rows give the results of single rows, for the architectures of possible banks."""

import threading
from typing import Any

import pytest

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.joined_rows import join_rows, pad_rows
from tests.support.codes import raises_code
from tests.support.tiny_architectures import tiny_config, tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.row_mode import (  # noqa: E402
    TESTED,
    RowMode,
    is_tested,
    row_mode,
    rows_apart,
    suited_tokens,
)

pytestmark = pytest.mark.usefixtures("one_thread")
MODELS = (
    "llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "gemma2", "gpt2", "bloom", "mamba",
    "qwen3_5_text", "gpt_oss",
)  # fmt: skip
SETTINGS = {"mistral": {"sliding_window": 14}, "gemma2": {"sliding_window": 16}}
PADDED = {"bloom", "mamba", "qwen3_5_text", "gpt_oss"}
PREFIX = [5, 7, 9, 11]
ROWS = [
    Tokens([*PREFIX, 1, 2, 3], [4, 5]),
    Tokens([*PREFIX, 8], [9]),
    Tokens([*PREFIX, 1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [6, 6, 6]),
    Tokens(PREFIX, [3, 1, 2]),  # all of the prompt but its last token is shared
]
WITHOUT_PREFIX = [Tokens([1, 2], [3]), Tokens([4], [5, 6]), Tokens([7, 8, 9], [10])]


def logprobs(model: Any, row: Tokens) -> Any:
    """(outputs, V) log-probabilities from a plain forward pass."""
    logits = model(torch.tensor([row.prompt + row.output]), use_cache=False).logits[0]
    return logits[len(row.prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("rows", [ROWS, WITHOUT_PREFIX, ROWS[:1]], ids=["alike", "unlike", "one"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:The fast path is not available")
def test_rows_together_give_the_results_of_single_rows(
    name: str, rows: list[Tokens], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    model = tiny_model(name, **SETTINGS.get(name, {}))
    logs = [logprobs(model, row) for row in rows]
    expected = [
        -float(log.gather(1, torch.tensor(row.output)[:, None]).sum())
        for log, row in zip(logs, rows, strict=True)
    ]
    attention = model.config._attn_implementation
    mode = RowMode.PADDED if name in PADDED else RowMode.JOINED
    assert row_mode(model) is mode
    assert ("run in padded batches" in caplog.text) == (name in PADDED)
    counts: list[int] = []
    with rows_apart(model):
        found = PassRunner(model, 1, suited_tokens(model)).losses({0: rows}, done=counts.append)[0]
    assert counts == [len(rows)]
    assert found.sums == pytest.approx(expected, abs=1e-4)
    assert found.likeliest == [log.argmax(-1).tolist() for log in logs]
    assert model.config._attn_implementation == attention


def test_the_losses_of_rows_are_their_sums_by_slot_and_row() -> None:
    model = tiny_model("llama")
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


def test_only_classes_of_transformers_that_are_tried_here_are_not_tried_again() -> None:
    joined = [tiny_model(name) for name in MODELS if name not in PADDED]
    assert {type(model).__name__ for model in joined} >= TESTED
    assert sum(map(is_tested, joined)) == len(TESTED)
    namesake = type("LlamaForCausalLM", (transformers.LlamaForCausalLM,), {})
    assert not is_tested(namesake(tiny_config("llama")))


def test_rows_that_change_each_other_in_a_batch_run_one_by_one() -> None:
    class Mixing(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def forward(self, input_ids: Any, logits_to_keep: Any = 0) -> Any:
            found = super().forward(input_ids, logits_to_keep=logits_to_keep)
            found.logits[..., 0] += len(input_ids)
            return found

        def set_attn_implementation(self, name: str) -> None:
            raise ValueError(name)

    model = Mixing(tiny_config("llama")).eval().requires_grad_(False)
    assert row_mode(model) is RowMode.SINGLE
    with rows_apart(model):
        found = PassRunner(model, 1, 1000).losses({0: ROWS[:2]})[0]
    singly = [PassRunner(model, 1, 1000).losses({0: [row]})[0].sums for row in ROWS[:2]]
    assert [found.sums] == [[total for [total] in singly]]


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    model = transformers.BertLMHeadModel(tiny_config("bert", is_decoder=False)).eval()
    with raises_code("base.not-causal"):
        row_mode(model)


def test_a_model_that_needs_more_than_token_ids_is_refused() -> None:
    class Needy(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def forward(self, input_ids: Any, pixels: Any) -> Any:
            return super().forward(input_ids, pixels=pixels)

    model = Needy(tiny_config("llama")).eval()
    with raises_code("base.needs-more-than-text", match="pixels"):
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
    model = tiny_model("llama")
    assert suited_tokens(model) == 1024
    model.config.hidden_size = 4096
    assert suited_tokens(model) == 2048


def test_padding_and_outputs_count_in_the_size_of_a_batch() -> None:
    rows = [Tokens([1] * 9, [2, 3]), Tokens([1] * 9, [2, 3]), Tokens([1], [2])]
    assert [one.indices for one in pad_rows({0: rows}, 22)] == [(2,), (0, 1)]
    assert [one.indices for one in pad_rows({0: rows}, 21)] == [(2,), (0,), (1,)]
    assert [one.indices for one in pad_rows({0: rows}, 40)] == [(2, 0, 1)]
