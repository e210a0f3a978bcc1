"""A base model in llama.cpp under an update: losses and log odds, for `refine` with `search`.

llama.cpp cannot load another adapter while it runs, but each request sets the scales of the loaded
adapters. So the adapters of a sum are loaded once, one by one, and their scales are the
coefficients. Any quantization of the base model will do. Needs the extra ``gguf``.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.engines.gguf_files import check_base_gguf
from hf_lorameta.engines.interfaces import SEARCH_DIMENSIONS, AdapterUpdate
from hf_lorameta.engines.llama_client import LlamaCpp, encode_row, fit_context
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.method import merging
from hf_lorameta.method.coefficients import Coefficients, largest_indices
from hf_lorameta.types import Array, FactorPair, Row

Pairs = Iterable[FactorPair]

MAX_GROUP_RANK = 64
"""Rank of the adapters that are loaded as one: the best approximation of their sum."""
_MAX_LOGPROB = -1e-6
"""Log-probabilities are read in single precision, which cannot resolve values closer to zero."""


class LlamaCppRunner:
    """Runs a base model with an update; a `hf_lorameta.engines.interfaces.BaseModelRunner`.

    A new sum is written as GGUF adapters, and the server is restarted with them: one for each of
    the 32 largest coefficients (`SEARCH_DIMENSIONS`), and one for all others together, which can
    therefore change by a common factor only. `hf_lorameta.refine.finite_differences.search` moves
    no more than these 32. An update that is not linear in its coefficients is written again at
    every `set`.

    Memory besides the base model: the loaded adapters, 19 MB for one of rank 16 on q, k and v of
    Mistral-7B in float16; while they are written, one adapter or one module of the others' sum.

    Prompt and output together have at most `max_length` tokens: longer prompts lose their
    beginning, longer outputs raise `UsageError`.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        NotFoundError: the base is missing.
        UsageError: the base cannot be loaded, or the layout does not fit it.
    """

    engine = "llama.cpp"
    finite_difference_step = 0.25  # a 4-bit base model scatters log odds of a token by 0.1

    def __init__(self, base: Path, layout: Layout, *, max_length: int = 1024) -> None:
        self._base, self._layout = base, layout
        self._config = check_base_gguf(base, layout)
        self._engine = LlamaCpp(base, context=max_length)
        self._update: AdapterUpdate | None = None
        self._single: NDArray[np.intp] = np.array([], int)
        self._group = np.array([])
        self._scales: list[float] = []

    def __enter__(self) -> "LlamaCppRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free its memory."""
        self._engine.close()

    def encode(self, rows: Sequence[Row]) -> list[Tokens]:
        """Return rows as token ids, long prompts truncated from the left."""
        return [fit_context(self._engine, encode_row(self._engine, row)) for row in rows]

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.ChatModel.chat_prompt`."""
        return self._engine.chat_prompt(text)

    def set(self, update: AdapterUpdate, coefficients: Coefficients) -> None:
        """Apply an update with these coefficients, the same in all modules.

        Raises:
            ValueError: coefficients differ between modules, or those that are loaded as one do not
                change by a common factor.
            AdapterError: the adapters cannot be written or loaded.
        """
        if coefficients.per_module is not None:
            raise ValueError("llama.cpp needs the same coefficients in all modules")
        if not update.linear:
            self._load([update.pairs(coefficients)])
            self._scales = [1.0]
            return
        c = coefficients.shared
        if update is not self._update:
            self._load_linear(update, c)
        others, square = np.delete(c, self._single), float(self._group @ self._group)
        factor = float(others @ self._group) / square if square else 0.0
        if not np.allclose(others, factor * self._group):
            raise ValueError(
                f"only the {len(self._single)} largest coefficients can change independently"
            )
        self._scales = [*c[self._single], *([factor] if square else [])]

    def clear(self) -> None:
        """Remove the update."""
        self._scales = [0.0] * len(self._scales)

    def loss(self, tokens: Sequence[Tokens]) -> float:
        """Return the mean cross entropy of the output tokens, in nats."""
        return -float(np.mean(self._logprobs(tokens)))

    def log_odds(self, tokens: Sequence[Tokens]) -> Array:
        """Return ``log p / (1 − p)`` of each output token, row after row."""
        logprobs = np.minimum(self._logprobs(tokens), _MAX_LOGPROB)
        return np.asarray(logprobs - np.log(-np.expm1(logprobs)))

    def _logprobs(self, tokens: Sequence[Tokens]) -> Array:
        rows = (self._engine.logprobs(prompt, output, self._scales) for prompt, output in tokens)
        return np.concatenate([np.array(row) for row in rows])

    def _load_linear(self, update: AdapterUpdate, c: Array) -> None:
        """Load the adapters with the largest coefficients one by one, and the others as one."""
        single = largest_indices(c, SEARCH_DIMENSIONS)
        group = c.copy()
        group[single] = 0
        adapters: list[Pairs] = [update.pairs(Coefficients(row)) for row in np.eye(c.size)[single]]
        if group.any():
            adapters.append(_truncate(update.pairs(Coefficients(group))))
        self._load(adapters)
        self._update, self._single, self._group = update, single, np.delete(group, single)

    def _load(self, adapters: Iterable[Pairs]) -> None:
        """Restart the server with these adapters."""
        self._update, self._scales = None, []
        with tempfile.TemporaryDirectory(prefix="lorameta-gguf-") as scratch:
            files = [
                self._write(pairs, Path(scratch) / f"{index}.gguf")
                for index, pairs in enumerate(adapters)
            ]
            self._engine.close()
            self._engine = LlamaCpp(self._base, files, context=self._engine.context)

    def _write(self, pairs: Pairs, target: Path) -> Path:
        """Write an adapter as GGUF; its PEFT files are overwritten by the next adapter's."""
        pairs = list(pairs)
        ranks = {len(A) for A, _ in pairs}
        rank = max(ranks)
        if ranks != {rank}:  # a packed bank's spaces may differ in size: a GGUF has one rank
            pairs = list(_truncate(pairs, rank))
        layout = self._layout[: len(pairs)]
        folder, config = target.parent, write_config("", layout, rank)
        try:
            write_tensors(folder / WEIGHTS_FILE, layout, rank, "float32", pairs)
            (folder / CONFIG_FILE).write_bytes(config)
            return gguf_adapter.export(folder, target, self._config)
        except (AdapterError, OSError) as error:
            reason = str(error).replace(f"{folder}/", "")  # a temporary folder
            raise AdapterError(
                f"an adapter cannot be written for llama.cpp: {reason}",
                hint=f"free some space in {folder.parent}, or use --engine transformers",
            ) from None


def _truncate(pairs: Pairs, rank: int = MAX_GROUP_RANK) -> Iterator[FactorPair]:
    """Truncate an update to a rank, module by module: never all of it in memory."""
    return (merging.exact([A], [B], [1.0], [1.0], rank) for A, B in pairs)
