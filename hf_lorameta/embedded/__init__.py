"""The banks in this package, with the tokenizers of their base models.

It holds only files and imports nothing, so that any package may read them.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent
EMBEDDED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _FOLDER / "smollm2-135m",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": _FOLDER / "qwen2.5-coder" / "0.5b",
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": _FOLDER / "qwen2.5-coder" / "1.5b",
}
"""Folders of the banks by their base models; the first is the default."""
