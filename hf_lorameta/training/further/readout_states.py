"""What the last layer sees at each output token, kept from one pass over labeled rows."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.forward import token_losses
from hf_lorameta.engines.transformers.lora_layer import applied
from hf_lorameta.engines.transformers.packing import passes, using_row_attention
from hf_lorameta.errors import EmptyDatasetError, UsageError
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.output_prior import ARCHITECTURES
from hf_lorameta.types import FactorPair, Progress, no_progress

IN_MEMORY = 1 << 30
"""Bytes of a model's states above which they are in memory-mapped files."""


@dataclass(frozen=True, eq=False)
class States:
    """What the last down-projection and the final norm see where output tokens are predicted.

    Attributes:
        inputs: (n, in) inputs x of the down-projection.
        sums: (n, d) inputs z of the final norm: the sum of all layers' outputs, with that of the
            down-projection.
        targets: (n,) output tokens.
        sizes: number of output tokens of each row; the n tokens are those of row after row.
        folder: of the files that hold them; None if they are in memory.
    """

    inputs: torch.Tensor
    sums: torch.Tensor
    targets: torch.Tensor
    sizes: tuple[int, ...]
    folder: Path | None = None

    def like_sums(self, name: str) -> torch.Tensor:
        """Return an uninitialized tensor of the shape of `sums`, in a file if they are."""
        shape = (len(self.sums), self.sums.shape[1])
        return (
            torch.empty(shape) if self.folder is None else tensor_in_file(self.folder / name, shape)
        )


def last_projection(model: Any) -> Module:
    """Return the last down-projection of a model.

    Raises:
        UsageError: the architecture does not add its output to the input of the final norm.
    """
    if model.config.model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UsageError(
            f"the last layer of {model.config.model_type!r} cannot be fitted, expected {known}",
            hint="train the adapter instead",
        )
    projection = model.get_decoder().layers[-1].mlp.down_proj
    name = next(name for name, module in model.named_modules() if module is projection)
    return Module(name, projection.in_features, projection.out_features)


def collect_states(
    model: Any,
    layout: Layout,
    factors: Sequence[FactorPair],
    rows: Sequence[Tokens],
    folder: Path | None = None,
    *,
    pass_tokens: int = 1024,
    in_memory: int = IN_MEMORY,
    progress: Progress = no_progress,
) -> States:
    """Run rows once through a model with an adapter, and keep what its last layer sees.

    Memory: that of a pass, and 4 · (in + d) bytes for each output token, 8 kB for SmolLM2-135M and
    74 kB for Mistral-7B; above `in_memory` bytes they are in files. A fit adds 4 · d bytes.

    Args:
        model: a causal LM of transformers with frozen weights; it is the same afterwards.
        layout: the modules of the adapter; empty for the model alone.
        factors: A (r, in) and s·B (out, r) of each of them.
        rows: at least one, each within the model's context.
        folder: for the files, which have to exist as long as the states are used; None keeps all in
            memory.
        pass_tokens: maximum tokens of a pass.
        in_memory: bytes that are kept in memory.
        progress: called with (rows done, rows).

    Raises:
        EmptyDatasetError: no row.
        UsageError: the architecture cannot be fitted, or rows cannot be packed.
    """
    if not rows:
        raise EmptyDatasetError("no row to fit on")
    module = last_projection(model)
    sizes = tuple(len(row.output) for row in rows)
    shapes = {"inputs": (sum(sizes), module.in_features), "sums": (sum(sizes), module.out_features)}
    if 4 * sum(map(math.prod, shapes.values())) <= in_memory:
        folder = None
    kept = {
        name: tensor_in_file(folder / name, shape) if folder else torch.empty(shape)
        for name, shape in shapes.items()
    }
    with using_row_attention(model), applied(model, layout, factors):
        seen_by = {"inputs": model.get_submodule(module.name), "sums": model.get_decoder().norm}
        with _inputs_of(seen_by) as seen:
            start = done = 0
            for packed in passes({0: rows}, pass_tokens):
                with torch.no_grad():
                    token_losses(model, packed)
                part = slice(start, start + len(packed.targets))
                for name, values in seen.items():
                    kept[name][part] = values[torch.tensor(packed.predicting)]
                start, done = part.stop, done + len(packed.by_row)
                progress(done, len(rows))
    targets = torch.tensor([token for row in rows for token in row.output])
    return States(kept["inputs"], kept["sums"], targets, sizes, folder)


def tensor_in_file(
    path: Path, shape: tuple[int, int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return an uninitialized tensor in a new memory-mapped file."""
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)


@contextmanager
def _inputs_of(modules: dict[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Keep the last inputs (T, size) of modules, in float32, by name."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = inputs[0].detach().flatten(0, -2).float()

        return hook

    hooks = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
