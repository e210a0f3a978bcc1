"""Every metric with every rule, on tasks left out: ``python -m tests.benchmarks.settings DIR``.

Loss of the reference outputs on test rows (24 a task), leave-one-out over ``../shared``: the task's
own adapter never takes part, and the neural rule is fitted without it. Prints Markdown.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from hf_lorameta import Recipe
from hf_lorameta.bank import Bank
from hf_lorameta.base_model import locate
from hf_lorameta.coefficients import COEFFICIENTS
from hf_lorameta.combine import COMBINERS
from hf_lorameta.dataset import open_dataset
from hf_lorameta.distance import DISTANCES
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.generation import generate
from hf_lorameta.library import fit_bank
from tests import shared_data
from tests.shared_data import SUITE

ROWS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("banks", type=Path, help="folder for banks that leave one task out")
    parser.add_argument("tasks", nargs="*", help="task names; a spread of 6 if left out")
    chosen = parser.parse_args()
    names = chosen.tasks or shared_data.tasks()[::8]
    evaluator = Evaluator(locate(shared_data.BASE_MODEL))
    losses = {name: _losses(chosen.banks / name, name, evaluator) for name in names}
    _print(losses)


def _losses(folder: Path, name: str, evaluator: Evaluator) -> dict[str, float]:
    rows = shared_data.rows(name, "test")[:ROWS]
    score = lambda path: evaluator.evaluate(rows, path, generate=False)[0].loss  # noqa: E731
    bank = Bank(folder)
    assert all(entry.dataset != f"suite/{name}" for entry in bank.index.entries)
    if "neural.safetensors" not in bank.index.files:
        fit_bank(bank, hidden=64)
    found = {"base": score(None), "trained": score(shared_data.BANK / name)}
    dataset = open_dataset(SUITE / f"{name}.train.jsonl")
    for combiner in COMBINERS:
        for metric in DISTANCES:
            for rule in COEFFICIENTS:
                recipe = Recipe.of(metric=metric, coefficients=rule, combine=combiner)
                with tempfile.TemporaryDirectory() as scratch:
                    made = generate(dataset, bank, recipe).save_pretrained(Path(scratch) / "a")
                    found[f"{combiner} {metric} {rule}"] = score(made)
        print(name, {k: round(v, 3) for k, v in found.items()}, flush=True)
    return found


def _print(losses: dict[str, dict[str, float]]) -> None:
    base, trained = (np.array([t[m] for t in losses.values()]) for m in ("base", "trained"))
    print("\n| setting | mean loss | gap recovered | tasks better than base |\n|---|--:|--:|--:|")
    for setting in next(iter(losses.values())):
        loss = np.array([task[setting] for task in losses.values()])
        gap = (base - loss).mean() / (base - trained).mean()
        better = int((loss < base).sum())
        print(f"| {setting} | {loss.mean():.3f} | {gap:.3f} | {better} of {len(loss)} |")


if __name__ == "__main__":
    main()
