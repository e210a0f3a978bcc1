"""The modules that a LoRA file adapts, and PEFT's names of their tensors."""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from hf_lorameta.errors import AdapterError, sanitize
from hf_lorameta.formats.safetensors import TensorInfo

Factor = Literal["A", "B"]
FACTORS: tuple[Factor, Factor] = ("A", "B")

_LAYER = re.compile(r"[0-9]{1,9}")
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


class Module(NamedTuple):
    """An adapted linear layer of the base model, such as ``model.layers.0.self_attn.q_proj``."""

    name: str
    in_features: int
    out_features: int

    def shape(self, factor: Factor, rank: int) -> tuple[int, int]:
        """Return a factor's shape: A is (rank, in_features), B is (out_features, rank)."""
        return (rank, self.in_features) if factor == "A" else (self.out_features, rank)


Layout = tuple[Module, ...]
"""All adapted modules, in canonical order."""


def tensor_name(module: str, factor: Factor) -> str:
    """Return PEFT's name of a factor."""
    return f"base_model.model.{module}.lora_{factor}.weight"


def canonical_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key of module names that compares layers as numbers: 2 comes before 10."""
    return tuple((int(p) if _LAYER.fullmatch(p) else -1, p) for p in name.split("."))


def read_layout(infos: Mapping[str, TensorInfo]) -> tuple[Layout, int]:
    """Return the modules that a LoRA file adapts, in canonical order, and the rank of all of them.

    Raises:
        AdapterError: a tensor is no LoRA factor, a module's factors do not match, ranks differ, or
            there is no module.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, info in infos.items():
        match = _KEY.fullmatch(name)
        if match is None or len(info.shape) != 2:
            raise AdapterError(
                f"tensor {sanitize(name)} {info.shape} is not a 2-d lora_A or lora_B weight",
                code="adapter.not-lora-weights",
                hint="only LoRA of linear layers can be combined"
                if ".lora_" in name
                else "PEFT leaves out weights of the base model with save_embedding_layers=False",
            )
        shapes.setdefault(match["module"], {})[match["factor"]] = info.shape
    modules, ranks = [], set()
    for name in sorted(shapes, key=canonical_order):
        pair = shapes[name]
        if len(pair) != 2:
            raise AdapterError(
                f"{sanitize(name)} has only lora_{next(iter(pair))}", code="adapter.lacks-factor"
            )
        (rank, in_features), (out_features, columns) = pair["A"], pair["B"]
        if rank != columns or not rank * in_features * out_features:
            raise AdapterError(
                f"{sanitize(name)}: lora_A {pair['A']} and lora_B {pair['B']} do not multiply",
                code="adapter.factors-do-not-multiply",
            )
        ranks.add(rank)
        modules.append(Module(name, in_features, out_features))
    if len(ranks) != 1:
        raise AdapterError(
            f"expected one rank in every module, got {sorted(ranks) or 'no module'}",
            code="adapter.other-rank",
        )
    return tuple(modules), ranks.pop()
