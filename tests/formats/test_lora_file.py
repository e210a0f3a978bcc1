"""The LoRA file format: exact round trips, PEFT and safetensors as oracles, liars refused."""

import contextlib
import json
import math
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_file import (
    WEIGHTS_FILE,
    AdapterFile,
    canonicalize,
    check_adapter,
    stack,
    write_tensors,
)
from hf_lorameta.formats.lora_layout import (
    Layout,
    Module,
    canonical_order,
    read_layout,
    tensor_name,
)
from hf_lorameta.formats.peft_config import CONFIG_FILE, read_config, write_config
from hf_lorameta.formats.safetensors import DTYPES, Read, TensorInfo, narrow, read_header, widen

FILES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LAYOUT: Layout = tuple(
    Module(f"model.layers.{layer}.self_attn.{leaf}", 6, out)
    for layer in (0, 2, 10)
    for leaf, out in (("k_proj", 3), ("q_proj", 6))
)
RANK = 2
PLAIN = {"peft_type": "LORA", "base_model_name_or_path": "o/m", "r": RANK, "lora_alpha": 4}


def pairs_of(
    layout: Layout, rank: int, seed: int = 0
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.normal(size=m.shape(f, rank)).astype(np.float32) for f in ("A", "B"))  # type: ignore[misc]
        for m in layout
    ]


def named(layout: Layout, pairs: Iterable[Any]) -> dict[str, Any]:
    return {
        tensor_name(m.name, f): values
        for m, pair in zip(layout, pairs, strict=True)
        for f, values in zip(("A", "B"), pair, strict=True)
    }


def reader(content: bytes) -> Read:
    return lambda start, stop: content[start:stop]


