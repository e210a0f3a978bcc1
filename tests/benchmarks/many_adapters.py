"""Adapters scored together and one by one: ``python -m tests.benchmarks.many_adapters``.

K adapters of ``../shared/bank`` are scored on the same rows of a task that none of them was trained
on: the loss alone, and with generated answers. Times are per adapter: alone is
`TorchEvaluator.evaluate`, which attaches one adapter with PEFT, the mean of a few of them; together
is `TorchEvaluator.evaluate_adapters`. Loading the base model is not timed. Where other programs use
the cores, CPU time says more than seconds: with one thread, it is the time of a free core.
"""

import argparse

from tests import shared_data
from tests.benchmarks.measurements import Clock
from tests.benchmarks.tables import markdown_table

HEAD = ("adapters", "scored", "s alone", "s together", "ratio", "CPU s alone", "together", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--alone", type=int, default=2, help="adapters that are scored one by one")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shared_data.require()
    import torch

    from hf_lorameta.engines.torch_evaluator import TorchEvaluator
    from hf_lorameta.hub.base_model import locate

    torch.set_num_threads(options.threads)
    evaluator = TorchEvaluator(locate(shared_data.BASE_MODEL), options.dtype)
    *names, task = shared_data.tasks()[: max(options.adapters) + 1]
    folders = {name: shared_data.BANK / name for name in names}
    rows = shared_data.rows(task, "test")[: options.rows]
    cells, worst = [], 0.0
    for generate in (False, True):
        losses = {}
        evaluator.evaluate(rows[:1], generate=generate)  # the first pass also allocates memory
        with Clock() as alone:
            for name in names[: options.alone]:
                losses[name] = evaluator.evaluate(rows, folders[name], generate=generate)[0].loss
        one = [value / options.alone for value in (alone.seconds, alone.cpu)]
        for count in options.adapters:
            chosen = {name: folders[name] for name in names[:count]}
            with Clock() as together:
                results = evaluator.evaluate_adapters(rows, chosen, generate)
            per = [value / count for value in (together.seconds, together.cpu)]
            for name in set(losses) & set(results):
                worst = max(worst, abs(results[name][0].loss / losses[name] - 1))
            timed = [
                text
                for a, b in zip(one, per, strict=True)
                for text in (f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}×")
            ]
            cells.append([count, "loss and answers" if generate else "loss", *timed])
            print(*cells[-1], flush=True)
    print("\n" + markdown_table(HEAD, [[str(cell) for cell in row] for row in cells]))
    print(
        f"\n{len(rows)} rows of {task}, {options.dtype}, {options.threads} threads; losses differ "
        f"by {worst:.1e} at most"
    )


if __name__ == "__main__":
    main()
