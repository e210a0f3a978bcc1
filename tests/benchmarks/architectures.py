"""What causal architectures of transformers can do: ``python -m tests.benchmarks.architectures``.

A tiny random model of each is saved, opened as a base model, and an adapter is trained for it, once
with ``--train 16`` and once within a second, saved, and loaded by PEFT. Losses of rows together are
compared with those of single rows, and logits of PEFT with those of the training.
"""

import argparse
import collections
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.tables import markdown_table
from tests.support.fast_training import fast_training
from tests.support.tiny_architectures import tiny_model, write_base
from tests.training import tiny


class Found(NamedTuple):
    """What an architecture can do.

    Attributes:
        rows: how rows run together.
        starts: whether the upper three quarters of the layers start from stored states.
        modules: names of the adapted layers.
    """

    rows: str
    starts: str
    modules: str


def try_out(model_type: str, folder: Path) -> Found:
    """Take all steps with a tiny model; whatever goes wrong is raised."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from hf_lorameta import generate
    from hf_lorameta.engines.scoring import LoraWeights
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
    from hf_lorameta.engines.transformers.row_mode import row_mode
    from hf_lorameta.training.settings import UNTRAINED
    from hf_lorameta.training.upper_layers import first_trained_layer

    evaluator = TorchEvaluator.from_folder(folder, "float32")
    model = evaluator.model
    require_equal_losses(evaluator)
    starts = "yes" if first_trained_layer(model, UNTRAINED) else "no"
    data = tiny.rows(1, 40)
    settings: dict[str, Any] = {"rank": 4, "dtype": "float32"}
    made = generate(data, "none", base=folder, train=16, steps=8, check=False, **settings)
    adapters = [made, generate(data, "none", base=folder, budget=2, **settings)]
    ids = torch.tensor([[3, 7, 5, 12, 9, 4, 15, 8, 6, 11]])
    for number, adapter in enumerate(adapters):
        saved = adapter.save_pretrained(folder / f"adapter-{number}")
        fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = fresh(input_ids=ids, use_cache=False).logits
            peft = PeftModel.from_pretrained(fresh, saved)(input_ids=ids, use_cache=False).logits
            with vars(TorchEvaluator)["_with"](
                evaluator, LoraWeights(adapter.layout, adapter.pairs)
            ):
                ours = model(input_ids=ids, use_cache=False).logits
        spread = alone.std()
        assert (peft - ours).abs().max() < 1e-3 * spread, "PEFT gives other logits"
        assert (peft - alone).abs().max() > 1e-3 * spread, "the adapter changes nothing"
    leaves = sorted({module.name.rpartition(".")[2] for module in made.layout})
    return Found(str(row_mode(model)), starts, " ".join(leaves))


def require_equal_losses(evaluator: Any) -> None:
    """Compare the losses of rows together with those of each in a plain pass."""
    import torch

    rows = [*tiny.tokens(1, 12), *tiny.tokens(2, 6, shared=False)]
    rows = [row._replace(prompt=row.prompt * (1 + i % 4)) for i, row in enumerate(rows)]
    found = evaluator.row_losses(rows).sums
    for row, total in zip(rows, found, strict=True):
        ids = torch.tensor([row.prompt + row.output])
        with torch.no_grad():
            logits = evaluator.model(input_ids=ids, use_cache=False).logits[
                0, len(row.prompt) - 1 : -1
            ]
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, len(row.prompt) :])
        assert abs(total / len(row.output) - float(loss)) < 1e-4, "rows change each other"


def main() -> None:
    """Print what each architecture can do, and which cannot be tried."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("types", nargs="*", help="model types; default: all")
    chosen: Sequence[str] = parser.parse_args().types
    fast_training(steps=8)
    results = collections.defaultdict(list)
    skipped, failed = {}, {}
    for model_type in chosen or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                base = write_base(tiny_model(model_type), Path(folder))
            except Exception as error:  # noqa: BLE001 - whatever a config raises
                skipped[model_type] = f"{type(error).__name__}: {error}".replace("\n", " ")
                continue
            try:
                found = try_out(model_type, base)
            except Exception as error:  # noqa: BLE001 - it is reported
                if chosen:
                    traceback.print_exc()
                failed[model_type] = f"{type(error).__name__}: {error}".replace("\n", " ")
                print(f"{model_type} failed: {failed[model_type][:300]}", flush=True)
                continue
        results[found.rows, found.starts].append(model_type)
        print(f"{model_type}: {found}, {time.process_time() - started:.1f} s", flush=True)
    head = ("rows", "start in between", "architectures")
    print(markdown_table(head, [(*found, ", ".join(of)) for found, of in sorted(results.items())]))
    for title, of in (("cannot be built", skipped), ("failed", failed)):
        print(
            f"\n{len(of)} {title}:",
            *(f"{name} ({why[:160]})" for name, why in of.items()),
            sep="\n  ",
        )


if __name__ == "__main__":
    main()
