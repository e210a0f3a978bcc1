"""Does llama.cpp say what PEFT says? ``python -m tests.benchmarks.gguf_agreement``.

8 adapters of ``../shared``, 20 test rows of each one's own task. Mean |Δ log-probability| of the
reference's tokens between the engines, and how many greedy continuations of 24 tokens are equal:
for the base alone, with the adapter, and with the adapter exported without the permutation of q
and k. Once on the float32 weights both engines share, once with the 4-bit base in llama.cpp.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from tests import shared_data
from tests.engine_fixtures import Agreement, Pair, Peft, dequantized, packaged, unpermuted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24, help="of a greedy continuation")
    asked = parser.parse_args()
    names = shared_data.tasks()[:: max(1, len(shared_data.tasks()) // asked.adapters)]
    names = names[: asked.adapters]
    folders = [shared_data.BANK / name for name in names]
    rows = {f: short(n, asked.prompts) for f, n in zip(folders, names, strict=True)}
    peft = Peft(TorchEvaluator(locate(SMOLLM2), "float32"))
    with tempfile.TemporaryDirectory() as scratch:
        wide = dequantized(packaged(), Path(scratch) / "base.gguf")
        print("| base in llama.cpp | adapter | mean abs Δ logprob | largest | greedy equal |")
        print("|---|---|--:|--:|--:|")
        for title, base, exact in (("float32", wide, True), ("4 bits", packaged(), False)):
            with Pair(peft, base, folders, Path(scratch), exact) as pair:
                show(title, "none", [pair.compare(None, rows[f], asked.tokens) for f in folders])
                found = [pair.compare(f, rows[f], asked.tokens) for f in folders]
                show(title, "exported", found)
            with unpermuted(), Pair(peft, base, folders, Path(scratch), exact) as pair:
                found = [pair.compare(f, rows[f], asked.tokens) for f in folders]
                show(title, "exported without the permutation", found)


def short(task: str, count: int) -> list[tuple[str, str]]:
    """The task's shortest test rows, which cost least."""
    return sorted(shared_data.rows(task, "test"), key=lambda row: len("".join(row)))[:count]


def show(base: str, kind: str, found: list[Agreement]) -> None:
    gaps = np.concatenate([one.differences for one in found])
    equal = [same for one in found for same in one.equal]
    cells = (base, kind, f"{gaps.mean():.5f}", f"{gaps.max():.4f}", f"{np.mean(equal):.1%}")
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
