"""Datasets that several tests of the Space use."""

import json
from typing import Any

from hf_lorameta.demo.run import DATA_FOLDER
from tests.training import tiny

TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
LABELED = [
    {**row, "input": f"{row['input']} {tiny.WORDS[number // 64]}"}
    for number, row in enumerate(tiny.labeled(104))
]
"""Of these, 26 are held out, and 78 are to train on; folds replace none of so many."""


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
