"""What a larger bank brings to new sources: ``python -m tests.benchmarks.growth FOLDER``.

For each task of ``../shared/everyday/report_on.txt``, the adapters of its source are left out of
the bank, and some of the others are drawn at random: 10, 25, 50, 100, or all. The general adapter
takes part always; it must not have been trained on any task of the source. Scores are losses of the
reference outputs on test rows, also of the base model and a 3-shot prompt.

Every score is saved in FOLDER at once, so the command resumes where it stopped. At the end it
prints a table and writes it into FOLDER.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.pipeline.coefficients import scale_for
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import no_progress
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

EVERYDAY = shared_data.SHARED / "everyday"
SIZES, SEEDS = (10, 25, 50, 100), 3
ROWS, SHOTS = 24, 3
HEAD = ("method", "loss", "share of the 3-shot gain", "better than base", "better than 3-shot")


class Growth:
    """Losses by task and method, saved in a folder."""

    def __init__(
        self,
        folder: Path,
        bank: Bank,
        dtype: str = "float32",
        base_model: str = shared_data.BASE_MODEL,
    ) -> None:
        self.folder, self.bank = folder, bank
        self._dtype, self._base_model = dtype, base_model
        self.sources = read_sources()
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        logging.disable(logging.WARNING)
        return TorchEvaluator(locate(self._base_model), self._dtype)

    def others(self, task: str) -> list[int]:
        """Return the indices of the bank's entries of other sources."""
        general = self.bank.index.general
        seen = [t.name.removeprefix("local--") for t in general.tasks] if general else []
        if any(self.sources.get(name) == self.sources[task] for name in seen):
            raise SystemExit(f"the general adapter was trained on the source of {task}")
        names = enumerate(entry_names(self.bank))
        return [i for i, n in names if self.sources.get(n) != self.sources[task]]

    def methods(self, task: str) -> Iterator[tuple[str, Sequence[int] | None]]:
        """Yield the methods, and for those with a bank its entries."""
        others = self.others(task)
        yield from (("base", None), ("3-shot", None), ("0", []))
        for size in SIZES:
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, size])
                yield f"{size} ({seed})", sorted(rng.permutation(others)[:size].tolist())
        yield "all", others
        yield "all, no output prior", others

    @lru_cache(maxsize=1)  # noqa: B019 - there is one benchmark
    def planned(self, task: str) -> Plan:
        return plan(EVERYDAY / f"{task}.train.jsonl", self.bank)

    def loss(self, task: str, method: str, entries: Sequence[int] | None) -> float:
        """Return the loss of a method, computed once."""
        path = self.folder / f"{task} {method}.json"
        if not path.exists():
            write_atomically(path, json.dumps(self._compute(task, method, entries)).encode())
        return float(json.loads(path.read_bytes()))

    def _compute(self, task: str, method: str, entries: Sequence[int] | None) -> float:
        rows, examples = read(task, "test")[:ROWS], read(task, "train")[:SHOTS]
        if entries is None:
            shots = examples if method == "3-shot" else ()
            return self.evaluator.score(self.evaluator.encode(rows, shots)).loss
        recipe = Recipe(output_prior=0) if method.endswith("no output prior") else None
        planned = drawn(self.planned(task), entries, recipe)
        pairs = combine_adapters(planned, no_progress)
        return self.evaluator.score(self.evaluator.encode(rows), planned.layout, pairs).loss


def entry_names(bank: Bank) -> list[str]:
    """Return the names of the tasks of a bank's entries."""
    return [entry.adapter.rpartition("/")[2] for entry in bank.index.entries]


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
    distances: tuple[np.ndarray, np.ndarray] | None = None,
) -> Plan:
    """Return a plan with some entries of the bank, as if it had no others.

    `distances` are those to these entries and those between them; default: the plan's.
    """
    bank, recipe = planned.bank, recipe or planned.recipe
    size = len(bank)
    general = np.array([1.0])
    if len(entries):
        query, inside = distances or (
            planned.distances[entries],
            bank.distances[recipe.metric][np.ix_(entries, entries)].astype(np.float64),
        )
        inputs = RuleInputs(query, recipe.temperature, lambda: inside, general=True)
        general = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    coefficients = np.append(np.zeros(size + 1), recipe.output_prior)
    coefficients[[*entries, size]] = general
    scale = scale_for(bank, recipe, planned.profile)
    return replace(planned, coefficients=scale * coefficients)


def cells(losses: dict[str, np.ndarray], method: str) -> list[str]:
    """Return a row of the table; several draws are averaged."""
    runs = [values for name, values in losses.items() if name.split(" (")[0] == method]
    base, shot = losses["base"], losses["3-shot"]
    share = np.mean([(base - run).mean() / (base - shot).mean() for run in runs])
    return [
        f"{np.mean(runs):.3f}",
        f"{share:.2f}",
        f"{np.mean([(run < base).mean() for run in runs]):.0%}",
        f"{np.mean([(run < shot).mean() for run in runs]):.0%}",
    ]


class Arguments(NamedTuple):
    """What a command that scores everyday tasks is given."""

    folder: Path
    bank: Bank
    tasks: list[str]
    dtype: str


def parse_arguments(description: str | None) -> Arguments:
    """Parse the command line of such a command; by default it scores the tasks to report on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bank", help="default: the embedded bank")
    parser.add_argument("--tasks", type=Path, default=EVERYDAY / "report_on.txt")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    shared_data.require()
    tasks = options.tasks.read_text("utf-8").split()
    return Arguments(options.folder, Bank.from_pretrained(options.bank), tasks, options.dtype)


def main() -> None:
    folder, bank, tasks, dtype = parse_arguments(__doc__)
    growth = Growth(folder, bank, dtype)
    losses: dict[str, list[float]] = {}
    for task in tasks:
        for method, entries in growth.methods(task):
            losses.setdefault(method, []).append(growth.loss(task, method, entries))
        print(task, {name: round(values[-1], 3) for name, values in losses.items()}, flush=True)
    table = {name: np.array(values) for name, values in losses.items()}
    names = list(dict.fromkeys(name.split(" (")[0] for name in table))
    rows: list[list[Any]] = [[name, *cells(table, name)] for name in names]
    text = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
    (folder / "growth.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
