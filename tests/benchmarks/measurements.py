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

from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.pipeline.make import make_adapter
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


def load(folder: Path) -> None:
    """Read all files of a folder into the page cache."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def combine(folder: str) -> Figures:
    """Combine all adapters of a bank or pack by `exact`, read from the page cache."""
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.recipe import Recipe

    bank = Bank(Path(folder))
    weights = np.random.default_rng(0).random(len(bank))
    weights /= weights.sum()
    load(Path(folder, "adapters"))
    plan = Plan(
        bank, None, Recipe(), None, np.zeros(len(bank)), Coefficients(weights),  # type: ignore[arg-type]
    )  # fmt: skip
    with Clock() as clock:
        make_adapter(plan)
    return clock.figures


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
    from hf_lorameta.data.counts.profile import profile_rows

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


MEASUREMENTS: dict[str, Callable[..., Figures]] = {
    f.__name__: f for f in (combine, profile, plan, plan_pulled, usage, make_pack, pack_size)
}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
