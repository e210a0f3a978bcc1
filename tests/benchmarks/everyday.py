"""The everyday tasks of ``../shared``, and plans without the adapters of a task's source."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.engines.scoring import prompt_text
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.pipeline.coefficients import scale_for
from hf_lorameta.types import Row
from tests.support import shared_data

EVERYDAY = shared_data.SHARED / "everyday"
REPORT_ON = EVERYDAY / "report_on.txt"
ROWS, SHOTS = 24, 3
GAINS = ("loss", "share of the 3-shot gain", "better than base", "better than 3-shot")


class Everyday:
    """A bank and its base model, for scores that are saved in a folder."""

    def __init__(self, folder: Path, bank: Bank, dtype: str = "float32") -> None:
        self.folder, self.bank, self.dtype = folder, bank, dtype
        self._sources = read_sources()
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        logging.disable(logging.WARNING)
        return TorchEvaluator.from_folder(locate(shared_data.BASE_MODEL), self.dtype)

    def others(self, task: str) -> list[int]:
        """Return the indices of the bank's entries of other sources."""
        general = self.bank.index.general
        seen = [t.name.removeprefix("local--") for t in general.tasks] if general else []
        if any(self._sources.get(name) == self._sources[task] for name in seen):
            raise SystemExit(f"the general adapter was trained on the source of {task}")
        names = [entry.adapter.rpartition("/")[2] for entry in self.bank.index.entries]
        return [i for i, n in enumerate(names) if self._sources.get(n) != self._sources[task]]

    @lru_cache(maxsize=1)  # noqa: B019 - there is one benchmark
    def planned(self, task: str) -> Plan:
        return plan(EVERYDAY / f"{task}.train.jsonl", self.bank)


def prompted(rows: Sequence[Row], shots: Sequence[Row]) -> list[Row]:
    """Return rows with examples before their prompts."""
    return [(prompt_text(text, shots), output) for text, output in rows]


def read_sources() -> dict[str, str]:
    """Return the source of each everyday task."""
    meta = json.loads((EVERYDAY / "meta.json").read_bytes())
    return {name: facts["source"] for name, facts in meta.items()}


def read(task: str, split: str) -> list[tuple[str, str]]:
    """Return the rows of an everyday task; split is train or test."""
    lines = (EVERYDAY / f"{task}.{split}.jsonl").read_text("utf-8").splitlines()
    return [(row["input"], row["output"]) for row in map(json.loads, lines)]


def drawn(
    planned: Plan,
    entries: Sequence[int],
    recipe: Recipe | None = None,
) -> Plan:
    """Return a plan with some entries of the bank, as if it had no others."""
    bank, recipe = planned.bank, recipe or planned.recipe
    size = len(bank)
    general = np.array([1.0])
    if len(entries):
        inside = bank.distances[recipe.metric][np.ix_(entries, entries)].astype(np.float64)
        inputs = RuleInputs(
            planned.distances[entries], recipe.temperature, lambda: inside, general=True
        )
        general = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    coefficients = np.zeros(size + 1)
    coefficients[[*entries, size]] = general
    if planned.output_strength is not None:
        coefficients = np.append(coefficients, recipe.output_prior)
    scale = scale_for(bank, recipe, planned.profile)
    return replace(planned, recipe=recipe, coefficients=scale * coefficients)


def gains(base: np.ndarray, shot: np.ndarray, loss: np.ndarray) -> list[str]:
    """Return the cells under `GAINS`, from the losses of each task."""
    return [
        f"{loss.mean():.3f}",
        f"{(base - loss).mean() / (base - shot).mean():.2f}",
        f"{(loss < base).mean():.0%}",
        f"{(loss < shot).mean():.0%}",
    ]
