"""What predicts the gain of an adapter: ``python -m tests.benchmarks.gains FOLDER``.

FOLDER holds losses that ``tests.benchmarks.growth`` has measured, on the tasks of `report_on.txt`
and on others, which are the ones to choose by. For each quantity that a plan knows, the gain of a
task is predicted by the mean gain of the tasks nearest in it, as
`hf_lorameta.bank.expected_gain.estimate` does. With ``--store``, the gains of all tasks are stored
in the index of the bank; with ``--long`` also those of tasks with long outputs, which
``tests.benchmarks.length_scale FOLDER --gains`` has measured.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hf_lorameta import Bank
from hf_lorameta.bank.index import Gain
from hf_lorameta.types import Array
from tests.benchmarks.growth import EVERYDAY, Growth, drawn, read
from tests.benchmarks.length_scale import LONG, LengthScale
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

HEAD = ("predicted from", "error on the tasks to choose by", "error on those to report on")
NEAREST = 7
"""Tasks whose mean gain is the prediction: a third of the 20 to choose by."""


def measured(growth: Growth, task: str) -> tuple[Gain, dict[str, float]]:
    """Return the gain of a task, and the quantities that may predict it."""
    base, prompted, generated = (
        float(json.loads((growth.folder / f"{task} {method}.json").read_bytes()))
        for method in ("base", "3-shot", "all")
    )
    planned, others = growth.planned(task), growth.others(task)
    coefficients = drawn(planned, others).coefficients
    outputs = [output for _, output in read(task, "train")]
    nearest = float(planned.distances[others].min())
    length = planned.profile.output_length
    quantities = {
        "nearest distance": nearest,
        "effective number of adapters": coefficients.take(
            range(len(planned.bank))
        ).effective_number,
        "share of distinct outputs": len(set(outputs)) / len(outputs),
        "share of first tokens that are copied": planned.output_counts.copied
        if planned.output_counts
        else 0.0,
        "length of the outputs": math.log(length),
    }
    novelty = planned.output_counts.novelty if planned.output_counts else None
    gain = Gain(
        distance=nearest, base=base, generated=generated, length=length, prompted=prompted,
        novelty=novelty,
    )  # fmt: skip
    return gain, quantities | {"novelty of the outputs": novelty or 0.0}


def predict(x: Array, gains: Array, at: float) -> float:
    """Return the mean of the gains whose x (n,) are nearest."""
    return float(gains[np.argsort(np.abs(x - at), kind="stable")[:NEAREST]].mean())


def errors(
    known: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Return the root mean square errors of predicting gains.

    Args:
        known: (quantity, gain) of the tasks to choose by, each predicted from the others.
        new: the same of the tasks to report on, predicted from all of `known`.
    """
    x, y = np.array(known).T
    own = [predict(np.delete(x, i), np.delete(y, i), x[i]) - y[i] for i in range(len(x))]
    other = [predict(x, y, at) - gain for at, gain in new]
    return rms(own), rms(other)


def rms(errors: ArrayLike) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def table(results: Mapping[str, tuple[Gain, dict[str, float]]], report: set[str]) -> str:
    """Return the table of errors."""

    def relative(gain: Gain) -> float:
        return 1 - gain.generated / gain.base

    groups = [[r for task, r in results.items() if (task in report) == new] for new in (0, 1)]
    y, new = (np.array([relative(gain) for gain, _ in group]) for group in groups)
    means = (y.sum() - y) / (len(y) - 1)
    rows: list[tuple[str, float, float]] = [
        ("the mean", np.sqrt(np.mean((y - means) ** 2)), np.sqrt(np.mean((new - y.mean()) ** 2)))
    ]
    for name in groups[0][0][1]:
        pairs = [[(q[name], relative(gain)) for gain, q in group] for group in groups]
        rows.append((name, *errors(*pairs)))
    cells = [[name, *(f"{error:.3f}" for error in pair)] for name, *pair in rows]
    return markdown_table(HEAD, cells, right=(1, 2))


def rounded(gain: Gain) -> Gain:
    """Return a gain with the digits that mean something."""
    return Gain(**{name: value and round(value, 4) for name, value in gain.model_dump().items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bank", help="default: the embedded bank")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--long", type=Path, help="folder of tests.benchmarks.length_scale")
    options = parser.parse_args()
    shared_data.require()
    bank = Bank.from_pretrained(options.bank)
    growth = Growth(options.folder, bank)
    report = set((EVERYDAY / "report_on.txt").read_text("utf-8").split())
    tasks = sorted(p.name.removesuffix(" all.json") for p in options.folder.glob("* all.json"))
    results = {task: measured(growth, task) for task in tasks}
    print(table(results, report))
    if options.store:
        gains = [gain for gain, _ in results.values()]
        if options.long:
            gains += map(LengthScale(options.long, bank).gain, LONG)
        bank.update_index(gains=tuple(map(rounded, gains)))


if __name__ == "__main__":
    main()
