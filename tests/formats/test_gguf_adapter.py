"""GGUF adapters, compared with PEFT's tensors, the rotary embedding and llama.cpp's names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.environment import install_hint
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.formats.gguf_adapter import export
from hf_lorameta.formats.gguf_architecture import ARCHITECTURES, permute, tile
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.lora_layout import Layout, Module, canonical_order
from tests.support import shared_data
from tests.support.codes import raises_code
from tests.support.random_adapter import random_pairs, write_adapter
from tests.support.tiny_gguf import interleaved, tiled

gguf = pytest.importorskip("gguf")

LAYERS, HEADS, KV_HEADS, HEAD, RANK = 2, 4, 2, 6, 3
HIDDEN, INNER = HEADS * HEAD, 10
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HEADS * HEAD),
    "self_attn.k_proj": (HIDDEN, KV_HEADS * HEAD),
    "self_attn.v_proj": (HIDDEN, KV_HEADS * HEAD),
    "self_attn.o_proj": (HEADS * HEAD, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
NAMES = {  # in llama.cpp, the same for all supported architectures
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYOUT = tuple(
    sorted(
        (
            Module(f"model.layers.{i}.{name}", *shape)
            for i in range(LAYERS)
            for name, shape in SHAPES.items()
        ),
        key=lambda module: canonical_order(module.name),
    )
)


def config(kind: str = "llama", **changes: object) -> dict[str, Any]:
    plain = {
        "model_type": kind,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_value_head_dim": 4,
    }
    return plain | changes


def save(folder: Path, layout: Layout = LAYOUT, scale: float = 0.1, **settings: Any) -> Path:
    """Write a PEFT folder with random weights; `settings` override its config."""
    return write_adapter(folder, layout, random_pairs(layout, RANK, scale=scale), **settings)


def read(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


# --- the permutation ----------------------------------------------------------------------------


def rotated_by_halves(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotate one head as transformers does: row i with row i + d/2."""
    half = len(angles)
    a, b = x[:half], x[half:]
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    )


