"""Random adapters, in memory and as PEFT's files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.types import FactorPair, FloatArray


def random_pairs(layout: Layout, rank: int, seed: int = 0, scale: float = 0.3) -> list[FactorPair]:
    """Return normally distributed factors."""
    rng = np.random.default_rng(seed)

    def normal(shape: tuple[int, int]) -> FloatArray:
        return rng.normal(0, scale, shape).astype(np.float32)

    return [(normal(m.shape("A", rank)), normal(m.shape("B", rank))) for m in layout]


def write_adapter(
    folder: Path,
    layout: Layout,
    pairs: Sequence[FactorPair],
    base: str = "o/base",
    **changes: object,
) -> Path:
    """Write a PEFT folder in float32; `changes` override settings of its config."""
    rank = len(pairs[0][0])
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_FILE, layout, rank, "float32", pairs)
    config = json.loads(write_config(base, layout, rank)) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return folder
