"""The banks in this package, with the tokenizers of their base models.

It holds only files and imports nothing, so that any package may read them.
"""

from pathlib import Path

SMOLLM2_BANK = Path(__file__).parent / "smollm2-135m"
"""Folder of the default bank."""
QWEN_BANKS = Path(__file__).parent / "qwen2.5-coder"
"""Folder with the banks of several sizes of Qwen2.5-Coder, which share a tokenizer."""
