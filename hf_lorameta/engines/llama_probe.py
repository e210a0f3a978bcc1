"""The base model in llama.cpp with an update that can be set and scored, for `refine.search`.

llama.cpp cannot be given another update while it runs, but the scales of the adapters that it has
loaded are set with every request. So the adapters of a sum are loaded once, each on its own, and
their scales are the coefficients. Any quantization of the base will do. Needs the extra ``gguf``.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.engines.interfaces import SEARCH_DIMENSIONS, AdapterUpdate
from hf_lorameta.engines.llama_evaluate import encoded, within
from hf_lorameta.engines.llama_server import LlamaCpp
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_header
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.method import merging
from hf_lorameta.method.coefficients import Coefficients, largest_indices
from hf_lorameta.types import Array, FloatArray, Row

LARGEST_RANK = 64
"""Of the adapters that are loaded together: the best that `combine.exact` makes of their sum."""
_SUREST = -1e-6
"""Log-probabilities are read in single precision: nearer to zero they tell nothing."""


class LlamaCppProbe:
    """Scores updates of a base model on a few rows, through llama.cpp.

    A new sum is written as GGUF adapters and the engine started again with them: one for each of
    the 32 largest coefficients (`hf_lorameta.engines.interfaces.SEARCH_DIMENSIONS`), and one for all others together,
    which is why those can change by a common factor only. `hf_lorameta.refine.search.search` moves no
    more than these 32. A sum that is not linear in its coefficients is written anew at every `set`.

    Memory beside the base model: what is loaded, 19 MB an adapter of rank 16 on q, k and v of
    Mistral-7B in float16; and while it is written, one adapter or one module of the others' sum.

    Args:
        base: GGUF of the base model, in any quantization.
        layout: the modules that are adapted.
        max_length: tokens of prompt and output together; longer prompts lose their beginning,
            longer outputs are refused.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        NotFoundError: the base is missing.
        UsageError: the base cannot be loaded, or the layout does not fit it.
    """

    engine = "llama.cpp"
    finite_difference_step = 0.25  # with 4 bits, log odds of a token were seen to scatter by 0.1

    def __init__(self, base: Path, layout: Layout, *, max_length: int = 1024) -> None:
        self._base, self._layout = base, layout
        self._config = check_base_gguf(base, layout)
        self._engine = LlamaCpp(base, context=max_length)
        self._summed: AdapterUpdate | None = None
        self._alone: NDArray[np.intp] = np.array([], int)
        self._together = np.array([])
        self._scales: list[float] = []

    def __enter__(self) -> "LlamaCppProbe":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine and free its memory."""
        self._engine.close()

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Rows as token ids, cut to the length that was asked for.

        Raises:
            UsageError: an output is longer.
        """
        return [within(self._engine, encoded(self._engine, row)) for row in rows]

    def set(self, update: AdapterUpdate, coefficients: Coefficients) -> None:
        """Apply an update with these coefficients, the same in all modules.

        Raises:
            ValueError: coefficients differ between modules, or those that are loaded together do
                not change by a common factor.
            AdapterError: the adapters cannot be written, or not be loaded.
        """
        if coefficients.per_module is not None:
            raise ValueError("llama.cpp needs the same coefficients in all modules")
        if not update.linear:
            self._load([update.pairs(coefficients)])
            self._scales = [1.0]
            return
        c = coefficients.shared
        if update is not self._summed:
            self._load_apart(update, c)
        others, square = np.delete(c, self._alone), float(self._together @ self._together)
        share = float(others @ self._together) / square if square else 0.0
        if not np.allclose(others, share * self._together):
            raise ValueError(f"only the {len(self._alone)} largest coefficients can move apart")
        self._scales = [*c[self._alone], *([share] if square else [])]

    def clear(self) -> None:
        """Be the base model itself."""
        self._scales = [0.0] * len(self._scales)

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Mean cross entropy of the output tokens, in nats, under the update."""
        return -float(np.mean(self._logprobs(tokens)))

    def log_odds(self, tokens: Sequence[Tokens]) -> Array:
        """``log p / (1 − p)`` of each output token under the update, row after row."""
        found = np.minimum(self._logprobs(tokens), _SUREST)
        return np.asarray(found - np.log(-np.expm1(found)))

    def _logprobs(self, tokens: Sequence[Tokens]) -> Array:
        rows = (self._engine.logprobs(prompt, output, self._scales) for prompt, output in tokens)
        return np.concatenate([np.array(row) for row in rows])

    def _load_apart(self, summed: AdapterUpdate, c: Array) -> None:
        alone = largest_indices(c, SEARCH_DIMENSIONS)
        together = c.copy()
        together[alone] = 0
        sums = [summed.pairs(Coefficients(row)) for row in np.eye(c.size)[alone]]
        if together.any():
            sums.append(_cut(summed.pairs(Coefficients(together))))
        self._load(sums)
        self._summed, self._alone, self._together = summed, alone, np.delete(together, alone)

    def _load(self, sums: Iterable[Iterable[tuple[FloatArray, FloatArray]]]) -> None:
        """Start the engine again with these adapters."""
        self._summed, self._scales = None, []
        with tempfile.TemporaryDirectory(prefix="lorameta-gguf-") as scratch:
            files = [
                self._written(pairs, Path(scratch) / f"{place}.gguf")
                for place, pairs in enumerate(sums)
            ]
            self._engine.close()
            self._engine = LlamaCpp(self._base, files, context=self._engine.context)

    def _written(self, pairs: Iterable[tuple[FloatArray, FloatArray]], target: Path) -> Path:
        """An adapter as GGUF; its PEFT files lie beside it until the next ones replace them."""
        listed = list(pairs)
        ranks = {len(A) for A, _ in listed}
        rank = max(ranks)
        if ranks != {rank}:  # spaces of a pack may differ in size: GGUF knows one rank alone
            listed = list(_cut(listed, rank))
        folder, config = target.parent, write_config("", self._layout, rank)
        try:
            path = folder / WEIGHTS_FILE
            write_tensors(path, self._layout, rank, "float32", listed)
            (folder / CONFIG_FILE).write_bytes(config)
            return gguf_adapter.export(folder, target, self._config)
        except (AdapterError, OSError) as error:
            told = str(error).replace(f"{folder}/", "")  # the scratch folder is gone by then
            raise AdapterError(
                f"an adapter cannot be written for llama.cpp: {told}",
                hint=f"free some space in {folder.parent}, or use --engine transformers",
            ) from None


