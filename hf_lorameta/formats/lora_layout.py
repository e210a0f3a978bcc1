"""The LoRA file format: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

Headers are read before tensors, tensors one at a time, and files are written in one canonical
order, so that memory follows the largest tensor and the same weights always give the same bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.safetensors import TensorInfo, sanitize

Factor = Literal["A", "B"]
_LAYER = re.compile(r"[0-9]{1,9}")
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True, order=True)
class Module:
    """One adapted linear layer of the base model.

    Attributes:
        name: path in the base model, e.g. ``model.layers.0.self_attn.q_proj``.
        in_features: columns of lora_A.
        out_features: rows of lora_B.
    """

    name: str
    in_features: int
    out_features: int

    def shape(self, factor: Factor, rank: int) -> tuple[int, int]:
        """Shape of one factor: A is (rank, in_features), B is (out_features, rank)."""
        return (rank, self.in_features) if factor == "A" else (self.out_features, rank)


Layout = tuple[Module, ...]
"""Every adapted module, in canonical order."""


def tensor_name(module: str, factor: Factor) -> str:
    """PEFT's name of a tensor.

    Example:
        >>> tensor_name("model.layers.0.self_attn.q_proj", "A")
        'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'
    """
    return f"base_model.model.{module}.lora_{factor}.weight"


def canonical_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that counts layers as numbers: layer 2 comes before layer 10.

    Example:
        >>> sorted(["h.10.q", "h.2.v", "h.2.q"], key=canonical_order)
        ['h.2.q', 'h.2.v', 'h.10.q']
    """
    return tuple((int(p) if _LAYER.fullmatch(p) else -1, p) for p in name.split("."))


def read_layout(infos: Mapping[str, TensorInfo]) -> tuple[Layout, int]:
    """Which modules a LoRA file adapts, and its rank.

    Args:
        infos: a header as `read_header` gives it.

    Returns:
        The modules in canonical order, and the rank shared by all of them.

    Raises:
        AdapterError: a tensor is not a LoRA factor, a factor lacks its twin, or ranks differ.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, info in infos.items():
        match = _KEY.fullmatch(name)
        if match is None or len(info.shape) != 2:
            raise AdapterError(
                f"tensor {sanitize(name)} {info.shape} is not a 2-d lora_A or lora_B weight"
            )
        shapes.setdefault(match["module"], {})[match["factor"]] = info.shape
    modules, ranks = [], set()
    for name in sorted(shapes, key=canonical_order):
        pair = shapes[name]
        if len(pair) != 2:
            raise AdapterError(f"{sanitize(name)} has only lora_{next(iter(pair))}")
        (rank, in_features), (out_features, other) = pair["A"], pair["B"]
        if rank != other or not rank * in_features * out_features:
            raise AdapterError(
                f"{sanitize(name)}: lora_A {pair['A']} and lora_B {pair['B']} do not multiply"
            )
        ranks.add(rank)
        modules.append(Module(name, in_features, out_features))
    if len(ranks) != 1:
        raise AdapterError(f"expected one rank in every module, got {sorted(ranks) or 'no module'}")
    return tuple(modules), ranks.pop()


FACTORS: tuple[Factor, Factor] = ("A", "B")
