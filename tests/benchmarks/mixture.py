"""Mixtures beside the merged default: ``python -m tests.benchmarks.mixture FOLDER``.

As in `tests.benchmarks.growth`, the adapters of a task's source are left out of the bank, and the
losses are those of the reference outputs on test rows. The mixtures are loaded by PEFT's
`create_arrow_model` from the folders that `--emit mixture` writes. Seconds are CPU seconds per
token of an answer of 24 tokens, one prompt at a time, on one thread (``OMP_NUM_THREADS=1``).

The last methods are the default with other distances. Arrow's score of an adapter, the mean of
``|x · v|`` over the tokens of 16 inputs and all modules, x being the base model's activation and v
the adapter's prototype, is brought to mean and spread of the token distances, which it replaces, or
with which it is averaged. Prototypes are those of the adapters or of their differences to the
general one.

Every score is saved in FOLDER at once, so the command resumes where it stopped; another number of
rows needs another folder.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import Bank, Mixture, Plan, Recipe
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.method.arrow import prototype
from hf_lorameta.method.merging import exact
from hf_lorameta.pipeline.adapter_folder import EXPERTS, SHARED, WEIGHTS_FILE
from hf_lorameta.pipeline.generation import combine_adapters
from hf_lorameta.pipeline.mixture import ROUTED
from tests import shared_data
from tests.benchmarks.growth import EVERYDAY, HEAD, SHOTS, Growth, cells, drawn, read
from tests.benchmarks.tables import markdown_table

NAMES = {
    "base": "base model",
    "3-shot": "base model, 3-shot prompt",
    "general": "the general adapter alone",
    "default": "default: all adapters, merged",
    "merged 8": "the 8 of the largest coefficients, merged",
    "mixture 4": "mixture of 4",
    "mixture 8": "mixture of 8",
    "mixture 16": "mixture of 16",
    "mixture-gks 8": "mixture of 8, GenKnowSub",
    "score": "default, score instead of distance",
    "score added": "default, mean of score and distance",
    "difference": "default, score by differences instead of distance",
    "difference added": "default, mean of score by differences and distance",
}
SCORED, ANSWER = 16, 24


class Mixtures(Growth):
    """Losses and seconds by task and method, saved in a folder."""

    rows = 8

    def score(self, task: str, method: str) -> tuple[float, float]:
        """Return loss and CPU seconds per token, computed once."""
        path = self.folder / f"{task} {method}.json"
        if not path.exists():
            with self._applied(task, method):
                rows = self.evaluator.encode(
                    read(task, "test")[: self.rows],
                    read(task, "train")[:SHOTS] if method == "3-shot" else (),
                )
                result = self.runner.loss(rows), self._seconds(rows[0].prompt)
            write_atomically(path, json.dumps(result).encode())
        loss, seconds = json.loads(path.read_bytes())
        return loss, seconds

    def _seconds(self, prompt: Sequence[int]) -> float:
        import torch

        ids = torch.tensor([prompt])
        times = []
        with torch.no_grad():
            for length in (1, ANSWER + 1):
                started = time.process_time()
                self.evaluator.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=length,
                    min_new_tokens=length,
                )
                times.append(time.process_time() - started)
        return (times[1] - times[0]) / ANSWER

    @contextmanager
    def _applied(self, task: str, method: str) -> Iterator[None]:
        """Apply a method to the base model."""
        kind, _, number = method.partition(" ")
        with ExitStack() as stack:
            if method in ("base", "3-shot"):
                self.runner.clear()
            elif kind.startswith("mixture"):
                stack.enter_context(self._mixture(task, kind, int(number)))
            else:
                planned = self._plan(task, method)
                pairs = combine_adapters(planned, lambda done, total: None)
                self.runner.update(pairs, len(planned.layout))
            yield

    def _plan(self, task: str, method: str) -> Plan:
        planned, others = self.planned(task), self.others(task)
        if method.startswith("merged"):
            return drawn(planned, others, Recipe(top_k=int(method.split()[1])))
        kind, _, added = method.partition(" ")
        if kind not in ("score", "difference"):
            return drawn(planned, [] if method == "general" else others)
        by_score = -self.scores(task, kind)
        known, score = planned.distances[others], by_score[others]
        score = known.mean() + known.std() * (score - score.mean()) / score.std()
        distances = planned.distances.copy()
        distances[others] = np.maximum((known + score) / 2 if added else score, 0)
        return drawn(replace(planned, distances=distances), others)

    @contextmanager
    def _mixture(self, task: str, emit: str, size: int) -> Iterator[None]:
        """Write a mixture and let PEFT load it."""
        from peft import ArrowConfig, create_arrow_model

        recipe = Recipe.of(emit=emit, top_k=size)
        planned = replace(drawn(self.planned(task), self.others(task), recipe), recipe=recipe)
        mixture, layout = Mixture(planned), self.bank.adapted_layout
        with tempfile.TemporaryDirectory() as scratch:
            folder = mixture.save_pretrained(Path(scratch) / "mixture")
            shared = AdapterFile(folder / SHARED / WEIGHTS_FILE)
            names = [module.name for module in shared.layout]
            pairs = [
                (shared.tensor(m.name, "A"), shared.tensor(m.name, "B"))
                if m.name in names
                else (np.zeros((1, m.in_features), "f4"), np.zeros((m.out_features, 1), "f4"))
                for m in layout
            ]
            self.runner.update(pairs)  # as `merge_and_unload` does, but undone afterwards
            config = ArrowConfig(top_k=min(ROUTED, len(mixture.entries)), rng_seed=0)
            experts = [str(folder / EXPERTS / entry.name) for entry in mixture.entries]
            routed = create_arrow_model(self.evaluator.model, experts, config)
            try:
                yield
            finally:
                routed.unload()
                for name in {"peft_config", "_hf_peft_config_loaded"} & set(
                    vars(self.evaluator.model)
                ):
                    delattr(self.evaluator.model, name)

    # --- Arrow's score --------------------------------------------------------------------------

    def scores(self, task: str, kind: str) -> np.ndarray:
        """Return the mean of ``|x · v|`` of every adapter over tokens and modules, (N,)."""
        path = self.folder / f"{task} {kind} of adapters.json"
        if not path.exists():
            write_atomically(path, json.dumps(self._scores(task, kind).tolist()).encode())
        return np.array(json.loads(path.read_bytes()))

    def _scores(self, task: str, kind: str) -> np.ndarray:
        import torch

        modules = {m.name: torch.from_numpy(self._prototypes[f"{kind} {m.name}"].T)
                   for m in self.bank.layout}  # fmt: skip
        total, tokens = torch.zeros(len(self.bank), dtype=torch.float64), 0

        def hook(v: Any) -> Any:
            def add(_: object, inputs: tuple[Any], __: object) -> None:
                total.add_((inputs[0].flatten(0, -2).float() @ v).abs().double().sum(0))

            return add

        self.runner.clear()
        model = self.evaluator.model
        hooks = [model.get_submodule(n).register_forward_hook(hook(v)) for n, v in modules.items()]
        with torch.no_grad():
            for row in self.evaluator.encode(read(task, "train")[:SCORED]):
                model(input_ids=torch.tensor([row.prompt]), use_cache=False)
                tokens += len(row.prompt)
        for added in hooks:
            added.remove()
        return total.numpy() / (tokens * len(modules))

    @cached_property
    def _prototypes(self) -> dict[str, np.ndarray]:
        """The prototypes of all adapters and of their differences: (N, in) by kind and module."""
        path = self.folder / "prototypes.npz"
        if not path.exists():
            general = list(self._factors(self.bank.index.general))
            found: dict[str, list[np.ndarray]] = {}
            for entry in self.bank.index.entries:
                for module, own, other in zip(
                    self.bank.layout, self._factors(entry), general, strict=True
                ):
                    As, Bs = zip(own, other, strict=True)
                    difference = exact(As, Bs, [1.0, -1.0], [1.0, 1.0], 1)
                    found.setdefault(f"score {module.name}", []).append(prototype(*own))
                    found.setdefault(f"difference {module.name}", []).append(prototype(*difference))
            np.savez(path, **{name: np.stack(rows) for name, rows in found.items()})
        return dict(np.load(path))

    def _factors(self, entry: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        file = self.bank.adapter(entry)
        for m in self.bank.layout:
            A, B = self.bank.expand(m.name, file.tensor(m.name, "A"), file.tensor(m.name, "B"))
            yield A, np.float32(entry.scaling) * B


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, help="the first of them; default: all")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    shared_data.require()
    benchmark = Mixtures(options.folder, Bank.embedded(), options.dtype)
    benchmark.rows = options.rows
    scores: dict[str, list[tuple[float, float]]] = {method: [] for method in NAMES}
    for task in (EVERYDAY / "report_on.txt").read_text("utf-8").split()[: options.tasks]:
        for method in NAMES:
            scores[method].append(benchmark.score(task, method))
        print(task, {name: round(values[-1][0], 3) for name, values in scores.items()}, flush=True)
    losses = {name: np.array(values)[:, 0] for name, values in scores.items()}
    seconds = {name: np.median(np.array(values)[:, 1]) for name, values in scores.items()}
    better = {name: (values < losses["default"]).mean() for name, values in losses.items()}
    head = (*HEAD, "better than default", "seconds per token")
    rows = [
        [title, *cells(losses, name), f"{better[name]:.0%}", f"{seconds[name]:.3f}"]
        for name, title in NAMES.items()
    ]
    text = markdown_table(head, rows, right=range(1, len(head)))
    write_atomically(options.folder / "mixture.md", f"{text}\n".encode())
    print("\n" + text)


if __name__ == "__main__":
    main()
