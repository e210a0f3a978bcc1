"""What `LlamaCppProbe` hands to llama.cpp, with a stand-in for the engine."""

import errno
import math
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hf_lorameta.engines import llama_probe, llama_server
from hf_lorameta.engines.llama_probe import LARGEST_RANK, LlamaCppProbe, check_base_gguf
from hf_lorameta.engines.llama_server import LlamaCpp
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import AdapterError, LoraMetaError, NotFoundError, UsageError
from hf_lorameta.formats.gguf_adapter import export
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.coefficients import Coefficients
from tests.formats.test_gguf_adapter import HEADS, KV_HEADS, LAYERS, LAYOUT, NAMES, config, save

gguf = pytest.importorskip("gguf")
VALUE = "blk.1.attn_v.weight"
"""A module whose rows llama.cpp keeps in order."""
PLACE = [module.name for module in LAYOUT].index("model.layers.1.self_attn.v_proj")


class Engine:
    """Stands in for llama.cpp: keeps what it was started with."""

    start: ClassVar[list[int]] = [7]
    first: ClassVar[list[int]] = [8]
    end = 9

    def __init__(self, base: Path, adapters: Sequence[Path] = (), *, context: int) -> None:
        self.loaded = [
            {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(path).tensors}
            for path in adapters
        ]
        self.asked: list[list[float]] = []
        self.context = context
        self.peft_files = [path for at in adapters for path in at.parent.rglob("*.safetensors")]

    def close(self) -> None:
        pass

    def tokenize(self, text: str) -> list[int]:
        return list(map(ord, text))

    def logprobs(self, prompt: object, output: list[int], scales: list[float]) -> list[float]:
        self.asked.append(list(scales))
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
        """Modules of several adapters that were held at the same time, at most."""

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
        A, B = list(self.pairs(Coefficients(c)))[PLACE]
        return B @ A


def header(path: Path, layout: Layout = LAYOUT, layers: int = LAYERS, kind: str = "llama") -> Path:
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
    return header(tmp_path / "base.gguf")


@pytest.fixture
def probe(base: Path, monkeypatch: pytest.MonkeyPatch) -> LlamaCppProbe:
    monkeypatch.setattr(llama_probe, "LlamaCpp", Engine)
    monkeypatch.setattr(llama_probe, "SEARCH_DIMENSIONS", 2)
    return LlamaCppProbe(base, LAYOUT)


def rank_of(loaded: dict[str, Any]) -> int:
    (rank,) = {len(values) for name, values in loaded.items() if name.endswith("lora_a")}
    return rank


def dense(loaded: dict[str, Any]) -> Any:
    A, B = (loaded[f"{VALUE}.lora_{factor}"].astype(np.float32) for factor in "ab")
    return B @ A


def test_what_is_loaded_together_is_cut_module_by_module(probe: LlamaCppProbe) -> None:
    summed, c = Sum(30, 16), np.linspace(1, 0.01, 30)
    probe.set(summed, Coefficients(c))
    assert 0 < summed.alive <= 2 < len(LAYOUT)
    *alone, together = probe._engine.loaded  # type: ignore[attr-defined]
    assert [rank_of(one) for one in alone] == [16, 16]
    assert len({*probe._engine.peft_files}) == 1  # type: ignore[attr-defined]
    assert rank_of(together) == LARGEST_RANK
    rest = np.where(np.arange(30) < 2, 0, c)
    np.testing.assert_allclose(dense(together), summed.dense(rest), atol=0.1)  # in float16
    assert np.abs(dense(together)).max() > 10


def test_what_is_loaded_alone_keeps_its_rank(probe: LlamaCppProbe) -> None:
    rank = LARGEST_RANK + 36
    summed = Sum(2, rank)
    probe.set(summed, Coefficients(np.ones(2)))
    assert [rank_of(one) for one in probe._engine.loaded] == [rank, rank]  # type: ignore[attr-defined]
    finished = Sum(1, rank)
    finished.linear = False
    probe.set(finished, Coefficients(np.ones(1)))
    (whole,) = probe._engine.loaded  # type: ignore[attr-defined]
    assert rank_of(whole) == rank
    np.testing.assert_allclose(dense(whole), finished.dense(np.ones(1)), atol=0.1)


