"""What packing costs: ``python -m tests.benchmarks.packs FOLDER [TASK …]``, on ``../shared``.

For tasks left out of the bank: the loss of the adapter generated from the whole bank and from packs
of it at several R, on the task's own test rows (24 each). FOLDER is scratch. Prints Markdown.
"""

import argparse
import shutil
from pathlib import Path

from hf_lorameta import Recipe
from hf_lorameta.bank import Bank
from hf_lorameta.base_model import locate
from hf_lorameta.dataset import open_dataset
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.generation import generate
from hf_lorameta.localhub import LocalHub
from hf_lorameta.packing import pack
from tests import shared_data
from tests.benchmarks.leave_one_out import build

ROWS = 24
SIZES = (8, 16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", help="a spread of 3 if left out")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    evaluator = Evaluator(locate(shared_data.BASE_MODEL))
    names = chosen.tasks or shared_data.tasks()[4::16]
    found: dict[str, list[tuple[float, str, float]]] = {}
    with LocalHub() as hub:
        shared_data.seed(hub, shared_data.tasks())
        for name in names:
            bank = Bank(build(hub, chosen.folder, name))
            for label, (size, kept, loss) in _losses(bank, name, evaluator, chosen.folder).items():
                found.setdefault(label, []).append((size, kept, loss))
    print("| bank | size | energy kept | mean loss |\n|---|--:|--:|--:|")
    for label, values in found.items():
        size, kept, loss = values[0][0], values[0][1], sum(v[2] for v in values) / len(values)
        print(f"| {label} | {size / 1e6:.1f} MB | {kept} | {loss:.4f} |")


def _losses(
    bank: Bank, name: str, evaluator: Evaluator, folder: Path
) -> dict[str, tuple[float, str, float]]:
    rows = shared_data.rows(name, "test")[:ROWS]
    dataset = open_dataset(shared_data.SUITE / f"{name}.train.jsonl")

    def loss(of: Bank | None) -> float:
        target = folder / "adapter"
        shutil.rmtree(target, ignore_errors=True)
        made = generate(dataset, of, Recipe()).save_pretrained(target) if of else None
        return float(evaluator.evaluate(rows, made, generate=False)[0].loss)

    found = {"base model": (0.0, "–", loss(None)), "whole": (bank.size, "–", loss(bank))}
    for size in SIZES:
        for dtype in ("bf16", "int8"):
            target = folder / f"{name}-{size}-{dtype}"
            shutil.rmtree(target, ignore_errors=True)
            made = pack(bank, target, basis=size, dtype=dtype)  # type: ignore[arg-type]
            assert made.index.packing
            kept = f"{made.index.packing.retained_whole:.2%}"
            found[f"R = {size}, {dtype}"] = (made.size, kept, loss(made))
            shutil.rmtree(target)
    print(name, {k: round(v[2], 4) for k, v in found.items()}, flush=True)
    return found


if __name__ == "__main__":
    main()
