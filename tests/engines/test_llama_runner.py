"""Adapters and scales that `LlamaCppRunner` passes to llama.cpp, which is replaced by a fake."""

import errno
import math
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hf_lorameta.engines import llama_runner, llama_server
from hf_lorameta.engines.gguf_files import check_base_gguf
from hf_lorameta.engines.llama_client import LlamaCpp
from hf_lorameta.engines.llama_runner import MAX_GROUP_RANK, LlamaCppRunner
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import AdapterError, LoraMetaError, NotFoundError, UsageError
from hf_lorameta.formats.gguf_adapter import export
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.coefficients import Coefficients
from tests.formats.test_gguf_adapter import HEADS, KV_HEADS, LAYERS, LAYOUT, NAMES, config, save

gguf = pytest.importorskip("gguf")
VALUE = "blk.1.attn_v.weight"
"""A module whose rows llama.cpp does not permute."""
VALUE_INDEX = [module.name for module in LAYOUT].index("model.layers.1.self_attn.v_proj")


class FakeLlamaCpp:
    """Records the adapters it loads and the scales of its calls."""

    start: ClassVar[list[int]] = [7]
    first: ClassVar[list[int]] = [8]
    end = 9

    def __init__(self, base: Path, adapters: Sequence[Path] = (), *, context: int) -> None:
        self.loaded = [
            {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(path).tensors}
            for path in adapters
        ]
        self.scales: list[list[float]] = []
        self.context = context
        self.peft_files = [path for at in adapters for path in at.parent.rglob("*.safetensors")]

    def close(self) -> None:
        pass

    def tokenize(self, text: str) -> list[int]:
        return list(map(ord, text))

    def logprobs(self, prompt: object, output: list[int], scales: list[float]) -> list[float]:
        self.scales.append(list(scales))
        return [-1.0] * len(output)


class Sum:
    """Random adapters of one rank."""

    linear = True

    def __init__(self, count: int, rank: int) -> None:
        rng = np.random.default_rng(0)
        self.count, self.rank = count, rank
        self.factors = [
            [rng.standard_normal(m.shape(f, count * rank)).astype(np.float32) for f in ("A", "B")]
            for m in LAYOUT
        ]
        self.alive = 0
        """Maximum number of modules of several adapters that were in memory at the same time."""

    def pairs(self, c: Coefficients) -> Iterator[tuple[Any, Any]]:
        spread = np.repeat(c.shared, self.rank).astype(np.float32)
        used, given = np.flatnonzero(spread), []
        for A, B in self.factors:
            pair = A[used], B[:, used] * spread[used]
            given.append(weakref.ref(pair[0]))
            if used.size > self.rank:
                self.alive = max(self.alive, sum(one() is not None for one in given))
            yield pair
            del pair

    def dense(self, c: Any) -> Any:
        A, B = list(self.pairs(Coefficients(c)))[VALUE_INDEX]
        return B @ A