def rotated_by_pairs(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotate one head as llama.cpp does (``GGML_ROPE_TYPE_NORMAL``): neighboring rows."""
    a, b = x[0::2], x[1::2]
    result = np.empty_like(x)
    result[0::2] = a * np.cos(angles) - b * np.sin(angles)
    result[1::2] = b * np.cos(angles) + a * np.sin(angles)
    return result


@given(heads=st.integers(1, 5), half=st.integers(1, 8), seed=st.integers(0, 1000))
def test_permuted_rows_rotate_in_llama_cpp_as_in_transformers(
    heads: int, half: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    query, angles = rng.normal(size=(heads, 2 * half)), rng.normal(size=half)
    in_transformers = np.stack([rotated_by_halves(head, angles) for head in query]).reshape(-1, 1)
    permuted = permute(query.reshape(-1, 1), heads).reshape(heads, 2 * half)
    in_llama_cpp = np.stack([rotated_by_pairs(head, angles) for head in permuted]).reshape(-1, 1)
    np.testing.assert_allclose(in_llama_cpp, permute(in_transformers, heads), atol=1e-12)


@given(groups=st.integers(1, 4), each=st.integers(1, 3), size=st.integers(1, 4))
def test_value_heads_are_tiled_as_by_llama_cpp(groups: int, each: int, size: int) -> None:
    rows = np.arange(groups * each * size)
    expected = tiled(rows, groups, groups * each, size)
    np.testing.assert_array_equal(tile(rows, groups, groups * each), expected)


# --- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - {"phi3"}))  # phi3 has other modules
def test_file_holds_the_tensors_of_the_peft_adapter(tmp_path: Path, kind: str, dtype: Any) -> None:
    folder = save(tmp_path / "a")
    path = export(folder, tmp_path / "a.gguf", config(kind), dtype)
    weights, exported = AdapterFile(folder / WEIGHTS_FILE), read(path)
    assert len(exported) == 2 * len(LAYOUT)
    for module in LAYOUT:
        layer, short = module.name.split(".", 3)[2:]
        name = f"blk.{layer}.{NAMES[short]}.weight"
        lora_b = weights.tensor(module.name, "B")
        heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(short)
        if heads and kind in ("llama", "mistral", "smollm3"):
            lora_b = interleaved(lora_b, heads)
        kinds = {"f16": np.float16, "f32": np.float32}
        lora_a = weights.tensor(module.name, "A")
        for got, expected in (
            (exported[f"{name}.lora_a"], lora_a),
            (exported[f"{name}.lora_b"], lora_b),
        ):
            assert got.dtype == kinds[dtype]
            np.testing.assert_array_equal(got, expected.astype(kinds[dtype]))
    metadata = read_metadata(path)
    names = {"mistral": "llama", "qwen3_5": "qwen35"}
    plain = kind.removesuffix("_text")
    assert metadata["general.architecture"] == names.get(plain, plain)
    assert metadata["general.type"] == "adapter"
    assert metadata["adapter.type"] == "lora"
    assert metadata["general.base_model.0.name"] == "o/base"


def test_untied_output_layer_is_exported(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", (*LAYOUT, Module("lm_head", HIDDEN, 12)))
    exported = read(export(folder, tmp_path / "a.gguf", config()))
    assert exported["output.weight.lora_b"].shape == (12, RANK)
    with raises_code("gguf.no-counterpart", match="lm_head"):
        export(folder, tmp_path / "b.gguf", config(tie_word_embeddings=True))


def test_text_model_within_a_model_of_images_is_exported(tmp_path: Path) -> None:
    plain = read(export(save(tmp_path / "a"), tmp_path / "a.gguf", config("gemma3_text")))
    nested = {"model_type": "gemma3", "text_config": config("gemma3_text")}
    for prefix in ("model.language_model.", "language_model.model."):
        layout = tuple(m._replace(name=m.name.replace("model.", prefix, 1)) for m in LAYOUT)
        path = export(save(tmp_path / "b", layout), tmp_path / "b.gguf", nested)
        assert read(path).keys() == plain.keys()
        assert all((values == plain[name]).all() for name, values in read(path).items())


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({"lora_alpha": 8}, 8.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 * RANK**0.5),  # llama.cpp divides by the rank
    ],
)
def test_scaling_is_stored_as_alpha(tmp_path: Path, settings: dict[str, Any], alpha: float) -> None:
    folder = save(tmp_path / "a", **settings)
    path = export(folder, tmp_path / "a.gguf", config())
    assert read_metadata(path)["adapter.lora.alpha"] == pytest.approx(alpha)


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    one = export(folder, tmp_path / "one.gguf", config()).read_bytes()
    assert export(folder, tmp_path / "two.gguf", config()).read_bytes() == one
    assert not list(tmp_path.glob(".*"))


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", None, "gemma3n"])
def test_unsupported_architecture_is_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(UsageError, match="llama, mistral, smollm3, qwen2, qwen3"):
        export(save(tmp_path / "a"), tmp_path / "a.gguf", config(kind))


LINEAR = (Module("model.layers.0.linear_attn.in_proj_z", HIDDEN, 24),)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("llama", {"num_hidden_layers": 1}, "layers.1.mlp.down_proj has no counterpart"),
        ("llama", {"num_attention_heads": 5}, "24 rows, which do not divide into 5 heads"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads 0"),
        ("llama", {"num_key_value_heads": "2"}, "num_key_value_heads '2'"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers None"),
        ("qwen3_5", {"linear_num_value_heads": 5}, "expected a multiple of 2"),
        ("qwen3_5", {"linear_num_value_heads": 8}, "24 rows, which do not divide into 8 heads"),
        ("qwen3_5", {"linear_num_key_heads": None}, "linear_num_key_heads None"),
    ],
)
def test_base_that_does_not_fit_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], reason: str
) -> None:
    folder = save(tmp_path / "a", LINEAR if kind == "qwen3_5" else LAYOUT)
    with pytest.raises(AdapterError, match=reason):
        export(folder, tmp_path / "a.gguf", config(kind, **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_export_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    with raises_code("file.not-written"):
        export(folder, tmp_path / "nowhere" / "a.gguf", config())
    target = tmp_path / "old.gguf"
    target.write_bytes(b"earlier")
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with raises_code("safetensors.other-size"):
        export(folder, target, config())
    assert target.read_bytes() == b"earlier"


def test_missing_gguf_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_code("extra.missing") as caught:
        export(save(tmp_path / "a"), tmp_path / "a.gguf", config())
    assert caught.value.hint == install_hint("gguf")


def test_export_imports_no_torch(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    program = (
        "import json, sys; from pathlib import Path; "
        "from hf_lorameta.formats.gguf_adapter import export; "
        "export(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])); "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    paths = [str(folder), str(tmp_path / "a.gguf")]
    command = [sys.executable, "-c", program, *paths, json.dumps(config())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- real adapters ------------------------------------------------------------------------------


@pytest.mark.skipif(not shared_data.SHARED.exists(), reason=shared_data.MISSING)
def test_real_adapters_are_exported(tmp_path: Path) -> None:
    smollm2 = config(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    for name in shared_data.tasks()[::15]:
        folder = shared_data.BANK / name
        path = export(folder, tmp_path / "a.gguf", smollm2, "f32")
        weights, exported = AdapterFile(folder / WEIGHTS_FILE), read(path)
        for i in (0, 29):
            expected = interleaved(weights.tensor(f"model.layers.{i}.self_attn.q_proj", "B"), 9)
            np.testing.assert_array_equal(exported[f"blk.{i}.attn_q.weight.lora_b"], expected)
