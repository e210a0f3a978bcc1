"""Adapters that were exported to GGUF, run by llama.cpp on a tiny model of each architecture."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import pytest

from hf_lorameta.formats.gguf_adapter import export
from hf_lorameta.formats.gguf_architecture import ARCHITECTURES, BaseArchitecture
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from tests.support.codes import raises_code
from tests.support.tiny_gguf import MODELS, model_of, write_gguf

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("gguf")
xllamacpp = pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT, of tied embeddings

PROMPTS = [[72, 101, 108, 108, 111], [32, 119, 111], [114, 108, 100, 10, 5, 77, 200]]
TOKENS = 12
END = 256
REORDERED = ("Llama", "Mistral", "SmolLM3", "Qwen3_5")
"""Models whose rows llama.cpp has in another order."""
Answer = Callable[[Path | None], list[list[int]]]
"""Continues `PROMPTS` with an adapter."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fastest for a tiny model
    yield
    torch.set_num_threads(threads)


@contextmanager
def llama_cpp(base: Path, adapters: Sequence[Path]) -> Iterator[Answer]:
    """Run llama.cpp's server in this process, with keys and values in float32."""
    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in adapters]
    params.n_ctx, params.n_parallel, params.port, params.verbosity = 128, 1, 0, -1
    params.cache_ram_mib = 0
    params.warmup, params.ui, params.offline, params.fit_params = False, False, True, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server: Any = xllamacpp.Server(params)

    def answer(adapter: Path | None) -> list[list[int]]:
        scales = [{"id": i, "scale": float(path == adapter)} for i, path in enumerate(adapters)]
        asked = {"temperature": 0, "n_predict": TOKENS, "return_tokens": True, "lora": scales}
        url, answers = f"{server.listening_address}/completion", []
        for prompt in PROMPTS:
            body = asked | {"prompt": prompt, "cache_prompt": False}
            response = httpx2.post(url, json=body, trust_env=False, timeout=60)
            answers.append([token for token in response.json()["tokens"] if token != END])
        return answers

    yield answer


def greedy(model: Any) -> list[list[int]]:
    answers = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(TOKENS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == END:
                break
        answers.append([token for token in ids[len(prompt) :] if token != END])
    return answers


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_greedy_answers_with_an_exported_adapter_are_those_of_peft(
    kind: str, tmp_path: Path
) -> None:
    model = model_of(kind)
    base, config = write_gguf(model, tmp_path / "base.gguf"), model.config.to_dict()
    plain = greedy(model)
    adapted = greedy(save_adapter(model, tmp_path / "a"))
    path = export(tmp_path / "a", tmp_path / "a.gguf", config, "f32")
    again = export(tmp_path / "a", tmp_path / "b.gguf", base_config(read_metadata(base)), "f32")
    assert again.read_bytes() == path.read_bytes()
    with mock.patch.object(BaseArchitecture, "row_order", return_value=None):
        wrong = export(tmp_path / "a", tmp_path / "c.gguf", config, "f32")
    with llama_cpp(base, [path, wrong]) as answer:
        assert answer(None) == plain
        assert answer(path) == adapted != plain
        assert (answer(wrong) != adapted) == (kind in REORDERED)


def test_modules_that_llama_cpp_ignores_are_refused(tmp_path: Path) -> None:
    model = model_of("Gemma4")
    save_adapter(model, tmp_path / "a", ["q_proj", "per_layer_model_projection"])
    with raises_code("gguf.module-not-applied", match="per_layer_model"):
        export(tmp_path / "a", tmp_path / "a.gguf", model.config.to_dict())


def test_every_architecture_of_the_table_has_a_model() -> None:
    types = {model_of(kind).config.model_type for kind in MODELS}
    with_images = {"qwen3_5", "gemma3", "gemma4"}
    assert types | with_images == set(ARCHITECTURES)
