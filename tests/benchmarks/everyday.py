"""The everyday tasks of ``../shared``."""

import json
from collections.abc import Sequence

from hf_lorameta.engines.prompts import prompt_text
from hf_lorameta.types import Row
from tests.support import shared_data

EVERYDAY = shared_data.SHARED / "everyday"
REPORT_ON = EVERYDAY / "report_on.txt"


def prompted(rows: Sequence[Row], shots: Sequence[Row]) -> list[Row]:
    """Return rows with examples before their prompts."""
    return [(prompt_text(text, shots), output) for text, output in rows]


def read_sources() -> dict[str, str]:
    """Return the source of each everyday task."""
    meta = json.loads((EVERYDAY / "meta.json").read_bytes())
    return {name: facts["source"] for name, facts in meta.items()}


def read(task: str, split: str) -> list[tuple[str, str]]:
    """Return the rows of an everyday task; split is train or test."""
    lines = (EVERYDAY / f"{task}.{split}.jsonl").read_text("utf-8").splitlines()
    return [(row["input"], row["output"]) for row in map(json.loads, lines)]
