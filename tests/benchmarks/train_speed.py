"""Speed and memory of ``bank train`` and of PEFT: ``python -m tests.benchmarks.train_speed``.

Both train an adapter for each of the same tasks of ``../shared/everyday``, on the same rows, with
the same steps, rank and modules, from the same base model in float32. `hf_lorameta.training` trains
several at once; PEFT with transformers' Trainer one by one, batches padded to their longest row.
Each measurement is its own process, which also gives its peak memory (VmHWM). The two alternate,
and the fastest of each counts. Loading the model is not timed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.everyday import read
from tests.benchmarks.measurements import Clock, peak_memory
from tests.benchmarks.peft_training import padded
from tests.benchmarks.tables import markdown_table
from tests.support.shared_data import BASE_MODEL

TASKS = ("intent_snips", "nli_med", "title_poetry", "acceptability_blimp", "slots_snips",
         "commonsense_comve_a", "topic_medabstracts", "trivia_mc")  # fmt: skip
"""Of 8 sources and 6 prompt forms, none in ``report_on.txt``."""
ROOT = Path(__file__).parents[2]
ROWS, RANK, LR = 8, 16, 1e-3
TARGETS = ("q_proj", "k_proj", "v_proj")

Figures = dict[str, Any]


def measure_ours(tasks: Sequence[str], steps: int, threads: int, at_once: int) -> Figures:
    """Train the tasks as `bank train` does, without measuring held-out rows in between."""
    import torch

    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
    from hf_lorameta.hub.base_model import locate
    from hf_lorameta.training.bank.runs import TaskRows, task_run
    from hf_lorameta.training.device import DevicePlan
    from hf_lorameta.training.settings import Settings
    from hf_lorameta.training.target_layers import find_layout
    from hf_lorameta.training.trainer import Trainer

    torch.set_num_threads(threads)
    evaluator = TorchEvaluator.from_folder(locate(BASE_MODEL), "float32", batch_tokens=512)
    settings = Settings(
        rank=RANK, alpha=2 * RANK, targets=TARGETS, steps=steps, rows=ROWS, lr=LR, warmup=2,
        evaluate_every=steps,
    )  # fmt: skip
    encoded = [evaluator.encode(read(task, "train")) for task in tasks]
    plan = DevicePlan(workers=threads, pass_tokens=512)
    layout = find_layout(evaluator.model, TARGETS)
    rows = [
        TaskRows(name, of_task[:-1], of_task[-1:])
        for name, of_task in zip(tasks, encoded, strict=True)
    ]
    runs = (task_run(of_task, settings) for of_task in rows)
    with Clock() as clock, Trainer(evaluator.model, layout, settings, plan, at_once) as trainer:
        count = sum(ended for _, ended in trainer.train(runs))
    return {"seconds": clock.seconds, "cpu": clock.cpu, "adapters": count}


def measure_peft(tasks: Sequence[str], steps: int, threads: int, at_once: int) -> Figures:
    """Train the tasks one by one with PEFT and transformers' Trainer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
    from hf_lorameta.hub.base_model import locate

    torch.set_num_threads(threads)
    evaluator = TorchEvaluator.from_folder(locate(BASE_MODEL), "float32", batch_tokens=512)
    encoded = [evaluator.encode(read(task, "train"))[:-1] for task in tasks]
    seconds = cpu = 0.0
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=ROWS, learning_rate=LR,
            warmup_steps=2, weight_decay=0.0, use_cpu=True, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, seed=0,
        )  # fmt: skip
        for of_task in encoded:
            config = LoraConfig(
                r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM"
            )
            model = get_peft_model(evaluator.model, config)
            trainer = Trainer(
                model=model, args=arguments, train_dataset=of_task, data_collator=padded
            )
            with Clock() as clock:
                trainer.train()
            seconds, cpu = seconds + clock.seconds, cpu + clock.cpu
            model.unload()
    return {"seconds": seconds, "cpu": cpu, "adapters": len(encoded)}


MEASUREMENTS = {"ours": measure_ours, "peft": measure_peft}


def run(name: str, options: argparse.Namespace) -> Figures:
    """Run a measurement in a new process."""
    command = [
        sys.executable, "-m", "tests.benchmarks.train_speed", "--only", name, "--tasks",
        *options.tasks, "--steps", str(options.steps), "--threads", str(options.threads),
        "--at-once", str(options.at_once),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "USE_TORCH": "1"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    figures["load"] = round(os.getloadavg()[0], 1)
    print(name, figures, file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS[:4])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--only", choices=MEASUREMENTS)
    options = parser.parse_args()
    if options.only:
        measure = MEASUREMENTS[options.only]
        figures = measure(options.tasks, options.steps, options.threads, options.at_once)
        print(json.dumps(figures | {"peak": peak_memory()}))
        return
    results: dict[str, list[Figures]] = {name: [] for name in MEASUREMENTS}
    for _ in range(options.rounds):
        for name, runs in results.items():
            runs.append(run(name, options))
    ours, peft = (min(results[name], key=lambda r: r["seconds"]) for name in ("ours", "peft"))
    rows = [
        [name, *(f"{figures[key]:.1f}" for key in ("seconds", "cpu", "peak", "load"))]
        for name, figures in (("bank train", ours), ("PEFT, Trainer", peft))
    ]
    print(markdown_table(["", "seconds", "CPU seconds", "peak MB", "load"], rows))
    print(
        f"\n{len(options.tasks)} tasks, {options.steps} steps of {ROWS} rows, {options.threads} "
        f"threads: {peft['seconds'] / ours['seconds']:.2f} times as fast (to reach: 1.5), "
        f"{ours['cpu'] / peft['cpu']:.2f} of the CPU time, "
        f"{ours['peak'] / peft['peak']:.2f} of the memory (to reach: 1)"
    )


if __name__ == "__main__":
    main()
