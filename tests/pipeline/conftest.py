"""A small dataset with and without outputs."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Fifty rows; every fifth has no output."""
    path = tmp_path / "rows.jsonl"
    rows = [{"input": f"question {i}", "output": "" if i % 5 == 4 else f"{i}"} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