def raw_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header_of(content: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def refused(content: bytes) -> str:
    with pytest.raises(AdapterError) as raised:
        read_layout(read_header(reader(content), len(content)))
    return str(raised.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A whole weights file in bfloat16."""
    path = tmp_path / WEIGHTS_FILE
    write_tensors(path, LAYOUT, RANK, "bfloat16", pairs_of(LAYOUT, RANK))
    return path


@pytest.fixture
def folder(file: Path) -> Path:
    """A whole adapter folder."""
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


@pytest.mark.parametrize("dtype", FILES)
@given(made=adapters())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_is_exact(dtype: str, made: Any, tmp_path: Path) -> None:
    layout, rank, pairs = made
    path = tmp_path / "x.safetensors"
    write_tensors(path, layout, rank, dtype, pairs)
    file = AdapterFile(path)
    assert (file.layout, file.rank) == (layout, rank)
    assert {DTYPES[code] for code in file.dtypes} == {np.dtype(FILES[dtype])}
    for module, pair in zip(layout, pairs, strict=True):
        for factor, values in zip(("A", "B"), pair, strict=True):
            got = file.tensor(module.name, factor)
            assert got.dtype == np.float32
            expected = values.astype(FILES[dtype]).astype(np.float32)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_pattern_widens_as_ml_dtypes_says(dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    code = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    expected = bits.view(FILES[dtype]).astype(np.float32)
    got = widen(bits.tobytes(), TensorInfo(code, (256, 256), 0, 1 << 17))
    np.testing.assert_array_equal(got.ravel(), expected)
    finite = np.isfinite(expected)
    assert narrow(expected[finite], dtype) == bits[finite].tobytes()


@pytest.mark.parametrize("dtype", FILES)
def test_narrowing_any_bits_is_quiet(dtype: str) -> None:
    """Signalling NaNs too: they are refused later, by name, without a numpy warning before."""
    values = np.arange(0, 1 << 32, 65521, dtype=np.uint32).view(np.float32)
    got = np.frombuffer(narrow(values, dtype), FILES[dtype]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(FILES[dtype]).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def test_narrowing_rounds_to_even() -> None:
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    got = np.frombuffer(narrow(halves, "bfloat16"), ml_dtypes.bfloat16).astype(np.float32)
    assert got.tolist() == [1.0, 1 + 4 * 2**-8]


@pytest.mark.parametrize("dtype", FILES)
def test_safetensors_reads_what_we_write(dtype: str, tmp_path: Path) -> None:
    path, pairs = tmp_path / "x.safetensors", pairs_of(LAYOUT, RANK)
    write_tensors(path, LAYOUT, RANK, dtype, pairs)
    with safe_open(path, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert set(opened.keys()) == set(named(LAYOUT, pairs))
        for name, values in named(LAYOUT, pairs).items():
            np.testing.assert_array_equal(opened.get_tensor(name), values.astype(FILES[dtype]))


def test_the_bytes_are_pinned(tmp_path: Path) -> None:
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


def test_data_starts_on_a_multiple_of_eight(file: Path) -> None:
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert length % 8 == 0


def test_stack_reads_one_module_of_many(file: Path) -> None:
    opened = AdapterFile(file)
    for module, (a, b) in zip(LAYOUT, pairs_of(LAYOUT, RANK), strict=True):
        (a1, a2), (b1, b2) = stack([opened, opened], module.name)
        for got, expected in ((a1, a), (a2, a), (b1, b), (b2, b)):
            np.testing.assert_array_equal(
                got, expected.astype(FILES["bfloat16"]).astype(np.float32)
            )


# --- canonical files ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", FILES)
@pytest.mark.parametrize("target", FILES)
def test_canonicalize_keeps_every_tensor(source: str, target: str, tmp_path: Path) -> None:
    tensors = {
        name: values.astype(FILES[source])
        for name, values in named(LAYOUT, pairs_of(LAYOUT, RANK)).items()
    }
    path, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, path)
    content = path.read_bytes()
    names = [n for n in header_of(content) if n[0] != "_"]
    assert names == sorted(names)  # safetensors' own order puts layer 10 before layer 2
    canonicalize(reader(content), read_header(reader(content), len(content)), out, target)
    names = [n for n in header_of(out.read_bytes()) if n[0] != "_"]
    assert names == list(named(LAYOUT, pairs_of(LAYOUT, RANK)))
    opened = AdapterFile(out)
    assert opened.layout == LAYOUT
    with safe_open(out, framework="np") as oracle:
        for name, values in tensors.items():
            expected = values.astype(np.float32).astype(FILES[target])
            np.testing.assert_array_equal(oracle.get_tensor(name), expected)


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
def test_the_source_order_leaves_no_trace(rng: random.Random, pad: int, tmp_path: Path) -> None:
    pairs = pairs_of(LAYOUT, RANK)
    content = scrambled(named(LAYOUT, pairs), rng, pad)
    copy, direct = tmp_path / "copy", tmp_path / "direct"
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return content[start:stop]

    infos = read_header(reader(content), len(content))
    canonicalize(read, infos, copy)
    write_tensors(direct, LAYOUT, RANK, "bfloat16", pairs)
    assert copy.read_bytes() == direct.read_bytes()
    # rising, adjoining ranges: one streamed download serves them
    assert [start for start, _ in asked[1:]] == [stop for _, stop in asked[:-1]]
    assert asked[-1][1] == len(content)


def test_layers_are_counted_as_numbers() -> None:
    names = ["h.10.q", "h.2.q", "h.2.k", "a", "h.02.q", f"h.{'9' * 6000}.q", "h.x.q", "h.²", "h.٣"]
    ordered = sorted(names, key=canonical_order)
    assert ordered.index("h.2.k") < ordered.index("h.2.q") < ordered.index("h.10.q")
    assert len({canonical_order(name) for name in names}) == len(names)
    names.reverse()
    assert sorted(names, key=canonical_order) == ordered


# --- PEFT as the oracle -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_llama() -> Callable[[], Any]:
    """Builds the same two-layer Llama each time."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

    def build() -> Any:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)

    return build


LLAMA: Layout = tuple(
    Module(f"model.layers.{layer}.{leaf}", n, m)
    for layer in (0, 1)
    for leaf, n, m in (("mlp.down_proj", 24, 16), ("self_attn.k_proj", 16, 8))
)


# PEFT 0.21 reads what transformers 5.24 deprecates
their_warning = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@their_warning
@pytest.mark.parametrize(
    ("layout", "targets"),
    [
        (LLAMA, ["down_proj", "k_proj"]),
        (LLAMA[1:], [m.name for m in LLAMA[1:]]),  # layer 0 has no down_proj: full paths
        (LLAMA[2:], [m.name for m in LLAMA[2:]]),  # layer 1 alone
    ],
)
@pytest.mark.parametrize("dtype", FILES)
def test_peft_loads_our_folder_and_computes_the_same_update(
    layout: Layout, targets: list[str], dtype: str, tmp_path: Path, tiny_llama: Callable[[], Any]
) -> None:
    import torch
    from peft import PeftModel

    pairs = pairs_of(layout, RANK, seed=1)
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
                torch.from_numpy(x.astype(FILES[dtype]).astype(np.float32)) for x in adapted[name]
            )
            expected += b @ a  # scaling 1: alpha equals r
        torch.testing.assert_close(after[name].detach(), expected, rtol=1e-6, atol=1e-6)


