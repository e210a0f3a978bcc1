"""Datasets that several tests of the Space use."""

import json
from typing import Any

from hf_lorameta.demo.run import DATA_FOLDER

TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
