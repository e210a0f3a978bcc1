"""What candidates change: ``python -m tests.benchmarks.candidates FOLDER --tasks 6``.

For the first tasks of ``../shared/everyday/report_on.txt``, the default method with the embedded
bank, without the adapters of the task's source: with all others, and with the nearest 32, 64 and 96
by their sketches, as in a large bank. Scores are losses of reference outputs on test rows. Every
score is saved in FOLDER at once, so the command resumes where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hf_lorameta import Bank, Plan, Recipe
from hf_lorameta.bank.large_profiles import Sketches
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule
from hf_lorameta.pipeline.coefficients import scale_for
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import Array, no_progress
from tests.benchmarks.growth import ROWS, Growth, options_of, read, report_tasks
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

SIZES = (32, 64, 96)
HEAD = ("adapters", "loss", "mean change", "largest change", "cosine of the coefficients")


class Candidates(Growth):
    """Losses by task and number of candidates."""

    def methods(self, task: str) -> Iterator[tuple[str, Sequence[int] | None]]:
        others = self.others(task)
        profiles = [self.bank.profiles[i] for i in others]
        guessed = Sketches.from_profiles(profiles).distances(self.planned(task).profile)
        order = np.argsort(guessed, kind="stable")
        for size in SIZES:
            yield str(size), sorted(others[i] for i in order[:size])
        yield "all", others

    def weighted(self, task: str, entries: Sequence[int]) -> Plan:
        """Return a plan with some entries, as a large bank of the task's `others` has it."""
        planned, others, recipe = self.planned(task), self.others(task), Recipe()
        D = self.bank.distances[recipe.metric].astype(np.float64)
        inside = D[np.ix_(others, others)]
        median = float(np.median(inside[~np.eye(len(others), dtype=bool)]))
        inputs = RuleInputs(
            planned.distances[entries],
            bank_distances=lambda: D[np.ix_(entries, entries)],
            general=True,
            median=median,
        )
        coefficients = np.append(np.zeros(len(self.bank) + 1), recipe.output_prior)
        coefficients[[*entries, len(self.bank)]] = apply_rule("kernel", inputs).shared
        scale = scale_for(self.bank, recipe, planned.profile)
        return replace(planned, coefficients=Coefficients(scale * coefficients))

    def _compute(self, task: str, method: str, entries: Sequence[int] | None) -> float:
        planned = self.weighted(task, entries or ())
        tokens = self.evaluator.encode(read(task, "test")[:ROWS])
        pairs = combine_adapters(planned, no_progress)
        return self.evaluator.score(tokens, planned.layout, pairs).loss


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between two vectors."""
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def main() -> None:
    options = options_of(__doc__, ROWS).parse_args()
    shared_data.require()
    bank = Bank.embedded()
    measured = Candidates(options.folder, bank, options.dtype)
    losses: dict[str, list[float]] = {}
    cosines: dict[str, list[float]] = {}
    for task in report_tasks(options.tasks):
        shared = {}
        for method, entries in measured.methods(task):
            losses.setdefault(method, []).append(measured.loss(task, method, entries))
            planned = measured.weighted(task, entries or ())
            shared[method] = planned.coefficients.shared[: len(bank)]
        for method, coefficients in shared.items():
            cosines.setdefault(method, []).append(cosine(coefficients, shared["all"]))
        print(task, {name: round(values[-1], 4) for name, values in losses.items()}, flush=True)
    rows = []
    for name, values in losses.items():
        change = np.array(values) - losses["all"]
        cells = (np.mean(values), change.mean(), change[np.abs(change).argmax()])
        rows.append([name, *(f"{x:.4f}" for x in cells), f"{np.mean(cosines[name]):.3f}"])
    print("\n" + markdown_table(HEAD, rows, right=range(1, len(HEAD))))


if __name__ == "__main__":
    main()