def check_base_gguf(base: Path, layout: Layout) -> dict[str, Any]:
    """Refuse a base that a bank's adapters do not fit, by its header, before anything is loaded.

    Args:
        base: GGUF of a base model.
        layout: the modules that are adapted.

    Returns:
        What an export has to know of it, as `hf_lorameta.formats.gguf_metadata.base_config` tells.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        NotFoundError: the base is missing, or no GGUF.
        UsageError: its architecture is not known here, or its modules are not those of the layout.
    """
    require_extra("gguf", "scipy", extra="gguf")
    metadata, shapes = read_header(base)
    config = base_config(metadata)
    try:
        names = gguf_adapter.names_of(layout, gguf_adapter.BaseArchitecture.of(config))
        for module in layout:
            expected = module.out_features, module.in_features
            found = shapes.get(names[module.name], expected)  # another file may hold it
            if found != expected:
                raise UsageError(f"{module.name} has shape {found}, expected {expected}")
    except (AdapterError, UsageError) as error:
        raise UsageError(
            f"{base} does not fit the bank: {error}",
            hint="name another with --base-gguf: any quantization of the bank's base model will do",
        ) from None
    return config


def _cut(
    pairs: Iterable[tuple[FloatArray, FloatArray]], rank: int = LARGEST_RANK
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The same update in one rank, module by module: a sum of a whole bank never lies in memory."""
    return (merging.exact([A], [B], [1.0], [1.0], rank) for A, B in pairs)
