"""Single measurements of `tests.benchmarks.speed`; each runs in its own process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta.method import merging, metrics
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.pipeline.generate import generate_from_plan
from hf_lorameta.pipeline.plan import Plan

Figures = dict[str, Any]

MISTRAL_VOCABULARY = 32_000


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Clock:
    """Wall time, CPU time and peak memory of a block of code."""

    def __enter__(self) -> "Clock":
        self._start, self._cpu, self._before = (
            time.perf_counter(),
            time.process_time(),
            peak_memory(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._cpu
        self.figures: Figures = {
            "seconds": self.seconds, "cpu": self.cpu, "peak": peak_memory(),
            "above": peak_memory() - self._before,
        }  # fmt: skip


def prepare(folder: Path, names: list[str], state: str) -> int:
    """Load files into the page cache or drop them from it; return their size in bytes."""
    total = 0
    for name in names:
        path = folder / "adapters" / f"{name}.safetensors"
        with path.open("rb", buffering=0) as file:
            total += path.stat().st_size
            if state == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 22):
                    pass
    return total


def read(folder: str, state: str) -> Figures:
    """Read all adapters into one buffer, file after file, as `dd bs=1M` does."""
    names = [path.stem for path in sorted(Path(folder, "adapters").iterdir())]
    size = prepare(Path(folder), names, state)
    buffer = np.empty(1 << 20, np.uint8)
    with Clock() as clock:
        for name in names:
            with Path(folder, "adapters", f"{name}.safetensors").open("rb", buffering=0) as file:
                while file.readinto(buffer.data):
                    pass
    return clock.figures | {"rate": size / clock.seconds / 1e9}


def combine(folder: str, combiner: str, number: str, state: str) -> Figures:
    """Combine the first adapters of a bank or pack as `generate` does; 0 means all."""
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.recipe import Recipe

    bank = Bank(Path(folder))
    count = int(number) or len(bank)
    weights = np.zeros(len(bank))
    weights[:count] = np.random.default_rng(0).random(count)
    weights /= weights.sum()
    size = prepare(Path(folder), [e.name for e in bank.index.entries[:count]], state)
    plan = Plan(
        bank, None, Recipe.of(combine=combiner), None, np.zeros(len(bank)), Coefficients(weights),  # type: ignore[arg-type]
    )  # fmt: skip
    with Clock() as clock:
        generate_from_plan(plan)
    return clock.figures | {"rate": size / clock.seconds / 1e9}


def published(folder: str, number: str) -> Figures:
    """The published code: load all adapters in float32, stack them, one matmul per tensor."""
    import torch
    from safetensors.torch import load_file

    paths = sorted(Path(folder, "adapters").iterdir())[: int(number)]
    weights = torch.rand(len(paths))
    with Clock() as clock:
        started = time.perf_counter()
        loaded = [{k: v.float() for k, v in load_file(path).items()} for path in paths]
        loading = time.perf_counter() - started
        for name in loaded[0]:
            stacked = torch.stack([tensors[name].flatten() for tensors in loaded])
            torch.matmul(weights, stacked)
    return clock.figures | {"loading": loading}


def peft_linear(folder: str, number: str) -> Figures:
    """PEFT's `add_weighted_adapter(combination_type="linear")` on layers of the bank's shape."""
    return _peft(Path(folder), int(number), "linear")


def peft_svd(folder: str, number: str) -> Figures:
    """PEFT's `svd` of all modules, without loading."""
    return _peft(Path(folder), int(number), "svd")


def _peft(folder: Path, number: int, kind: str) -> Figures:
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from hf_lorameta.bank.bank import Bank

    warnings.simplefilter("ignore")
    bank = Bank(folder)
    layout = bank.layout
    model = _tree(layout)
    entries = bank.index.entries[:number]
    config = LoraConfig(
        r=entries[0].rank, lora_alpha=2 * entries[0].rank, target_modules=[m.name for m in layout]
    )
    with Clock() as clock:
        started = time.perf_counter()
        wrapped = get_peft_model(model, config, adapter_name=entries[0].name)
        for i, entry in enumerate(entries):
            if i:
                wrapped.add_adapter(entry.name, config)
            tensors = load_file(folder / f"adapters/{entry.name}.safetensors")
            for m in layout:
                layer = wrapped.base_model.model.get_submodule(m.name)
                for factor in ("A", "B"):
                    target = getattr(layer, f"lora_{factor}")[entry.name].weight
                    target.data.copy_(tensors[f"base_model.model.{m.name}.lora_{factor}.weight"])
        loading = time.perf_counter() - started
        started = time.perf_counter()
        with torch.no_grad():
            wrapped.add_weighted_adapter(
                [e.name for e in entries], [1 / number] * number, "sum", combination_type=kind
            )
        combining = time.perf_counter() - started
    seconds = clock.seconds if kind == "linear" else combining
    return clock.figures | {"seconds": seconds, "loading": loading, "sum": combining}


