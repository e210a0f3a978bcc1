"""The best scale of adapters for long outputs: ``python -m tests.benchmarks.length_scale DIR``.

The default's coefficients are multiplied by 0, ¼, ½, ¾ and 1 on tasks whose sources are left out of
the bank, none of which is reported on: everyday tasks; some of them with inputs and outputs
exchanged, which makes outputs long; docstrings of numpy and scipy; and bodies of functions of
Python's standard library. Scores are losses of 16 rows, in float32. The table compares rules that
compute the factor from the length of the outputs; between the five factors losses are interpolated.

Every score is saved in FOLDER at once, so the command resumes where it stopped.
"""

import argparse
import importlib
import inspect
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.files import write_atomically
from hf_lorameta.method.length_scale import length_scale
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import Array, Row, no_progress
from tests.benchmarks.growth import Growth, drawn, read
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS, MOST_ROWS = 16, 150
EVERYDAY_TASKS = (
    "clean_disflqa", "commonsense_cose", "date_babel", "emoji_gemoji", "explain_30seconds_js",
    "grammar_cowsl2h_es", "ner_btc", "nlg_alex", "plain_legalsum", "polite_cocoa_de",
    "slots_restaurant8k", "tagline_publicapis", "translate_cocoa_es_formal", "translate_jhe_ko_en",
    "why_cose",
)  # fmt: skip
EXCHANGED = {
    "conclusion_pubmedqa": "Write a question and abstract whose conclusion is as given.\n"
    "Conclusion: ",
    "plain_legalsum": "Write the clause of a contract that this sentence sums up.\n",
    "temporal_torque": "Write a short news passage that answers: ",
    "maths_aqua": "Write a multiple choice question in mathematics with the answer ",
    "explain_30seconds_js": "Write JavaScript code. ",
}
"""Instructions for everyday tasks with inputs and outputs exchanged."""
MODULES = ("numpy", "numpy.linalg", "scipy.signal", "scipy.stats", "scipy.optimize")
METHOD = re.compile(
    r'\n    def (\w+)\(([^)]*)\):\n        """([^"]{20,200})"""\n((?:        .*\n|\n){3,14})'
)
HEAD = ("factor", "mean loss", "relative to the base model", "better than the base model")


def exchanged(task: str) -> Iterator[Row]:
    """Yield outputs of an everyday task as inputs, and what its inputs have of their own."""
    rows = read(task, "train")
    start = shared_prefix([prompt for prompt, _ in rows])
    end = shared_prefix([prompt[::-1] for prompt, _ in rows])
    for prompt, output in rows:
        yield EXCHANGED[task] + output, prompt[start : len(prompt) - end]


def shared_prefix(texts: Sequence[str]) -> int:
    """Return the number of characters that all texts begin with."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def docstrings() -> Iterator[Row]:
    """Yield questions about functions, and what their docstrings say before the parameters."""
    for module in map(importlib.import_module, MODULES):
        for name in dir(module):
            value = getattr(module, name)
            text = getattr(value, "__doc__", None) or ""
            about = inspect.cleandoc(text).split("Parameters\n")[0].strip()
            if (
                callable(value)
                and not name.startswith("_")
                and len(text) > 300
                and len(about) > 120
            ):
                yield f"What does {module.__name__}.{name} do?", about[:800]


def function_bodies() -> Iterator[Row]:
    """Yield heads of methods of Python's standard library, and their bodies."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for name, parameters, text, body in METHOD.findall(path.read_text("utf-8", "ignore")):
            head = f'def {name}({parameters}):\n    """{text}"""'
            yield f"Write the body of this Python method.\n{head}", body.rstrip()


LONG: dict[str, Callable[[], Iterator[Row]]] = {
    **{f"exchanged {task}": partial(exchanged, task) for task in EXCHANGED},
    "docstrings": docstrings,
    "function bodies": function_bodies,
}
"""Tasks with long outputs."""


