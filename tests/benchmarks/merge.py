"""Merging with PEFT compared: ``python -m tests.benchmarks.merge``.

Adapters of ``../shared/bank`` are merged, with one negative weight, by `hf_lorameta.merge` and by
several kinds of PEFT's ``add_weighted_adapter``. Each merge runs in its own process, from opening
the adapters to the saved result.

The error is ``‖M − result‖ / ‖M‖`` over all modules, with the dense weighted sum M; ``sparse``
is meant to be another matrix than M. Memory is the peak of the process less what its
imports take. PEFT loads the base model; hf_lorameta does not. Seconds are those of the
CPU, which other processes on the machine change little.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta.formats.lora_file import open_adapter
from tests.benchmarks.measurements import peak_memory
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

PEFT_KINDS = ("svd", "linear", "cat")
OURS = ("exact", "sparse")
RANK = 16
HEAD = ("adapters", "tool", "method", "rank", "error", "CPU seconds", "of it loading", "memory, MB")


def weights(number: int) -> dict[str, float]:
    """Return weights of the first tasks' adapters; they sum to one, and one is negative."""
    names = shared_data.tasks()[:number]
    values = np.linspace(2, 1, number) * np.where(np.arange(number) == 1, -0.4, 1)
    return dict(zip(names, (values / values.sum()).round(4).tolist(), strict=True))


def ours(method: str, number: int, target: Path) -> dict[str, float]:
    from hf_lorameta import MergeRecipe, merge

    before, started = peak_memory(), time.process_time()
    recipe = MergeRecipe(combine=method, rank=RANK)
    adapters = {str(shared_data.BANK / name): weight for name, weight in weights(number).items()}
    merging = merge(adapters, recipe)
    loading = time.process_time() - started
    merging.save_pretrained(target)
    seconds = time.process_time() - started
    return {"seconds": seconds, "loading": loading, "memory": peak_memory() - before}


def peft(kind: str, number: int, target: Path) -> dict[str, float]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from hf_lorameta.hub.base_model import locate

    warnings.simplefilter("ignore")
    base = locate(shared_data.BASE_MODEL)
    before, started = peak_memory(), time.process_time()
    model: Any = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    names = list(weights(number))
    model = PeftModel.from_pretrained(model, shared_data.BANK / names[0], adapter_name="a0")
    for i, name in enumerate(names[1:], 1):
        model.load_adapter(shared_data.BANK / name, adapter_name=f"a{i}")
    loading = time.process_time() - started
    options: dict[str, Any] = {"svd_rank": RANK} if kind.endswith("svd") else {}
    with torch.no_grad():
        model.add_weighted_adapter(
            [f"a{i}" for i in range(number)],
            list(weights(number).values()),
            "mixed",
            combination_type=kind,
            **options,
        )
    model.save_pretrained(target.parent, selected_adapters=["mixed"])
    (target.parent / "mixed").rename(target)
    seconds = time.process_time() - started
    return {"seconds": seconds, "loading": loading, "memory": peak_memory() - before}


def dense(adapter: Path, module: str) -> np.ndarray:
    """Return the update of an adapter in a module."""
    config, weights = open_adapter(adapter)
    A, B = (weights.tensor(module, factor).astype(float) for factor in ("A", "B"))
    update: np.ndarray = config.scaling * B @ A
    return update


def error(number: int, result: Path) -> float:
    """Return the relative error of a result against the dense sum."""
    difference = norm = 0.0
    for module in open_adapter(result)[1].layout:
        terms = weights(number).items()
        total = sum(c * dense(shared_data.BANK / name, module.name) for name, c in terms)
        difference += float(np.square(total - dense(result, module.name)).sum())
        norm += float(np.square(total).sum())
    return float(np.sqrt(difference / norm))


def measure(tool: str, method: str, number: int) -> list[str]:
    """Run one merge in its own process; return a row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "result")
        command = [sys.executable, "-m", "tests.benchmarks.merge", "--one", tool, method]
        command += [str(number), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1][:80]
            return [str(number), tool, method, "–", reason, "–", "–", "–"]
        figures = json.loads(done.stdout.splitlines()[-1])
        rank = open_adapter(target)[1].rank
        return [
            str(number), tool, f"`{method}`", str(rank), f"{error(number, target):.2g}",
            f"{figures['seconds']:.2f}", f"{figures['loading']:.2f}",
            f"{figures['memory']:.0f}",
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shared_data.require()
    if options.one:
        tool, method, number, target = options.one
        run = ours if tool == "hf_lorameta" else peft
        print(json.dumps(run(method, int(number), Path(target))))
        return
    rows = []
    for number in options.adapters:
        pairs = [("hf_lorameta", m) for m in OURS] + [("PEFT", kind) for kind in PEFT_KINDS]
        for tool, method in pairs:
            rows.append(measure(tool, method, number))
            print(*rows[-1], sep="  ", flush=True)
    print("\n" + markdown_table(HEAD, rows, right=(0, 3, 4, 5, 6, 7)))


if __name__ == "__main__":
    main()