def base_header(
    path: Path, layout: Layout = LAYOUT, layers: int = LAYERS, kind: str = "llama"
) -> Path:
    """A base model without its weights."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    for module in layout:
        layer, short = module.name.split(".", 3)[2:]
        shape = module.out_features, module.in_features
        writer.add_tensor_info(
            f"blk.{layer}.{NAMES[short]}.weight", shape, np.dtype(np.float32), 4 * math.prod(shape)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_header(tmp_path / "base.gguf")


@pytest.fixture
def runner(base: Path, monkeypatch: pytest.MonkeyPatch) -> LlamaCppRunner:
    monkeypatch.setattr(llama_runner, "LlamaCpp", FakeLlamaCpp)
    monkeypatch.setattr(llama_runner, "SEARCH_DIMENSIONS", 2)
    return LlamaCppRunner(base, LAYOUT)


def rank_of(loaded: dict[str, Any]) -> int:
    (rank,) = {len(values) for name, values in loaded.items() if name.endswith("lora_a")}
    return rank


def dense(loaded: dict[str, Any]) -> Any:
    A, B = (loaded[f"{VALUE}.lora_{factor}"].astype(np.float32) for factor in "ab")
    return B @ A


def test_group_is_truncated_module_by_module(runner: LlamaCppRunner) -> None:
    summed, c = Sum(30, 16), np.linspace(1, 0.01, 30)
    runner.set(summed, Coefficients(c))
    assert 0 < summed.alive <= 2 < len(LAYOUT)
    *single, group = runner._engine.loaded  # type: ignore[attr-defined]
    assert [rank_of(one) for one in single] == [16, 16]
    assert len({*runner._engine.peft_files}) == 1  # type: ignore[attr-defined]
    assert rank_of(group) == MAX_GROUP_RANK
    rest = np.where(np.arange(30) < 2, 0, c)
    np.testing.assert_allclose(dense(group), summed.dense(rest), atol=0.1)  # in float16
    assert np.abs(dense(group)).max() > 10


def test_single_adapters_keep_their_rank(runner: LlamaCppRunner) -> None:
    rank = MAX_GROUP_RANK + 36
    summed = Sum(2, rank)
    runner.set(summed, Coefficients(np.ones(2)))
    assert [rank_of(one) for one in runner._engine.loaded] == [rank, rank]  # type: ignore[attr-defined]
    finished = Sum(1, rank)
    finished.linear = False
    runner.set(finished, Coefficients(np.ones(1)))
    (loaded,) = runner._engine.loaded  # type: ignore[attr-defined]
    assert rank_of(loaded) == rank
    np.testing.assert_allclose(dense(loaded), finished.dense(np.ones(1)), atol=0.1)


def test_update_that_failed_to_load_is_loaded_again(
    runner: LlamaCppRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed, c, row = Sum(3, 4), np.array([3.0, 2.0, 1.0]), [Tokens([1], [2])]

    def refuse(*_: object, **__: object) -> None:
        raise AdapterError("no")

    runner.set(Sum(2, 4), Coefficients(np.ones(2)))
    monkeypatch.setattr(llama_runner, "LlamaCpp", refuse)
    with pytest.raises(AdapterError):
        runner.set(summed, Coefficients(c))
    monkeypatch.setattr(llama_runner, "LlamaCpp", FakeLlamaCpp)
    assert runner.loss(row) == 1
    assert runner._engine.scales[-1] == []  # type: ignore[attr-defined]
    runner.set(summed, Coefficients(c))
    assert runner.loss(row) == 1
    assert runner._engine.scales == [[3, 2, 1]]  # type: ignore[attr-defined]


def test_adapters_that_cannot_be_written_raise(
    runner: LlamaCppRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_lorameta.formats.gguf_adapter._write", fill)
    with pytest.raises(AdapterError, match=r"^an adapter cannot .*: 0\.gguf could not .*No space"):
        runner.set(Sum(2, 4), Coefficients(np.ones(2)))
    monkeypatch.setattr("hf_lorameta.formats.lora_file.write_tensors", fill)
    with pytest.raises(AdapterError, match="No space") as caught:
        runner.set(Sum(2, 4), Coefficients(np.ones(2)))
    assert "free some space in" in caught.value.hint


def test_coefficients_that_were_zero_must_stay_zero(runner: LlamaCppRunner) -> None:
    summed = Sum(3, 4)
    runner.set(summed, Coefficients(np.array([3.0, 2.0, 0.0])))
    runner.set(summed, Coefficients(np.array([0.0, 1.0, 0.0])))
    with pytest.raises(ValueError, match="only the 2 largest"):
        runner.set(summed, Coefficients(np.array([3.0, 2.0, 0.5])))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "bloom"}, "'bloom' cannot be exported to GGUF, expected one of llama"),
        ({"layers": 1, "layout": LAYOUT[:7]}, "layers.1.* has no counterpart in a llama model"),
        (
            {"layout": [Module(m.name, 2 * m.in_features, m.out_features) for m in LAYOUT]},
            r"down_proj has shape \(24, 20\), expected \(24, 10\)",
        ),
    ],
    ids=["architecture", "modules", "shapes"],
)
def test_base_model_that_does_not_fit_raises_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(llama_runner, "LlamaCpp", None)
    path = base_header(tmp_path / "other.gguf", **changes)
    with pytest.raises(
        UsageError, match=rf"other\.gguf does not fit the bank: .*{reason}"
    ) as caught:
        LlamaCppRunner(path, LAYOUT)
    assert caught.value.hint.startswith("name another with --base-gguf")
    with pytest.raises(NotFoundError, match="No such file"):
        LlamaCppRunner(tmp_path / "none.gguf", LAYOUT)


def test_first_file_of_a_split_base_model_is_accepted(tmp_path: Path) -> None:
    path = base_header(tmp_path / "base-00001-of-00002.gguf", LAYOUT[:3])
    assert check_base_gguf(path, LAYOUT)["num_hidden_layers"] == LAYERS


def test_prompts_are_truncated_and_outputs_are_not(base: Path, runner: LlamaCppRunner) -> None:
    runner._engine = FakeLlamaCpp(base, context=10)  # type: ignore[assignment]
    prompt, output = runner.encode([("a" * 20, "b" * 6)])[0]
    assert len(prompt) + len(output) == 10
    assert bytes(output) == b" bbbbbb\t"
    assert runner.encode([("a", "b" * 6)])[0].prompt == [7, ord("a")]
    with pytest.raises(UsageError, match="output has 9 tokens, expected fewer than 9"):
        runner.encode([("a", "b" * 7)])


# --- the binary ----------------------------------------------------------------------------------

BINARY = """#!{python}
import http.server, os, signal, sys
if sys.argv.count("--lora") > 1:
    print("GGML_ASSERT(too many) failed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.send_response(500)
        self.end_headers()
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Servers started from a ``llama-server`` that crashes or answers with errors."""
    path = tmp_path / "bin" / "llama-server"
    path.parent.mkdir()
    path.write_text(BINARY.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    started, start = [], llama_server.start_server
    monkeypatch.setattr(
        llama_server, "start_server", lambda *a: started.append(start(*a)) or started[-1]
    )
    return started


def test_server_is_stopped_if_it_cannot_be_used(base: Path, servers: list[Any]) -> None:
    with pytest.raises(LoraMetaError, match="answered 500"):
        LlamaCpp(base)
    (server,) = servers
    assert server._process.poll() is not None


def test_crash_with_several_adapters_blames_them(base: Path, servers: list[Any]) -> None:
    folder = save(base.parent / "peft")
    files = [export(folder, base.parent / f"{i}.gguf", config()) for i in range(3)]
    with pytest.raises(AdapterError, match=r"these 3 adapters: GGML_ASSERT\(too many\)") as caught:
        LlamaCpp(base, files)
    assert str(files[0]) not in str(caught.value)
    assert "update llama-server" in caught.value.hint