class LengthScale(Growth):
    """Losses by task and factor, saved in a folder."""

    def task(self, name: str) -> tuple[Plan, list[int], list[Row]]:
        """Return plan, other entries, and rows to score of a task."""
        if name not in LONG:
            return self.planned(name), self.others(name), read(name, "test")[:ROWS]
        rows = list(LONG[name]())
        random.Random(1).shuffle(rows)
        rows = [row for row in rows if row[0].strip() and row[1].strip()][:MOST_ROWS]
        everyday = name.removeprefix("exchanged ")
        others = self.others(everyday) if everyday in EXCHANGED else list(range(len(self.bank)))
        known = [{"input": prompt, "output": output} for prompt, output in rows[:-ROWS]]
        return plan(known, self.bank), others, rows[-ROWS:]

    def factor_loss(self, name: str, factor: float | None) -> float:
        """Return the loss with a factor of all coefficients, None for the default's own."""
        return self._cached(name, f"{factor:g}" if factor is not None else "default", factor)

    def _cached(self, name: str, method: str, factor: float | None) -> float:
        path = self.folder / f"{name} {method}.json"
        if not path.exists():
            planned, others, rows = self.task(name)
            tokens = self.evaluator.encode(rows)
            if factor == 0:
                loss = self.evaluator.score(tokens).loss
            else:
                pairs = combine_adapters(drawn(planned, others, Recipe(scale=factor)), no_progress)
                loss = self.evaluator.score(tokens, planned.layout, pairs).loss
            facts = {"loss": loss, "length": planned.profile.output_length}
            write_atomically(path, json.dumps(facts).encode())
        return float(json.loads(path.read_bytes())["loss"])

    def length(self, name: str) -> float:
        """Return the mean number of tokens of an output, once a loss was computed."""
        return float(json.loads((self.folder / f"{name} 0.json").read_bytes())["length"])


class Scaled(NamedTuple):
    """The mean number of tokens of a task's outputs, and its loss by factor."""

    length: float
    loss: PchipInterpolator

    @property
    def best(self) -> float:
        """Factor of the lowest loss."""
        factors = np.linspace(0, 1, 101)
        return float(factors[np.argmin(self.loss(factors))])


Rule = Callable[[Scaled], float]


def table(tasks: Sequence[Scaled], bank_lengths: Array) -> str:
    """Compare rules for the factor."""

    def power(typical: float, exponent: float) -> Rule:
        return lambda task: float(min(1.0, (typical / task.length) ** exponent))

    rules: dict[str, Rule] = {
        "1": lambda task: 1.0,
        "√(l / L), l = 6.5 tokens": power(6.5, 0.5),
        "√(l / L), the default": lambda task: length_scale(task.length, bank_lengths),
        "√(l / L), l = 9.5 tokens": power(9.5, 0.5),
        "(l / L)^0.7, l = 8 tokens": power(8, 0.7),
        "the best factor of each task": lambda task: task.best,
    }
    cells = []
    for name, rule in rules.items():
        losses = np.array([float(task.loss(rule(task))) for task in tasks])
        bases = np.array([float(task.loss(0)) for task in tasks])
        shares = (f"{(losses / bases).mean():.3f}", f"{(losses < bases).mean():.0%}")
        cells.append((name, f"{losses.mean():.3f}", *shares))
    return markdown_table(HEAD, cells, right=(1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    shared_data.require()
    measured = LengthScale(options.folder, Bank.from_pretrained())
    tasks = []
    for name in (*EVERYDAY_TASKS, *LONG):
        losses = [measured.factor_loss(name, factor) for factor in FACTORS]
        length = measured.length(name)
        tasks.append(Scaled(length, PchipInterpolator(FACTORS, losses)))
        print(f"{name}: {length:.1f} tokens,", [round(loss, 3) for loss in losses], flush=True)
    text = table(tasks, measured.bank.profiles.output_lengths)
    (options.folder / "length_scale.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
