"""LoRA weight files and adapter folders: exact round trips, damage, and agreement with PEFT."""

import json
import math
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_lorameta.bank.pack_format import PackedFile
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import (
    WEIGHTS_FILE,
    AdapterFile,
    check_adapter,
    write_tensors,
)
from hf_lorameta.formats.lora_layout import FACTORS, Layout, Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.formats.safetensors import CODES
from tests.formats.samples import (
    LAYOUT,
    RANK,
    TORCH_DTYPES,
    by_name,
    raw_file,
    raw_header,
)
from tests.support.codes import raises_code
from tests.support.random_adapter import random_pairs
from tests.support.tiny_architectures import tiny_model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid weights file in bfloat16."""
    path = tmp_path / WEIGHTS_FILE
    write_tensors(path, LAYOUT, RANK, "bfloat16", random_pairs(LAYOUT, RANK))
    return path


@pytest.fixture
def folder(file: Path) -> Path:
    """A valid adapter folder."""
    (file.parent / CONFIG_FILE).write_bytes(write_config("o/m", LAYOUT, RANK))
    return file.parent


# --- round trips --------------------------------------------------------------------------------

FINITE = st.floats(-60000, 60000, width=32)


@st.composite
def adapters(draw: st.DrawFn) -> tuple[Layout, int, list[Any]]:
    rank = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
    layout = tuple(Module(f"h.{i}.q", n, m) for i, (n, m) in enumerate(sizes))
    pairs = [
        tuple(draw(hnp.arrays(np.float32, m.shape(f, rank), elements=FINITE)) for f in ("A", "B"))
        for m in layout
    ]
    return layout, rank, pairs


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@given(adapter=adapters())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_is_exact(dtype: str, adapter: Any, tmp_path: Path) -> None:
    layout, rank, pairs = adapter
    path = tmp_path / "x.safetensors"
    write_tensors(path, layout, rank, dtype, pairs)
    file = AdapterFile(path)
    assert (file.layout, file.rank) == (layout, rank)
    assert {*file.dtypes} == {CODES[dtype]}
    for module, pair in zip(layout, pairs, strict=True):
        for factor, values in zip(FACTORS, pair, strict=True):
            got = file.tensor(module.name, factor)
            assert got.dtype == np.float32
            expected = values.astype(TORCH_DTYPES[dtype]).astype(np.float32)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_safetensors_reads_written_files(dtype: str, tmp_path: Path) -> None:
    path, pairs = tmp_path / "x.safetensors", random_pairs(LAYOUT, RANK)
    write_tensors(path, LAYOUT, RANK, dtype, pairs)
    with safe_open(path, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert set(opened.keys()) == set(by_name(LAYOUT, pairs))
        for name, values in by_name(LAYOUT, pairs).items():
            np.testing.assert_array_equal(
                opened.get_tensor(name), values.astype(TORCH_DTYPES[dtype])
            )


def test_file_bytes_are_pinned(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    pair = (np.array([[1, -2]], np.float32), np.array([[0.5]], np.float32))
    write_tensors(path, (Module("q", 2, 1),), 1, "bfloat16", [pair])
    header = (
        b'{"__metadata__":{"format":"pt"},'
        b'"base_model.model.q.lora_A.weight":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},'
        b'"base_model.model.q.lora_B.weight":{"dtype":"BF16","shape":[1,1],"data_offsets":[4,6]}}'
    )
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex("803f00c0003f")
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + data


# --- canonical files ----------------------------------------------------------------------------


def rewrite(path: Path, out: Path, dtype: str = "bfloat16") -> None:
    """Write a file in canonical order, as a build of a bank does."""
    file = AdapterFile(path)
    pairs = (file.factors(module.name) for module in file.layout)
    write_tensors(out, file.layout, file.rank, dtype, pairs)


@pytest.mark.parametrize("source", TORCH_DTYPES)
@pytest.mark.parametrize("target", TORCH_DTYPES)
def test_a_rewritten_file_keeps_every_tensor(source: str, target: str, tmp_path: Path) -> None:
    tensors = {
        name: values.astype(TORCH_DTYPES[source])
        for name, values in by_name(LAYOUT, random_pairs(LAYOUT, RANK)).items()
    }
    path, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, path)
    content = path.read_bytes()
    names = [n for n in raw_header(content) if n[0] != "_"]
    assert names == sorted(names)  # safetensors' own order puts layer 10 before layer 2
    rewrite(path, out, target)
    names = [n for n in raw_header(out.read_bytes()) if n[0] != "_"]
    assert names == list(by_name(LAYOUT, random_pairs(LAYOUT, RANK)))
    opened = AdapterFile(out)
    assert opened.layout == LAYOUT
    with safe_open(out, framework="np") as reference:
        for name, values in tensors.items():
            expected = values.astype(np.float32).astype(TORCH_DTYPES[target])
            np.testing.assert_array_equal(reference.get_tensor(name), expected)


def scrambled(tensors: dict[str, Any], rng: random.Random, pad: int) -> bytes:
    """The same tensors in another order of data, and another again of the header."""
    names, header, data = list(tensors), {}, b""
    rng.shuffle(names)
    for name in names:
        raw = tensors[name].tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    keys = list(header)
    rng.shuffle(keys)
    return raw_file(json.dumps({k: header[k] for k in keys}).encode() + b" " * pad, data)


@given(rng=st.randoms(use_true_random=False), pad=st.integers(0, 9))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_result_does_not_depend_on_the_source_order(
    rng: random.Random, pad: int, tmp_path: Path
) -> None:
    pairs = random_pairs(LAYOUT, RANK)
    content = scrambled(by_name(LAYOUT, pairs), rng, pad)
    copy, direct = tmp_path / "copy", tmp_path / "direct"
    (tmp_path / "scrambled").write_bytes(content)
    rewrite(tmp_path / "scrambled", copy)
    write_tensors(direct, LAYOUT, RANK, "bfloat16", pairs)
    assert copy.read_bytes() == direct.read_bytes()


# --- agreement with PEFT -------------------------------------------------------------------------


def tiny_llama() -> Any:
    """Return a Llama of two layers, the same at each call."""
    pytest.importorskip("peft")
    return tiny_model("llama", num_hidden_layers=2)


LLAMA: Layout = tuple(
    Module(f"model.layers.{layer}.{leaf}", n, m)
    for layer in (0, 1)
    for leaf, n, m in (("mlp.down_proj", 48, 32), ("self_attn.k_proj", 32, 16))
)


# PEFT 0.21 reads what transformers 5.24 deprecates
ignore_peft_warning = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@ignore_peft_warning
@pytest.mark.parametrize(
    ("layout", "targets"),
    [
        (LLAMA, ["down_proj", "k_proj"]),
        (LLAMA[1:], [m.name for m in LLAMA[1:]]),  # layer 0 has no down_proj: full paths
        (LLAMA[2:], [m.name for m in LLAMA[2:]]),  # layer 1 alone
    ],
)
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_peft_loads_a_written_folder_and_computes_the_same_update(
    layout: Layout, targets: list[str], dtype: str, tmp_path: Path, torch: Any
) -> None:
    from peft import PeftModel

    pairs = random_pairs(layout, RANK, seed=1)
    write_tensors(tmp_path / WEIGHTS_FILE, layout, RANK, dtype, pairs)
    config = write_config("o/m", layout, RANK, "c0ffee")
    assert json.loads(config)["target_modules"] == targets
    (tmp_path / CONFIG_FILE).write_bytes(config)
    check_adapter(tmp_path)

    base = tiny_llama()
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    model = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    merged = model.merge_and_unload()
    after = dict(merged.named_parameters())
    assert before.keys() == after.keys()
    adapted = {f"{m.name}.weight": pair for m, pair in zip(layout, pairs, strict=True)}
    for name, weight in before.items():
        expected = weight.clone()
        if name in adapted:
            a, b = (
                torch.from_numpy(x.astype(TORCH_DTYPES[dtype]).astype(np.float32))
                for x in adapted[name]
            )
            expected += b @ a  # scaling 1: alpha equals r
        torch.testing.assert_close(after[name].detach(), expected, rtol=1e-6, atol=1e-6)


@ignore_peft_warning
@pytest.mark.usefixtures("torch")
def test_adapter_written_by_peft_is_read(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], use_rslora=True,
                        init_lora_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(tiny_llama(), config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    read, weights = check_adapter(tmp_path)
    assert (read.rank, weights.rank, read.scaling) == (4, 4, 12 / 2)
    assert [m.name for m in weights.layout] == [
        f"model.layers.{layer}.self_attn.{leaf}"
        for layer in (0, 1)
        for leaf in ("q_proj", "v_proj")
    ]
    for module in weights.layout:
        layer = model.get_submodule(f"base_model.model.{module.name}")
        delta = weights.tensor(module.name, "B") @ weights.tensor(module.name, "A") * read.scaling
        expected = layer.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-6)


# --- damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdapterFile, PackedFile])
@pytest.mark.parametrize("claim", [10 << 30, (1 << 64) - 1, 17 << 20])
def test_claimed_header_size_is_not_allocated(
    kind: type[AdapterFile], claim: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", claim) + b"{}" + bytes(1000))
    tracemalloc.start()
    with raises_code("safetensors.header-too-long", match=str(claim)):
        kind(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_file_that_shrinks_while_open_is_reported(file: Path) -> None:
    opened = AdapterFile(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(AdapterError, match="ended at byte"):
        opened.tensor(LAYOUT[-1].name, "B")


# --- folders ------------------------------------------------------------------------------------


def test_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=f"has no {WEIGHTS_FILE}"):
        check_adapter(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterError, match=f"has no {CONFIG_FILE}"):
        check_adapter(folder)


def test_config_and_weights_with_different_ranks_are_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(write_config("o/m", LAYOUT, 8))
    with raises_code("adapter.other-rank"):
        check_adapter(folder)


@pytest.mark.parametrize(
    ("dtype", "value", "code"),
    [
        ("float32", math.nan, "adapter.not-finite"),
        ("float32", -math.inf, "adapter.not-finite"),
        ("float16", 1e5, "adapter.not-finite"),
        ("bfloat16", 3.4e38, "adapter.not-finite"),
        ("bfloat16", -1e30, "adapter.too-large-values"),
    ],
)
def test_values_that_are_too_large_or_not_finite_once_rounded_are_refused(
    folder: Path, dtype: str, value: float, code: str
) -> None:
    pairs = random_pairs(LAYOUT, RANK)
    pairs[3][1][-1, -1] = value
    with raises_code(code):
        write_tensors(folder / "out", LAYOUT, RANK, dtype, pairs)
    with np.errstate(over="ignore"):
        tensors = {n: v.astype(TORCH_DTYPES[dtype]) for n, v in by_name(LAYOUT, pairs).items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    with raises_code(code) as caught:
        check_adapter(folder)
    assert caught.value.hint == "name another adapter"
    with raises_code(code):
        rewrite(folder / WEIGHTS_FILE, folder / "out", dtype)
    assert not (folder / "out").exists()


def test_pair_of_another_shape_is_refused(tmp_path: Path) -> None:
    pairs = random_pairs(LAYOUT, RANK)
    pairs[1] = (pairs[1][0].T, pairs[1][1])
    with pytest.raises(
        AdapterError, match=r"q_proj.lora_A.weight has shape \(6, 2\), expected \(2, 6"
    ):
        write_tensors(tmp_path / "x", LAYOUT, RANK, "float32", pairs)
    assert not list(tmp_path.iterdir())


# --- writing ------------------------------------------------------------------------------------


class DiskFullError(OSError):
    """Stands for ENOSPC."""


def failing_after_two(pairs: list[Any]) -> Iterator[Any]:
    yield from pairs[:2]
    raise DiskFullError


def test_failed_write_keeps_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(DiskFullError):
        write_tensors(file, LAYOUT, RANK, "float32", failing_after_two(random_pairs(LAYOUT, RANK)))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_memory_of_writing_follows_the_largest_tensor(tmp_path: Path) -> None:
    layout = tuple(Module(f"h.{i}.q", 4096, 4096) for i in range(24))
    ones = np.ones((8, 4096), np.float32), np.ones((4096, 8), np.float32)
    path, copy = tmp_path / "x", tmp_path / "y"
    tracemalloc.start()
    write_tensors(path, layout, 8, "bfloat16", (ones for _ in layout))
    rewrite(path, copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert copy.read_bytes() == path.read_bytes()
    assert peak < 8 * ones[0].nbytes < path.stat().st_size
