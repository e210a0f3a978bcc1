"""Adapters that were exported for mlx-lm change outputs as PEFT does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.mlx_adapter import CONFIG, WEIGHTS, export
from tests.conftest import adapter_files, write_files
from tests.support.codes import raises_code

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated"  # by PEFT
)


def base_model() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of some modules, with random weights and a scale that is not 1."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=10,
        target_modules=["q_proj", "v_proj", "down_proj"],
        layers_to_transform=[1, 2],
    )
    model = peft.get_peft_model(base_model(), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def exported(adapter: Path, dtype: Any = "f32") -> tuple[dict[str, Any], dict[str, Any]]:
    target = adapter.parent / "mlx"
    target.mkdir(exist_ok=True)
    export(adapter, target, dtype)
    return json.loads((target / CONFIG).read_text()), load_file(target / WEIGHTS)


def test_products_are_those_of_peft(adapter: Path) -> None:
    stated, tensors = exported(adapter)
    parameters = stated["lora_parameters"]
    assert parameters["scale"] == 2.5
    assert parameters["rank"] == 4
    assert (stated["fine_tune_type"], stated["num_layers"]) == ("lora", 3)
    assert len(parameters["keys"]) == 6
    assert tensors.keys() == {f"{key}.lora_{f}" for key in parameters["keys"] for f in "ab"}
    model = peft.PeftModel.from_pretrained(base_model(), adapter).eval()
    for key in parameters["keys"]:
        layer = model.base_model.model.get_submodule(key)
        x = torch.randn(5, layer.in_features)
        with torch.no_grad():
            expected = (layer(x) - layer.base_layer(x)).numpy()
        a, b = tensors[f"{key}.lora_a"], tensors[f"{key}.lora_b"]
        assert a.shape == (layer.in_features, 4)
        ours = parameters["scale"] * (x.numpy() @ a @ b)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_it_is_written_in_16_bits_and_twice_alike(adapter: Path) -> None:
    exported(adapter, "f16")
    first = [(adapter.parent / "mlx" / name).read_bytes() for name in (CONFIG, WEIGHTS)]
    _, tensors = exported(adapter, "f16")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
    assert first == [(adapter.parent / "mlx" / name).read_bytes() for name in (CONFIG, WEIGHTS)]


def test_mlx_lm_answers_as_peft_does(adapter: Path, tmp_path: Path) -> None:
    """Runs where mlx and mlx-lm are installed, which they need not be."""
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    base_model().save_pretrained(tmp_path / "base")
    exported(adapter)
    model, _ = utils.load_model(tmp_path / "base")
    tuner = pytest.importorskip("mlx_lm.tuner.utils")
    model = tuner.load_adapters(model, str(tmp_path / "mlx"))
    tokens = [[3, 1, 4, 1, 5, 9, 2, 6]]
    theirs = np.array(model(mx.array(tokens)))
    with torch.no_grad():
        peft_model = peft.PeftModel.from_pretrained(base_model(), adapter).eval()
        expected = peft_model(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(theirs, expected, rtol=1e-3, atol=1e-3)


def test_modules_outside_of_the_layers_are_refused(tmp_path: Path) -> None:
    module = Module("model.language_model.layers.0.self_attn.q_proj", 4, 4)
    folder = write_files(tmp_path / "a", adapter_files(layout=(module,)))
    (tmp_path / "mlx").mkdir()
    with raises_code("mlx.other-module"):
        export(folder, tmp_path / "mlx")
    assert not list((tmp_path / "mlx").iterdir())