def _tree(layout: Any) -> Any:
    """Nested modules with linear layers at the layout's names, without real weights."""
    import torch

    root = torch.nn.Module()
    for module in layout:
        *path, leaf = module.name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        linear = torch.nn.Linear(
            module.in_features, module.out_features, False, dtype=torch.bfloat16
        )
        place.add_module(leaf, linear)
    return root


def exact_module(folder: str, number: str) -> Figures:
    """`exact` on one q_proj, and its error against the optimum from all singular values."""
    from threadpoolctl import threadpool_limits

    from hf_lorameta.bank.bank import Bank

    bank = Bank(Path(folder))
    entries = bank.index.entries[: int(number)]
    files, name = bank.adapters(entries), "model.layers.0.self_attn.q_proj"
    weights, scalings = [1 / len(files)] * len(files), [e.scaling for e in entries]
    rank = min(16, bank.layout[0].in_features // 2)
    times = []
    for _ in range(5):
        with threadpool_limits(1, "blas"), Clock() as clock:  # as `generate` does
            As, Bs = zip(*(file.factors(name) for file in files), strict=True)
            A, B = merging.exact(As, Bs, weights, scalings, rank)
        times.append(clock.seconds)
    terms = zip(weights, scalings, As, Bs, strict=True)
    dense = sum(w * s * (B.astype(np.float64) @ A) for w, s, A, B in terms)
    values = np.linalg.svd(dense, compute_uv=False)
    best = float(np.sqrt(np.square(values[rank:]).sum()))
    error = float(np.linalg.norm(dense - B.astype(np.float64) @ A))
    return clock.figures | {"seconds": min(times), "over": error / best - 1}


def distances(number: str) -> Figures:
    """One profile to so many by the paper's four, from their stored form on; the best of five."""
    from tests.benchmarks.synthetic_bank import profiles

    table, clocks = profiles(int(number), MISTRAL_VOCABULARY), []
    for _ in range(5):
        with Clock() as clock:
            for metric in ("wd", "kl", "js", "mmd"):
                metrics.distances(table[0], table, MISTRAL_VOCABULARY, metric)
        clocks.append(clock)
    least = {"seconds": min(c.seconds for c in clocks), "cpu": min(c.cpu for c in clocks)}
    return clock.figures | least


def scipy_distances(number: str) -> Figures:
    """The four distances pair by pair on token samples, extrapolated from 10 pairs."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import entropy, wasserstein_distance

    from hf_lorameta.method.token_counts import BANDWIDTHS
    from tests.benchmarks.synthetic_bank import profiles

    size = MISTRAL_VOCABULARY
    table = profiles(11, size)
    tables = [table[i].counts(size) for i in range(11)]
    samples = [np.repeat(np.arange(size), counts) for counts in tables]
    rng = np.random.default_rng(0)
    with Clock() as clock:
        for other in samples[1:]:
            wasserstein_distance(samples[0], other)
            p, q = (np.bincount(s, minlength=size) / s.size + 1e-10 for s in (samples[0], other))
            entropy(p, q)
            jensenshannon(p, q)
            x, y = (rng.choice(s, min(1000, s.size), replace=False) for s in (samples[0], other))
            for a, b in ((x, x), (y, y), (x, y)):
                gap = np.subtract.outer(a, b).astype(float) ** 2
                sum((w**2 / (w**2 + gap)).mean() for w in BANDWIDTHS)
    pairs = len(samples) - 1
    return clock.figures | {"seconds": clock.seconds * int(number) / pairs, "pairs": pairs}


WORDS = """the of and a to in is was he for it with as his on be at by had not are but from or have
an they which one you were her all she there would their we him been has when who will more question
answer weather number context passage sentence tokenizer unbelievable"""


def word_rows(number: int) -> Iterator[tuple[str, str]]:
    """Rows of random English words, seeded."""
    rng = np.random.default_rng(0)
    words = np.array(WORDS.split())
    for _ in range(number):
        row = words[rng.integers(0, words.size, 60)]
        yield " ".join(row[:50]) + "?", " ".join(row[50:]) + f" {rng.integers(0, 9999)}."


def profile(number: str) -> Figures:
    """Profile many rows; the peer only tokenizes the same texts, 1,000 at a time."""
    from tokenizers import Tokenizer

    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.data.profile import profile_rows

    bank, many = Bank.from_pretrained(), int(number)
    rows = list(word_rows(many))
    list(bank.encode(["warm up"] * 100))
    profile_rows(rows[: many // 10], bank.encode, bank.index.vocab_size)
    before = peak_memory()
    times = []
    for _ in range(2):
        with Clock() as clock:
            profile_rows(rows, bank.encode, bank.index.vocab_size)
        times.append(clock.seconds)
    grown = peak_memory() - before
    tokenizer = Tokenizer.from_file(str(bank.folder / "tokenizer.json"))
    both = [text for row in rows for text in row]
    peers = []
    for _ in range(2):
        started = time.perf_counter()
        for start in range(0, len(both), 1000):
            tokenizer.encode_batch(both[start : start + 1000], add_special_tokens=False)
        peers.append(time.perf_counter() - started)
    return clock.figures | {"seconds": min(times), "peer": min(peers), "grown": grown}


def _time_command(*words: str, **more: str) -> float:
    env = {k: v for k, v in os.environ.items() if k != "USE_TORCH"} | more
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hf_lorameta", *words],
            env=env, check=True, capture_output=True, text=True,
        )  # fmt: skip
        times.append(time.perf_counter() - started)
    return min(times)


def plan(folder: str, **env: str) -> Figures:
    """`plan` for 1,000 local rows, including the start of the process; the best of three."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "rows.jsonl")
        lines = (json.dumps({"input": a, "output": b}) for a, b in word_rows(1000))
        path.write_text("\n".join(lines))
        return {"seconds": _time_command("plan", "-d", str(path), "--bank", folder, **env)}


def plan_pulled(folder: str) -> Figures:
    """The same with a bank pulled from a loopback Hub."""
    import tempfile

    from hf_lorameta.localhub import LocalHub

    with tempfile.TemporaryDirectory() as scratch, LocalHub() as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.add_user("owner"), "HF_HOME": scratch}
        words = [sys.executable, "-m", "hf_lorameta", "bank"]
        pulled = str(Path(scratch, "bank"))
        subprocess.run([*words, "push", folder, "owner/bank"], env=os.environ | env, check=True,
                       capture_output=True)  # fmt: skip
        started = time.perf_counter()
        subprocess.run([*words, "pull", "owner/bank", "-o", pulled], env=os.environ | env,
                       check=True, capture_output=True)  # fmt: skip
        seconds = time.perf_counter() - started
        return plan(pulled, **env) | {"pull": seconds}


