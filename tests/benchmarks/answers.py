"""Answers chosen among labels, beside greedy ones: how many are right, and what 0.95 is worth.

``python -m tests.benchmarks.answers FOLDER TASK …`` makes an adapter for each task of
``../shared/everyday`` or ``../shared/public`` as ``generate`` does, unless FOLDER has it, and
answers the first 60 test rows with it. A result is saved in FOLDER at once, so the command resumes
where it stopped. The calibration error of 60 rows in 15 bins is not zero for perfect probabilities:
``perfect`` is the mean of 200 draws of right answers from the probabilities themselves. The last
line pools the rows of all tasks.

With ``--speed``, the rows per second of one task: of `predict`, and of the pipeline of transformers
in batches of 16, with the adapter by PEFT, in the dtype of the base model's files.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_lorameta import Generation, Recipe, generate
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.questions import Question
from hf_lorameta.engines.adapter_weights import adapter_weights
from hf_lorameta.engines.scoring import is_right
from hf_lorameta.engines.transformers.continuing import continuations
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.method.calibration import answered, calibration_error
from hf_lorameta.pipeline import generate as generating
from hf_lorameta.pipeline.answering import attached
from hf_lorameta.pipeline.predict import Predictor, open_predictor
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row
from tests.benchmarks.everyday import EVERYDAY
from tests.benchmarks.tables import markdown_table, stored
from tests.benchmarks.two_minutes import PUBLIC
from tests.support import shared_data

SURE = 0.95
_DRAWS = 200
_BATCH = 16


def _file(task: str, split: str) -> Path:
    path = PUBLIC / f"{task}.{split}.jsonl"
    return path if path.exists() else EVERYDAY / path.name


def _adapter(folder: Path, task: str, labeled: int | None, budget: float, base: str) -> Path:
    """Make the adapter of a task unless it is there, in CPU seconds."""
    adapter = folder / task
    if not adapter.exists():
        setattr(generating, "Session", partial(Session, clock=time.process_time))  # noqa: B010
        split = f"train[:{labeled}]" if labeled else None
        made = generate(_file(task, "train"), None, Recipe(), base=base, budget=budget, split=split)
        assert isinstance(made, Generation)
        made.save_pretrained(adapter)
    return adapter


def _test_rows(predictor: Predictor, task: str, count: int) -> list[Row]:
    return open_dataset(_file(task, "test"), columns=predictor.columns).head(count)


def _answered(evaluator: TorchEvaluator, predictor: Predictor, rows: Sequence[Row]) -> Any:
    """Return what is kept of the answers to the test rows of a task."""
    prompts, outputs = [prompt for prompt, _ in rows], [output for _, output in rows]
    with attached(evaluator, predictor.answering) as answer:
        found = answer([Question(prompt) for prompt in prompts])
    with evaluator.attached(adapter_weights(predictor.answering.folder)):
        greedy = continuations(evaluator, prompts, first_line=True)
    labels = predictor.answering.labels
    assert predictor.choice
    return {
        "labels": len(labels),
        "counted": len(predictor.choice.counted),
        "temperature": predictor.choice.temperature,
        "confidence": [one.probability for one in found],
        "right": [is_right(a.answer, o) for a, o in zip(found, outputs, strict=True)],
        "greedy": [is_right(a.text, o) for a, o in zip(greedy, outputs, strict=True)],
        "invented": sum(one.text not in labels for one in greedy),
    }


def _perfect(confidence: Sequence[float]) -> float:
    """Return the calibration error that perfect probabilities have on so few rows."""
    rng, p = np.random.default_rng(0), np.array(confidence)
    return float(np.mean([calibration_error(p, rng.random(len(p)) < p) for _ in range(_DRAWS)]))


def _line(task: str, of: Any) -> list[str]:
    confidence, right = np.array(of["confidence"]), np.array(of["right"])
    sure, sure_right = answered(confidence, right, SURE)
    return [
        task, str(of["labels"]), str(of["counted"]), f"{np.mean(of['greedy']):.2f}",
        f"{right.mean():.2f}", str(of["invented"]),
        f"{calibration_error(confidence, right):.2f} ({_perfect(of['confidence']):.2f})",
        f"{confidence.mean() - right.mean():+.2f}", f"{sure_right} of {sure}",
    ]  # fmt: skip


def _pooled(results: dict[str, Any]) -> dict[str, Any]:
    names = ("confidence", "right", "greedy")
    joined = {name: [v for of in results.values() for v in of[name]] for name in names}
    return joined | {
        "labels": "", "counted": "", "invented": sum(of["invented"] for of in results.values())
    }  # fmt: skip


def _speed(evaluator: TorchEvaluator, predictor: Predictor, task: str, base: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    rows = _test_rows(predictor, task, 128)
    prompts = [prompt for prompt, _ in rows]
    answering = predictor.answering
    for kind, own in (("labels", answering.labels), ("texts", ())):
        with attached(evaluator, answering.__class__(answering.folder, answering.base, own)) as ask:
            ask([Question(prompt) for prompt in prompts[:8]])
            started = time.process_time()
            ask([Question(prompt) for prompt in prompts])
        print(f"predict, {kind}: {len(rows) / (time.process_time() - started):.1f} rows a CPU s")
    folder = locate(base)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model = PeftModel.from_pretrained(model, answering.folder).eval()
    longest = max(len(row.output) for row in evaluator.encode(rows))
    ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {
        "batch_size": _BATCH, "max_new_tokens": longest + 2, "do_sample": False,
        "return_full_text": False,
    }  # fmt: skip
    ask(prompts[:8], **options)
    started = time.process_time()
    ask(prompts, **options)
    print(f"pipeline, batches of {_BATCH}: {len(rows) / (time.process_time() - started):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--rows", type=int, default=60, help="test rows")
    parser.add_argument("--labeled", type=int, help="training rows; default: all")
    parser.add_argument("--budget", type=float, default=240, help="CPU seconds")
    parser.add_argument("--base", default=shared_data.BASE_MODEL)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    shared_data.require()
    torch.set_num_threads(1)
    evaluator = TorchEvaluator.from_folder(locate(options.base))
    results = {}
    for task in options.tasks:
        adapter = _adapter(options.folder, task, options.labeled, options.budget, options.base)
        predictor = open_predictor(adapter, Hub(), options.base)
        if options.speed:
            _speed(evaluator, predictor, task, options.base)
            continue
        rows = _test_rows(predictor, task, options.rows)
        path = options.folder / f"{task}.json"
        results[task] = stored(path, partial(_answered, evaluator, predictor, rows))
        print(*_line(task, results[task]), flush=True)
    if results:
        lines = [_line(task, of) for task, of in results.items()]
        lines.append(_line("all rows together", _pooled(results)))
        head = ("task", "labels", "rows counted", "greedy", "chosen", "invented by greedy",
                "calibration error (perfect)", "too sure by", "right above 0.95")  # fmt: skip
        print("\n" + markdown_table(head, lines, right=range(1, len(head))))


if __name__ == "__main__":
    main()