def test_a_sum_that_could_not_be_loaded_is_loaded_the_next_time(
    probe: LlamaCppProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed, c, row = Sum(3, 4), np.array([3.0, 2.0, 1.0]), [Tokens([1], [2])]

    def refuse(*_: object, **__: object) -> None:
        raise AdapterError("no")

    probe.set(Sum(2, 4), Coefficients(np.ones(2)))
    monkeypatch.setattr(llama_probe, "LlamaCpp", refuse)
    with pytest.raises(AdapterError):
        probe.set(summed, Coefficients(c))
    monkeypatch.setattr(llama_probe, "LlamaCpp", Engine)
    assert probe.loss(row) == 1
    assert probe._engine.asked[-1] == []  # type: ignore[attr-defined]
    probe.set(summed, Coefficients(c))
    assert probe.loss(row) == 1
    assert probe._engine.asked == [[3, 2, 1]]  # type: ignore[attr-defined]


def test_adapters_that_cannot_be_written(
    probe: LlamaCppProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_lorameta.formats.gguf_adapter._write", fill)
    with pytest.raises(AdapterError, match=r"^an adapter cannot .*: 0\.gguf could not .*No space"):
        probe.set(Sum(2, 4), Coefficients(np.ones(2)))
    monkeypatch.setattr("hf_lorameta.formats.lora_file.write_tensors", fill)
    with pytest.raises(AdapterError, match="No space") as caught:
        probe.set(Sum(2, 4), Coefficients(np.ones(2)))
    assert "free some space in" in caught.value.hint


def test_what_is_not_loaded_stays_zero(probe: LlamaCppProbe) -> None:
    summed = Sum(3, 4)
    probe.set(summed, Coefficients(np.array([3.0, 2.0, 0.0])))
    probe.set(summed, Coefficients(np.array([0.0, 1.0, 0.0])))
    with pytest.raises(ValueError, match="only the 2 largest"):
        probe.set(summed, Coefficients(np.array([3.0, 2.0, 0.5])))


@pytest.mark.parametrize(
    ("changes", "told"),
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
def test_a_base_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(llama_probe, "LlamaCpp", None)
    path = header(tmp_path / "other.gguf", **changes)
    with pytest.raises(UsageError, match=rf"other\.gguf does not fit the bank: .*{told}") as caught:
        LlamaCppProbe(path, LAYOUT)
    assert caught.value.hint.startswith("name another with --base-gguf")
    with pytest.raises(NotFoundError, match="No such file"):
        LlamaCppProbe(tmp_path / "none.gguf", LAYOUT)


def test_a_base_in_several_files_lists_its_part(tmp_path: Path) -> None:
    path = header(tmp_path / "base-00001-of-00002.gguf", LAYOUT[:3])
    assert check_base_gguf(path, LAYOUT)["num_hidden_layers"] == LAYERS


def test_prompts_are_cut_and_outputs_are_not(base: Path, probe: LlamaCppProbe) -> None:
    probe._engine = Engine(base, context=10)  # type: ignore[assignment]
    prompt, output = probe.encode([("a" * 20, "b" * 6)])[0]
    assert len(prompt) + len(output) == 10
    assert bytes(output) == b" bbbbbb\t"
    assert probe.encode([("a", "b" * 6)])[0].prompt == [7, ord("a")]
    with pytest.raises(UsageError, match="output has 9 tokens, expected fewer than 9"):
        probe.encode([("a", "b" * 7)])


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
    """Whatever was started of a ``llama-server`` that fails in two ways."""
    path = tmp_path / "bin" / "llama-server"
    path.parent.mkdir()
    path.write_text(BINARY.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))
    started, start = [], llama_server._start
    monkeypatch.setattr(llama_server, "_start", lambda *a: started.append(start(*a)) or started[-1])
    return started


def test_an_engine_that_cannot_be_used_does_not_go_on_running(
    base: Path, servers: list[Any]
) -> None:
    with pytest.raises(LoraMetaError, match="answered 500"):
        LlamaCpp(base)
    (server,) = servers
    assert server._process.poll() is not None


def test_an_engine_that_crashes_with_many_adapters(base: Path, servers: list[Any]) -> None:
    folder = save(base.parent / "peft")
    files = [export(folder, base.parent / f"{i}.gguf", config()) for i in range(3)]
    with pytest.raises(AdapterError, match=r"these 3 adapters: GGML_ASSERT\(too many\)") as caught:
        LlamaCpp(base, files)
    assert str(files[0]) not in str(caught.value)
    assert "update llama-server" in caught.value.hint
