"""How fast products are in float32, bfloat16 and int8, and what a training step takes in each.

``python -m tests.benchmarks.products BASE...`` prints the rates of the products of a frozen layer,
forward and backward, and for each base model (folder, GGUF file or Hub id) the CPU seconds of a
step of eight rows of an everyday task, the loss of other rows before and after a few steps, and the
peak memory of a process that loads the model and takes them. Each has a process of its own, in one
thread; a kind is left out where int8 is not exact. ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` stands
for a CPU without bfloat16, and with ``AVX2`` and ``ATEN_CPU_CAPABILITY=avx2`` for one without
AVX-512.

With ``--generate``, the peak memory of ``generate`` on the task is printed as well.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers import products
from hf_lorameta.engines.transformers.decoder import width
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.products import Arithmetic
from hf_lorameta.hub.base_model import locate
from hf_lorameta.training.settings import settings_for
from hf_lorameta.training.trained import encode_rows
from hf_lorameta.training.trainer import TrainedPart, Trainer, batches
from tests.benchmarks.everyday import EVERYDAY
from tests.benchmarks.tables import markdown_table

SHAPES = ((512, 896, 4864), (512, 4864, 896), (208, 576, 1536), (512, 1536, 8960))
"""Tokens, inputs and outputs of layers of the base models."""
TASK = "intent_clinc150"
SCORED = 40


def rates(shape: tuple[int, int, int]) -> list[list[str]]:
    """Return GFLOPS of a layer's product and of its input gradient, a row for each."""
    tokens, inputs, outputs = shape
    x, g = torch.randn(tokens, inputs), torch.randn(tokens, outputs)
    weight = torch.randn(outputs, inputs) / math.sqrt(inputs)
    narrow, rounded = weight.bfloat16(), products.quantized(weight)
    forward: list[Callable[[], object]] = [
        lambda: products.linear(x, weight),
        lambda: products.linear(x.bfloat16(), narrow),
        lambda: products.linear(x, rounded),
    ]
    backward: list[Callable[[], object]] = [
        lambda: products.input_gradient(g, weight),
        lambda: products.input_gradient(g.bfloat16(), narrow),
        lambda: products.input_gradient(g, rounded),
    ]
    operations = 2e-9 * math.prod(shape)
    return [
        [f"{tokens}, {inputs} → {outputs}, {name}", *(f"{operations / s:.0f}" for s in _times(of))]
        for name, of in (("forward", forward), ("backward", backward))
    ]


def _times(of: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median CPU seconds of each function, measured alternately."""
    found: list[list[float]] = [[] for _ in of]
    with torch.no_grad():
        for _ in range(7):
            for durations, function in zip(found, of, strict=True):
                started = time.process_time()
                function()
                durations.append(time.process_time() - started)
    return [median(durations) for durations in found]


def prefer(kind: Arithmetic) -> None:
    """Pretend that a kind is the fastest here; for int8, bfloat16 remains as fast as it is."""
    measured = products._measured() if kind is Arithmetic.INT8 else dict.fromkeys(Arithmetic, 1.0)
    seconds = {**measured, Arithmetic.INT8: math.inf, kind: 0.0}
    products._measured = lambda: seconds  # type: ignore[assignment]


def step(base: str, kind: Arithmetic, task: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """Return CPU seconds of loading and of a step, and losses before and after the steps."""
    torch.set_num_threads(1)
    prefer(kind)
    folder, started = locate(base), time.process_time()
    loaded = TorchEvaluator.from_folder(folder)
    seconds = time.process_time() - started
    train, test = (
        encode_rows(loaded, 512, list(islice(rows(task, split), most))).rows
        for split, most in (("train", 252), ("test", SCORED))
    )
    settings = settings_for(len(train), width(loaded.model), 16, seed)
    start, durations = LoraWeights((), []), list[float]()
    with Trainer(
        loaded.model, TrainedPart.upper(loaded.model, ()), start, settings, train
    ) as trainer:
        before, order = trainer.score(test).losses.per_token, batches(train, settings)
        for index in range(steps):
            batch, started = next(order), time.process_time()
            trainer.step(batch, settings.learning_rate(index))
            durations.append(time.process_time() - started)
        after = trainer.score(test).losses.per_token
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "load": seconds, "step": median(durations[1:]), "before": before, "after": after,
        "GB": memory, "arithmetic": loaded.arithmetic,
    }  # fmt: skip


def rows(task: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield prompts and outputs of a split of an everyday task."""
    with (EVERYDAY / f"{task}.{split}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["input"], " " + row["output"]


def _in_process(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.products", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def generate_memory(base: str, budget: str) -> float:
    """Return the peak memory of ``generate`` for a base model in GB."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = EVERYDAY / f"{TASK}.train.jsonl", Path(folder) / "adapter"
        command = [sys.executable, "-m", "hf_lorameta", "generate", str(data), "-o", str(out)]
        started = subprocess.Popen([*command, "--base", base, "--budget", budget, "--quiet"])
        _, status, usage = os.wait4(started.pid, 0)
    if status:
        raise SystemExit(f"generate ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1e6


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="*")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--kind", help="print the figures of a step in this arithmetic alone")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generate", metavar="BUDGET", help="also measure generate's memory")
    arguments = parser.parse_args()
    if arguments.kind:
        kind = Arithmetic(arguments.kind)
        found = step(arguments.base[0], kind, arguments.task, arguments.steps, arguments.seed)
        print(json.dumps(found))
        return
    torch.set_num_threads(1)
    kinds = [kind.value for kind in Arithmetic]
    table = [row for shape in SHAPES for row in rates(shape)]
    print(f"int8 within ±{products.int8_levels()}\n")
    print(markdown_table(["GFLOPS of tokens, inputs → outputs", *kinds], table))
    table = []
    for base in arguments.base:
        for name in kinds:
            common = ["--steps", str(arguments.steps), "--task", arguments.task]
            found = _in_process([base, *common, "--seed", str(arguments.seed), "--kind", name])
            figures = [f"{found[key]:.2f}" for key in ("step", "load", "before", "after", "GB")]
            table.append([Path(base).name, name, *figures])
        if arguments.generate:
            memory = generate_memory(base, arguments.generate)
            table.append([Path(base).name, "generate", "", "", "", "", f"{memory:.2f}"])
    columns = ["base model", "", "CPU s a step", "to load", "loss before", "after", "peak GB"]
    print(markdown_table(columns, table))


if __name__ == "__main__":
    main()
