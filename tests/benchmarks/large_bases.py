"""What fitting and training take with large base models.

``python -m tests.benchmarks.large_bases FOLDER --size 7b``

The base model is random, of the shape of Llama-3.2-1B or Mistral-7B, and exists in memory only; 7b
takes 14.5 GB of it. A bank of random adapters for q, k and v is written to FOLDER. The product runs
on rows of 100 tokens: an instruction of 20 that all share, and 14 of output.

Parts: ``forward`` scores 16 rows, ``fit`` is all of ``--fit 16``, ``train`` a step of
``--train 16`` (two adapters, 8 rows each). Peak memory includes the base model.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import Recipe
from hf_lorameta.bank.bank import Bank
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.train import fit_adapter
from tests.benchmarks.measurements import Clock, peak_memory
from tests.benchmarks.random_models import CONFIGS, bank_shape, random_model, word_tokenizer
from tests.benchmarks.synthetic_bank import write_bank
from tests.benchmarks.tables import markdown_table

ROWS, SHARED, PROMPT, OUTPUT = 16, 20, 86, 13
"""Rows for each purpose; words that all prompts share, words of a prompt, and of an output."""
WORDS = 500
"""Number of different words in the rows."""

Figures = dict[str, float]


def random_rows(number: int) -> list[dict[str, str]]:
    """Return rows of random words."""
    rng = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(f"w{word}" for word in rng.integers(2, WORDS, words))

    instruction = text(SHARED)
    return [
        {"input": f"{instruction} {text(PROMPT - SHARED)}", "output": text(OUTPUT)}
        for _ in range(number)
    ]


def timed(run: Callable[[], Any]) -> Figures:
    """Run something, and return its seconds, CPU seconds and peak memory in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    with Clock() as clock:
        run()
    return {"seconds": clock.seconds, "cpu": clock.cpu, "peak": peak_memory()}


class Measurements:
    """Measures one base model with one bank; see the module's docstring.

    Args:
        session: with the base model.
        plan: of random rows, with `fit` and `train`.
        drawn: its labeled rows.

    Attributes:
        parts: the measurements by name.
    """

    def __init__(self, session: Session, plan: Plan, drawn: Rows) -> None:
        self._session, self._plan, self._drawn = session, plan, drawn
        self._evaluator = session.evaluator
        self._rows = self._evaluator.encode(drawn.fit)
        self._evaluator.score(self._rows[:1])  # the first pass also allocates memory
        self.parts: dict[str, Callable[[], Figures]] = {
            "forward": self._forward,
            "fit": self._fit,
            "train": self._training_step,
        }

    def _forward(self) -> Figures:
        return timed(lambda: self._evaluator.score(self._rows))

    def _fit(self) -> Figures:
        generation, evaluator = self._generation(), self._session.evaluator
        return timed(lambda: fit_adapter(generation, self._drawn, evaluator))

    def _training_step(self) -> Figures:
        from hf_lorameta.training.device import plan_device
        from hf_lorameta.training.further.settings import FOLDS, depth_of_training, settings_for
        from hf_lorameta.training.target_layers import with_all_projections
        from hf_lorameta.training.trainer import Run, Trainer

        model, rank = self._session.evaluator.model, 16
        layout = with_all_projections(model, self._plan.layout)
        width = model.config.hidden_size
        settings = settings_for(ROWS, depth_of_training(ROWS), width, rank, 0)
        machine = plan_device(model, layout, rank, FOLDS)
        rows = [self._rows[fold::FOLDS] for fold in range(FOLDS)]
        run = Run("few rows", repeat(rows), [of_fold[:1] for of_fold in rows], settings.steps)
        with Trainer(model, layout, settings, machine, FOLDS) as trainer:
            steps = trainer.train([run])
            next(steps)  # the first also measures the start
            return timed(lambda: next(steps))

    def _generation(self) -> Generation:
        """Return the adapter as it is generated."""
        plan = replace(self._plan, recipe=Recipe())
        generation = make_adapter(plan, session=self._session)
        return replace(generation, plan=replace(generation.plan, recipe=self._plan.recipe))


PARTS = ("forward", "fit", "train")


def measure(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """Make the base model and the bank, and yield the figures of each part."""
    import torch

    torch.set_num_threads(options.threads)
    if options.slow_bfloat16:
        torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    folder = options.folder / options.size
    if not (folder / "bank.json").exists():
        write_bank(folder, bank_shape(options.size))
    model = random_model(options.size)
    tokenizer = word_tokenizer(CONFIGS[options.size]["vocab_size"])
    with Session(Bank(folder), model=(model, tokenizer)) as session:
        recipe = Recipe(fit=ROWS, train=ROWS)
        dataset = session.open_dataset(random_rows(4 * ROWS))
        measurements = Measurements(session, *plan_with_rows(dataset, session, recipe))
        for part in options.parts:
            yield part, measurements.parts[part]()


def main() -> None:
    """Print the figures as they come, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=CONFIGS, default="1b")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--slow-bfloat16",
        action="store_true",
        help="as on CPUs without instructions for bfloat16; also set ATEN_CPU_CAPABILITY=avx2 and "
        "MKL_ENABLE_INSTRUCTIONS=AVX2",
    )
    rows = []
    options = parser.parse_args()
    for part, figures in measure(options):
        load = round(os.getloadavg()[0], 1)
        print(json.dumps({"part": part, **figures, "load": load}), file=sys.stderr, flush=True)
        cells = (f"{figures[name]:.1f}" for name in ("seconds", "cpu"))
        rows.append([part, *cells, f"{figures['peak'] / 1024:.1f}"])
    print(markdown_table(["part", "seconds", "CPU s", "peak GB"], rows, right=range(1, 4)))


if __name__ == "__main__":
    main()
