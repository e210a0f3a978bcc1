"""llama.cpp with tiny random models: exported adapters against PEFT, long rows, and failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.formats.gguf_adapter import export
from hf_lorameta.formats.gguf_architecture import ARCHITECTURES, BaseArchitecture
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from tests.support.tiny_gguf import MODELS, model_of, write_gguf

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, of tied embeddings

TOKENS = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 10, 5, 77, 200, 33]
PROMPT = 3
REORDERED = ("Llama", "Mistral", "SmolLM3", "Qwen3_5")


def save_adapter(model: Any, folder: Path, targets: Sequence[str] | None = None) -> Any:
    """Save a random adapter of all linear layers that llama.cpp adapts; return PEFT's model."""
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    unused = {"per_layer_model_projection"} | (
        {"lm_head"} if model.config.tie_word_embeddings else set()
    )
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=sorted(targets or linear - unused))
    wrapped = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped


def logprobs(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0].double()
    ids = torch.tensor(TOKENS[PROMPT:])
    chosen = logits.log_softmax(-1)[PROMPT - 1 : -1].gather(1, ids[:, None])[:, 0]
    return np.asarray(chosen)


@pytest.mark.parametrize("kind", MODELS)
def test_exported_adapter_gives_the_log_probabilities_of_peft(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    base = write_gguf(model, tmp_path / "base.gguf")
    expected: dict[Path | None, np.ndarray] = {None: logprobs(model)}
    wrapped = save_adapter(model, tmp_path / "a")
    config = model.config.to_dict()
    path = export(tmp_path / "a", tmp_path / "a.gguf", config, "f32")
    expected[path] = logprobs(wrapped)
    again = export(tmp_path / "a", tmp_path / "b.gguf", base_config(read_metadata(base)), "f32")
    assert again.read_bytes() == path.read_bytes()
    with mock.patch.object(BaseArchitecture, "row_order", return_value=None):
        wrong = export(tmp_path / "a", tmp_path / "c.gguf", config, "f32")
    with LlamaCppEvaluator(base, [path, wrong], max_length=64, exact=True) as engine:
        found = {
            i: engine.logprobs(TOKENS[:PROMPT], TOKENS[PROMPT:], i) for i in (None, path, wrong)
        }
    tolerance = 0.01 if "Gemma" in kind else 1e-3  # ggml computes GELU in float16
    for i in (None, path):
        np.testing.assert_allclose(found[i], expected[i], atol=tolerance)
    assert abs(expected[path] - expected[None]).mean() > 0.2  # the adapter matters
    mistaken = abs(np.array(found[wrong]) - expected[path]).mean() > 0.05
    assert mistaken == (kind in REORDERED)


def test_modules_that_llama_cpp_ignores_are_refused(tmp_path: Path) -> None:
    model = model_of("Gemma4")
    save_adapter(model, tmp_path / "a", ["q_proj", "per_layer_model_projection"])
    with pytest.raises(
        AdapterError, match=r"does not apply adapters of .*per_layer_model"
    ) as error:
        export(tmp_path / "a", tmp_path / "a.gguf", model.config.to_dict())
    assert "--engine transformers" in error.value.hint


def test_every_architecture_of_the_table_has_a_model() -> None:
    types = {model_of(kind).config.model_type for kind in MODELS}
    with_images = {"qwen3_5", "gemma3", "gemma4"}
    assert types | with_images == set(ARCHITECTURES)


# --- long rows ----------------------------------------------------------------------------------


def test_prompts_are_truncated_and_outputs_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_gguf(model_of("Llama"), tmp_path / "base.gguf")
    scored: list[tuple[list[int], list[int]]] = []
    logprobs_of = LlamaCppEvaluator.logprobs

    def record(
        self: LlamaCppEvaluator, prompt: list[int], output: list[int], adapter: Any = None
    ) -> Any:
        scored.append((prompt, output))
        return logprobs_of(self, prompt, output, adapter)

    monkeypatch.setattr(LlamaCppEvaluator, "logprobs", record)
    with LlamaCppEvaluator(base, max_length=10, max_new_tokens=2) as evaluator:
        evaluator.evaluate([("a" * 20, "b" * 6), ("a", "b" * 6)], generate=False)
        with pytest.raises(UsageError, match="output has 11 tokens, expected fewer than 10"):
            evaluator.evaluate([("a", "b" * 9)], generate=False)
    (long, output), (short, same) = scored
    assert len(long) + len(output) == 10
    assert bytes(output[:-1]) == b" bbbbbb"
    assert output[-1] == 256  # the end
    assert same == output
    assert bytes(short) == b"a"