@their_warning
def test_we_read_what_peft_writes(tmp_path: Path, tiny_llama: Callable[[], Any]) -> None:
    from peft import LoraConfig, get_peft_model

    wanted = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], use_rslora=True,
                        init_lora_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(tiny_llama(), wanted)
    model.save_pretrained(tmp_path)
    config, weights = check_adapter(tmp_path)
    assert (config.rank, weights.rank, config.scaling) == (4, 4, 12 / 2)
    assert [m.name for m in weights.layout] == [
        f"model.layers.{layer}.self_attn.{leaf}"
        for layer in (0, 1)
        for leaf in ("q_proj", "v_proj")
    ]
    for module in weights.layout:
        layer = model.get_submodule(f"base_model.model.{module.name}")
        delta = weights.tensor(module.name, "B") @ weights.tensor(module.name, "A") * config.scaling
        expected = layer.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-6)


# --- headers that lie ---------------------------------------------------------------------------


def entry(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


A, B = tensor_name("h.0.q", "A"), tensor_name("h.0.q", "B")
GOOD = {A: entry([1, 2], 0, 8), B: entry([3, 1], 8, 20)}


def test_the_good_header_is_good() -> None:
    content = raw_file(GOOD, bytes(20))
    layout, rank = read_layout(read_header(reader(content), len(content)))
    assert (layout, rank) == ((Module("h.0.q", 2, 3),), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"1234567", "7 bytes are too few"),
        (raw_file(GOOD, bytes(19)), "describes 20 bytes|the file has"),
        (raw_file(GOOD, bytes(21)), "the file has"),
        (raw_file(GOOD, bytes(20))[:60], "the safetensors header claims"),
        (raw_file(b"{not json", bytes(20)), "is not JSON"),
        (raw_file(b"\xff\xfe\x00", bytes(20)), "is not JSON"),
        (raw_file(b"[" * 200_000, bytes(20)), "is not JSON"),
        (raw_file(b"1" * 5000, bytes(20)), "is not JSON"),
        (raw_file([1], bytes(20)), "is not a JSON object"),
        (raw_file({}), "expected one rank in every module, got no module"),
        (raw_file({"__metadata__": {"format": "pt"}}), "got no module"),
        # tensors that overlap, leave gaps, or do not fit
        (raw_file(GOOD | {B: entry([3, 1], 4, 16)}, bytes(16)), "starts at byte"),
        (raw_file(GOOD | {B: entry([3, 1], 12, 24)}, bytes(24)), "starts at byte"),
        (raw_file({A: entry([1, 2], 4, 12)}, bytes(12)), "starts at byte"),
        (raw_file(GOOD | {B: entry([3, 1], 0, 12)}, bytes(12)), "starts at byte"),
        (raw_file(GOOD | {B: entry([3, 1], 8, 24)}, bytes(24)), "does not fill 16 bytes"),
        (raw_file(GOOD | {B: entry([3, 1], 20, 8)}, bytes(20)), "does not fill -12 bytes"),
        (raw_file(GOOD | {B: entry([3, 1], -12, 0)}, bytes(20)), "are not sizes"),
        (raw_file(GOOD | {B: entry([1 << 60, 1], 8, 20)}, bytes(20)), "are not sizes"),
        (raw_file(GOOD | {B: entry([1 << 30] * 2, 8, 20)}, bytes(20)), "does not fill"),
        (raw_file(GOOD | {B: entry([True, 3], 8, 20)}, bytes(20)), "are not sizes"),
        (raw_file(GOOD | {B: entry([1.0, 3], 8, 20)}, bytes(20)), "are not sizes"),
        (raw_file(GOOD | {B: entry([1] * 9, 8, 12)}, bytes(12)), "are not sizes"),
        # entries of the wrong form
        (raw_file(GOOD | {B: None}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: "x"}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: []}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: {}}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: {**GOOD[B], "shape": None}}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: {**GOOD[B], "data_offsets": [1]}}, bytes(20)), "is malformed"),
        (raw_file(GOOD | {B: {**GOOD[B], "shape": "31"}}, bytes(20)), "are not sizes"),
        (raw_file(GOOD | {B: {**GOOD[B], "dtype": ["F32"]}}, bytes(20)), "has dtype"),
        (raw_file(GOOD | {B: {**GOOD[B], "dtype": None}}, bytes(20)), "has dtype None"),
        (raw_file(GOOD | {B: entry([3, 1], 8, 32, "F64")}, bytes(32)), "has dtype F64, expected"),
        (raw_file(GOOD | {B: entry([12, 1], 8, 20, "I8")}, bytes(20)), "has dtype I8"),
        # files that are no LoRA
        (raw_file({A: GOOD[A]}, bytes(8)), "h.0.q has only lora_A"),
        (raw_file({B: entry([3, 1], 0, 12)}, bytes(12)), "h.0.q has only lora_B"),
        (raw_file({A: GOOD[A], B: entry([1, 3, 1], 8, 20)}, bytes(20)), "is not a 2-d"),
        (raw_file({A: GOOD[A], B: entry([3], 8, 20)}, bytes(20)), "is not a 2-d"),
        (raw_file({A: GOOD[A], B: entry([1, 3], 8, 20)}, bytes(20)), "do not multiply"),
        (raw_file({A: entry([0, 2], 0, 0), B: entry([3, 0], 0, 0)}), "do not multiply"),
        (raw_file({A: GOOD[A], "lm_head.weight": entry([3, 1], 8, 20)}, bytes(20)), "is not a 2-d"),
        (
            raw_file({A: GOOD[A], B.replace("weight", "bias"): entry([3, 1], 8, 20)}, bytes(20)),
            "is not a 2-d lora_A or lora_B weight",
        ),
        (
            raw_file(
                GOOD
                | {
                    tensor_name("h.1.q", "A"): entry([2, 2], 20, 36),
                    tensor_name("h.1.q", "B"): entry([1, 2], 36, 44),
                },
                bytes(44),
            ),
            r"expected one rank in every module, got \[1, 2\]",
        ),
    ],
)
def test_a_header_that_lies(content: bytes, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read_layout(read_header(reader(content), len(content)))


@pytest.mark.parametrize("claim", [10 << 30, (1 << 64) - 1, 17 << 20])
def test_a_claimed_size_is_not_allocated(claim: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", claim) + b"{}" + bytes(1000))
    tracemalloc.start()
    with pytest.raises(AdapterError, match=f"claims {claim} bytes, expected at most 1002"):
        AdapterFile(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_huge_header_of_a_huge_file_is_not_read() -> None:
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return struct.pack("<Q", 17 << 20)

    with pytest.raises(AdapterError, match="expected at most 16777216"):
        read_header(read, 1 << 40)
    assert asked == [(0, 8)]


def test_strangers_names_are_shown_tame() -> None:
    for name in ("x\x1b[31m\n" + "y" * 9999, "\ud800", "\u202e"):
        for content in (
            raw_file({name: entry([1, 2], 0, 8)}, bytes(8)),
            raw_file({name: entry([1, 2], 4, 12)}, bytes(12)),
            raw_file({name: None}, b""),
            raw_file({A: {**GOOD[A], "dtype": name}}, bytes(8)),
            raw_file({tensor_name(f"h.{name}", "A").replace("\n", ""): GOOD[A]}, bytes(8)),
        ):
            message = refused(content)
            assert message.isascii()
            assert message.isprintable()
            assert len(message) < 2000


@pytest.mark.parametrize("cut", [0, 4, 8, 50, -1, -20])
def test_truncated_files(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(AdapterError):
        AdapterFile(file)


def test_a_file_that_shrinks_while_open(file: Path) -> None:
    opened = AdapterFile(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(AdapterError, match="ended at byte"):
        opened.tensor(LAYOUT[-1].name, "B")


def mutants(content: bytes, count: int) -> Iterator[bytes]:
    """Files near a good one: bytes flipped, cut, doubled; JSON values exchanged for odd ones."""
    rng = random.Random(7)
    (length,) = struct.unpack("<Q", content[:8])
    odd = [None, True, -1, 0, 1.5, 1 << 70, "", "F16", [], {}, [[]], "\ud800", float("inf"), [0, 0]]
    for i in range(count):
        if i % 2:
            mutant = bytearray(content)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(8 + length)
                if rng.random() < 0.3:
                    del mutant[at : at + rng.randint(1, 9)]
                else:
                    mutant[at : at + rng.choice((0, 1))] = bytes([rng.randrange(256)])
            yield bytes(mutant)
            continue
        header = header_of(content)
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(list(header))
            value, choice = header[name], rng.random()
            if choice < 0.2:
                header[rng.choice(["", "x", name + ".", "h." + "9" * 5000, A])] = header.pop(name)
            elif choice < 0.4 or not isinstance(value, dict) or not value:
                header[name] = rng.choice(odd)
            elif choice < 0.8:
                value[rng.choice(list(value))] = rng.choice(odd)
            else:
                key = rng.choice(["shape", "data_offsets"])
                value[key] = [rng.choice([*odd, 1, 2, 6, 24]) for _ in range(rng.randint(0, 3))]
        yield raw_file(header, content[8 + length :])


def test_mutated_headers_raise_only_our_errors(file: Path, tmp_path: Path) -> None:
    content, read_well = file.read_bytes(), 0
    for mutant in mutants(content, 2000):
        with contextlib.suppress(LoraMetaError):
            infos = read_header(reader(mutant), len(mutant))
            read_layout(infos)
            canonicalize(reader(mutant), infos, tmp_path / "out")
            read_well += 1
    assert read_well < 400  # nearly all mutations are caught, not waved through


# --- configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / math.sqrt(2)),
        ({"lora_alpha": 0.5}, 0.25),
        ({"lora_alpha": None, "r": 8}, None),
        ({"init_lora_weights": "gaussian"}, 2.0),
        ({"init_lora_weights": "eva"}, 2.0),
        ({"bias": "none", "use_dora": False, "rank_pattern": {}, "modules_to_save": None}, 2.0),
        ({"some_future_key": None}, 2.0),
    ],
)
def test_scaling(changes: dict[str, Any], scaling: float | None) -> None:
    if scaling is None:
        config = {k: v for k, v in (PLAIN | changes).items() if v is not None}
        assert read_config(config).scaling == 1.0  # PEFT's default alpha is 8
        return
    assert read_config(PLAIN | changes) == ("o/m", RANK, scaling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is set: only plain LoRA"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is set"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is set"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"bias": "all"}, "bias is 'all', expected 'none'"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model's weights"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base model's weights"),
        ({"init_lora_weights": "OLoRA"}, "changes the base model's weights"),
        ({"init_lora_weights": "loftq"}, "changes the base model's weights"),
        ({"r": 0}, "r is 0, expected a whole number of at least 1"),
        ({"r": "8"}, "r is '8'"),
        ({"r": True}, "r is True"),
        ({"r": None}, "r is None"),
        ({"r": 1 << 20}, "r is 1048576"),
        ({"lora_alpha": 0}, "lora_alpha is 0, expected a positive number"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    ],
)
def test_only_plain_lora_is_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError) as raised:
        read_config(PLAIN | changes)
    assert message in str(raised.value)


def test_configs_that_are_no_objects() -> None:
    for junk in ([], "x", None, 3):
        with pytest.raises(AdapterError, match="not a JSON object"):
            read_config(junk)  # type: ignore[arg-type]


def test_our_config_says_scaling_one() -> None:
    written = write_config("o/m", LAYOUT, RANK, "abc")
    assert read_config(json.loads(written)) == ("o/m", RANK, 1.0)
    assert written == write_config("o/m", LAYOUT, RANK, "abc")
    told = json.loads(written)
    assert (told["revision"], told["use_rslora"], told["modules_to_save"]) == ("abc", False, None)
    assert told["target_modules"] == [m.name for m in LAYOUT]  # layers 0, 2, 10: not all of them


# --- folders ------------------------------------------------------------------------------------


def test_a_whole_folder_is_good(folder: Path) -> None:
    config, weights = check_adapter(folder)
    assert (config.base_model, config.scaling, weights.rank) == ("o/m", 1.0, RANK)


def test_a_pickle_is_refused_by_name(folder: Path) -> None:
    for name in ("adapter_model.bin", "adapter_model.pt"):
        (folder / name).write_bytes(b"\x80\x04.")
        check_adapter(folder)  # beside safetensors it is not looked at
        (folder / WEIGHTS_FILE).rename(folder / "aside")
        with pytest.raises(AdapterError, match=f"{name} is a pickle, which can run code"):
            check_adapter(folder)
        (folder / "aside").rename(folder / WEIGHTS_FILE)
        (folder / name).unlink()


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=f"{WEIGHTS_FILE}: No such file"):
        check_adapter(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterError, match=f"holds no {CONFIG_FILE}"):
        check_adapter(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_a_broken_config(folder: Path, content: bytes, message: str) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(AdapterError, match=message):
        check_adapter(folder)


def test_config_and_weights_must_agree_on_the_rank(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(write_config("o/m", LAYOUT, 8))
    with pytest.raises(AdapterError, match=f"{CONFIG_FILE} has rank 8, the weights have 2"):
        check_adapter(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FILES)
def test_values_that_are_not_finite(folder: Path, dtype: str, value: float) -> None:
    pairs = pairs_of(LAYOUT, RANK)
    pairs[3][1][-1, -1] = value
    name = tensor_name(LAYOUT[3].name, "B")
    with pytest.raises(AdapterError, match=f"{name} holds NaN or infinite values in {dtype}"):
        write_tensors(folder / "out", LAYOUT, RANK, dtype, pairs)
    tensors = {n: v.astype(FILES[dtype]) for n, v in named(LAYOUT, pairs).items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="holds NaN or infinity"):
        check_adapter(folder)
    content = (folder / WEIGHTS_FILE).read_bytes()
    with pytest.raises(AdapterError, match=f"{name} holds NaN or infinite values"):
        canonicalize(
            reader(content), read_header(reader(content), len(content)), folder / "out", dtype
        )
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("bfloat16", 3.4e38)])
def test_values_that_overflow_when_rounded(tmp_path: Path, dtype: str, value: float) -> None:
    pairs = pairs_of(LAYOUT, RANK)
    pairs[0][0][0, 0] = value
    with pytest.raises(AdapterError, match=f"infinite values in {dtype}"):
        write_tensors(tmp_path / "x", LAYOUT, RANK, dtype, pairs)


def test_a_pair_of_another_shape(tmp_path: Path) -> None:
    pairs = pairs_of(LAYOUT, RANK)
    pairs[1] = (pairs[1][0].T, pairs[1][1])
    with pytest.raises(
        AdapterError, match=r"q_proj.lora_A.weight has shape \(6, 2\), expected \(2, 6"
    ):
        write_tensors(tmp_path / "x", LAYOUT, RANK, "float32", pairs)
    assert not list(tmp_path.iterdir())


# --- writing ------------------------------------------------------------------------------------


class DiskFullError(OSError):
    """Stands for ENOSPC."""


def failing(pairs: list[Any]) -> Iterator[Any]:
    yield from pairs[:2]
    raise DiskFullError


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(DiskFullError):
        write_tensors(path, LAYOUT, RANK, "float32", failing(pairs_of(LAYOUT, RANK)))
    assert not list(tmp_path.iterdir())


def test_a_failing_write_keeps_what_was_there(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(DiskFullError):
        write_tensors(file, LAYOUT, RANK, "float32", failing(pairs_of(LAYOUT, RANK)))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_at_the_end_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DiskFullError

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(DiskFullError):
        write_atomically(tmp_path / "x", b"content")
    assert not list(tmp_path.iterdir())


def test_the_target_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "x"
    seen = []

    def watched() -> Iterator[Any]:
        for pair in pairs_of(LAYOUT, RANK):
            seen.append(path.exists())
            yield pair

    write_tensors(path, LAYOUT, RANK, "float32", watched())
    assert seen == [False] * len(LAYOUT)
    assert list(tmp_path.iterdir()) == [path]


def test_writing_streams(tmp_path: Path) -> None:
    """Memory follows one tensor, not the file."""
    layout = tuple(Module(f"h.{i}.q", 4096, 4096) for i in range(24))
    ones = np.ones((8, 4096), np.float32), np.ones((4096, 8), np.float32)
    path, copy = tmp_path / "x", tmp_path / "y"
    tracemalloc.start()
    write_tensors(path, layout, 8, "bfloat16", (ones for _ in layout))
    opened = AdapterFile(path)
    canonicalize(opened._read, opened._infos, copy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert copy.read_bytes() == path.read_bytes()
    assert peak < 8 * ones[0].nbytes < path.stat().st_size