def usage() -> Figures:
    """`--help`, including the start of the process; the best of three."""
    return {"seconds": _time_command("--help")}


def make_pack(folder: str, target: str, basis: str, dtype: str) -> Figures:
    """Pack a bank."""
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.pack import pack

    with Clock() as clock:
        pack(Bank(Path(folder)), Path(target), basis=int(basis), dtype=dtype)  # type: ignore[arg-type]
    return clock.figures


def pack_size(folder: str) -> Figures:
    """Size and retained energy of a pack."""
    from hf_lorameta.bank.bank import Bank

    bank = Bank(Path(folder))
    assert bank.index.packing
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"size": size, "retained": bank.index.packing.retained_whole}


def by_rank(rank: str) -> Figures:
    """`exact` to rank 16 of 40 adapters of this rank for one Mistral q_proj, in memory."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    count = 40
    V = rng.standard_normal((64, 4096), np.float32) * np.float32(0.9) ** np.arange(64)[:, None]
    V = V.astype(np.float32)
    As = [rng.standard_normal((int(rank), 64), np.float32) @ V for _ in range(count)]
    Bs = [(rng.standard_normal((int(rank), 64), np.float32) @ V).T for _ in range(count)]
    with threadpool_limits(1, "blas"), Clock() as clock:
        merging.exact(As, Bs, [1 / count] * count, [1.0] * count, 16)
    return clock.figures


def plot(lines: dict[str, list[tuple[float, float]]]) -> str:
    """Return an SVG of CPU time by size, each line with its own axes from 0."""
    width, height, parts = 240, 160, []
    for i, (name, points) in enumerate(lines.items()):
        left, most_x, most_y = 40 + i * (width + 60), points[-1][0], max(y for _, y in points)
        xy = [(left + width * x / most_x, 30 + height * (1 - y / most_y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(left, 30 + height), *xy])
        parts.append(f'<polyline points="{path}" fill="none" stroke="#3b6"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in xy]
        parts += [
            f'<text x="{x:.1f}" y="{y - 6:.1f}" text-anchor="end">{a:g}: {b:.1f} s</text>'
            for (x, y), (a, b) in zip(xy, points, strict=True)
        ]
        parts.append(f'<text x="{left}" y="16">{name}</text>')
        corner = f"{left},30 {left},{30 + height} {left + width},{30 + height}"
        parts.append(f'<polyline points="{corner}" fill="none" stroke="#888"/>')
    total = 40 + len(lines) * (width + 60)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height + 50}" '
            f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>\n')  # fmt: skip


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    f.__name__: f
    for f in (read, combine, published, peft_linear, peft_svd, exact_module, distances,
              scipy_distances, profile, plan, plan_pulled, usage, make_pack, pack_size, by_rank)
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
