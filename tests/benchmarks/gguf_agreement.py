"""Compare llama.cpp with PEFT: ``python -m tests.benchmarks.gguf_agreement``.

8 adapters of ``../shared``, 20 test rows of each one's own task. Reports the mean and the largest
absolute difference of the reference tokens' log-probabilities between the engines, and the share of
equal greedy continuations of 24 tokens, for the base model and with the adapter: with both engines
on the same float32 weights, and with the 4-bit base model in llama.cpp.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data
from tests.support.engine_fixtures import (
    Agreement,
    EnginePair,
    PeftEngine,
    dequantized,
    packaged,
)

HEAD = ("base in llama.cpp", "adapter", "mean abs Δ logprob", "largest", "greedy equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24, help="of a greedy continuation")
    options = parser.parse_args()
    names = shared_data.tasks()[:: max(1, len(shared_data.tasks()) // options.adapters)]
    rows = {shared_data.BANK / n: shortest(n, options.prompts) for n in names[: options.adapters]}
    peft = PeftEngine(TorchEvaluator(locate(SMOLLM2), "float32"))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        float32 = dequantized()
        for title, base, exact in (("float32", float32, True), ("4 bits", packaged(), False)):

            def compare(pair: EnginePair, attached: bool) -> list[Agreement]:
                return [
                    pair.compare(f if attached else None, rows[f], options.tokens) for f in rows
                ]

            with EnginePair(peft, base, list(rows), scratch, exact) as pair:
                lines.append(cells(title, "none", compare(pair, False)))
                lines.append(cells(title, "exported", compare(pair, True)))
    print(markdown_table(HEAD, lines, right=(2, 3, 4)))


def shortest(task: str, count: int) -> list[tuple[str, str]]:
    """The task's shortest test rows, which are the fastest."""
    return sorted(shared_data.rows(task, "test"), key=lambda row: len("".join(row)))[:count]


def cells(base: str, adapter: str, agreements: list[Agreement]) -> list[str]:
    gaps = np.concatenate([one.differences for one in agreements])
    equal = [same for one in agreements for same in one.equal]
    return [base, adapter, f"{gaps.mean():.5f}", f"{gaps.max():.4f}", f"{np.mean(equal):.1%}"]


if __name__ == "__main__":
    main()
