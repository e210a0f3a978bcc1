"""Arrow's score as a similarity without labels: ``python -m tests.benchmarks.arrow_scores FOLDER``.

The score of an adapter is the mean of ``|x · v|`` over the tokens of some inputs and all modules,
x being the base model's activation and v the adapter's prototype: of its update, or of the
difference between its update and the general adapter's. No output is read. For the first datasets
of the embedded bank, it prints the place at which the score ranks the adapter that was trained on
the dataset, and the best other one from the same source; as it is, and with the scores of each
adapter brought to mean 0 and variance 1 over the datasets. The scores of each dataset are saved in
FOLDER at once, so the command resumes where it stopped.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import Bank, Recipe
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.files import write_atomically
from hf_lorameta.method.arrow import prototype
from hf_lorameta.method.merging import exact
from tests import shared_data
from tests.benchmarks.growth import EVERYDAY, Growth, read_sources
from tests.benchmarks.tables import markdown_table

KINDS = ("update", "difference")
INPUTS = 8


def task_names(bank: Bank) -> list[str]:
    """Return the name of the task of each entry."""
    return [entry.adapter.rpartition("/")[2] for entry in bank.index.entries]


def score_table(
    bank: Bank, load: Callable[[], TorchEvaluator], folder: Path, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the (M, N) scores by kind: a row per task, a column per adapter.

    They are saved in the folder, row after row; `load` returns the base model if one is missing.
    """
    prototypes: dict[str, np.ndarray] = {}
    rows = []
    for name in names:
        path = folder / f"scores of {name}.json"
        if not path.exists():
            prototypes = prototypes or _prototypes(bank, folder / "prototypes.npz")
            scores = _scores(bank, load(), prototypes, name)
            write_atomically(path, json.dumps(scores.tolist()).encode())
        rows.append(json.loads(path.read_bytes()))
    return dict(zip(KINDS, np.array(rows).transpose(1, 0, 2), strict=True))


def distances_by_score(scores: np.ndarray) -> np.ndarray:
    """Return the distances (M, M) between datasets with scores (M, N): Euclidean.

    Each adapter's scores are brought to mean 0 and variance 1 over the datasets before.
    """
    z = (scores - scores.mean(0)) / scores.std(0)
    return np.sqrt(np.maximum(((z[:, None] - z[None]) ** 2).mean(2), 0))


def _scores(
    bank: Bank, evaluator: TorchEvaluator, prototypes: dict[str, np.ndarray], name: str
) -> np.ndarray:
    """Return the scores of all adapters on the inputs of one dataset, (2, N)."""
    import torch

    total, tokens, hooks = torch.zeros(2 * len(bank), dtype=torch.float64), 0, []

    def hook(v: Any) -> Any:
        def add(_: object, inputs: tuple[Any], __: object) -> None:
            total.add_((inputs[0].flatten(0, -2).float() @ v).abs().sum(0).double())

        return add

    for module in bank.layout:
        v = torch.from_numpy(np.concatenate([prototypes[f"{k} {module.name}"] for k in KINDS]).T)
        linear = evaluator.model.get_submodule(module.name)
        hooks.append(linear.register_forward_hook(hook(v)))
    try:
        with torch.no_grad():
            for row in evaluator.encode(_inputs(name)):
                evaluator.model(input_ids=torch.tensor([row.prompt]), use_cache=False)
                tokens += len(row.prompt)
    finally:
        for added in hooks:
            added.remove()
    return total.numpy().reshape(2, -1) / (tokens * len(bank.layout))


def _inputs(name: str) -> list[tuple[str, str]]:
    folders = (EVERYDAY, shared_data.SUITE)
    path = next(p for f in folders if (p := f / f"{name}.train.jsonl").exists())
    lines = path.read_text("utf-8").splitlines()[:INPUTS]
    return [(json.loads(line)["input"], "") for line in lines]


def _prototypes(bank: Bank, path: Path) -> dict[str, np.ndarray]:
    """Return the (N, in_features) prototypes of all adapters by kind and module."""
    if not path.exists():
        general, found = list(_factors(bank, bank.index.general)), {}
        for entry in bank.index.entries:
            for module, own, other in zip(bank.layout, _factors(bank, entry), general, strict=True):
                As, Bs = zip(own, other, strict=True)
                difference = exact(As, Bs, [1.0, -1.0], [1.0, 1.0], 1)
                for kind, pair in zip(KINDS, (own, difference), strict=True):
                    found.setdefault(f"{kind} {module.name}", []).append(prototype(*pair))
        np.savez(path, **{name: np.stack(rows) for name, rows in found.items()})
    return dict(np.load(path))


def _factors(bank: Bank, entry: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    file = bank.adapter(entry)
    for m in bank.layout:
        A, B = bank.expand(m.name, *file.factors(m.name))
        yield A, np.float32(entry.scaling) * B


def ranks(scores: np.ndarray, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the ranks, from 1, of own adapters and of the best others of the same source.

    Args:
        scores: (M, N), of all adapters on the first M datasets; more is nearer.
        names: of the N tasks. Those without another of their source are left out of the second.
    """
    sources = read_sources()
    own, related = [], []
    for place, row in enumerate(scores):
        order = np.argsort(-row, kind="stable").tolist()
        own.append(order.index(place) + 1)
        order.remove(place)
        source = sources.get(names[place])
        same = [source is not None and sources.get(names[i]) == source for i in order]
        related += [same.index(True) + 1] if any(same) else []
    return own, related


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datasets", type=int, help="the first of the bank; default: all")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    shared_data.require()
    bank = Bank.embedded()
    names = task_names(bank)
    growth = Growth(options.folder, bank, options.dtype)
    chosen = names[: options.datasets]
    table = score_table(bank, lambda: growth.evaluator, options.folder, chosen)
    similarities = {"tokens": -bank.distances[Recipe().metric][: len(table[KINDS[0]])]}
    for kind, scores in table.items():
        similarities[f"score by {kind}s"] = scores
        standardized = (scores - scores.mean(0)) / scores.std(0)
        similarities[f"score by {kind}s, standardized"] = standardized
    rows = []
    for title, scores in similarities.items():
        own, related = ranks(scores, names)
        middle = [f"{np.median(found):g}" for found in (own, related)]
        rows.append([title, *middle, f"{len(own)}, {len(related)}"])
    head = ["similarity", "median rank of the own adapter", "of a related one", "datasets"]
    print(markdown_table(head, rows, right=range(1, 4)))


if __name__ == "__main__":
    main()
