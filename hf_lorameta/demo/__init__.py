"""The embedded bank, the embedded dataset, and a demo that runs on this machine."""

from pathlib import Path

TRAIN_FILE = Path(__file__).parent / "data" / "train.jsonl"
