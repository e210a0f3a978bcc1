"""Checks of a base model from its configuration alone."""

from pathlib import Path

import pytest

from hf_lorameta.errors import UsageError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.training.settings import Settings

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from hf_lorameta.training import device  # noqa: E402 - imports torch
from hf_lorameta.training.checks import check_base  # noqa: E402


def test_base_that_cannot_be_trained_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    transformers.Lfm2Config(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, layer_types=["conv", "full_attention"], pad_token_id=0,
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(UsageError, match="Lfm2ForCausalLM"):
        check_base(tmp_path, Settings(), "cpu", "float32", 1)


def test_passes_are_shorter_where_logits_take_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_free_memory", lambda name: 10**9)
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 1)
    layout = (Module("q_proj", 8, 8),)
    tokens = {
        vocabulary: device.fit(
            tmp_path,
            transformers.LlamaConfig(vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2,
                                     intermediate_size=64),
            layout, 4, device="cpu", dtype="float32",
        ).pass_tokens
        for vocabulary in (1000, 500_000)
    }  # fmt: skip
    assert tokens[1000] == 1024
    output_tokens = tokens[500_000] / 1.5
    assert 0.5e9 < 12 * 500_000 * output_tokens < 0.6e9
