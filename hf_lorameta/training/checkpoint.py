"""The state of an unfinished training, in a file, from which a later process can continue."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from hf_lorameta.files import write_atomically

SECONDS_BETWEEN = 60.0
"""Time between two checkpoints."""


class State(NamedTuple):
    """A training after some of its steps, and its best state so far.

    Attributes:
        taken: number of steps.
        vectors: (3, P), see `hf_lorameta.training.trainable_adapter.TrainableAdapter`.
        steps: those of the best state; 0 if none has helped.
        best: its parameters, (P,).
    """

    taken: int
    vectors: torch.Tensor
    steps: int
    best: torch.Tensor


class Checkpoint:
    """A file for the state of one training.

    Args:
        path: of the file.
        key: what the result depends on; a state that was stored with another key is not used.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key, self._saved = path, key, time.monotonic()

    def save(self, state: Callable[[], State]) -> None:
        """Write the state, unless it was written within the last `SECONDS_BETWEEN`."""
        from safetensors.torch import save

        if time.monotonic() - self._saved < SECONDS_BETWEEN:
            return
        taken, vectors, steps, best = state()
        numbers = {"key": self._key, "taken": str(taken), "steps": str(steps)}
        write_atomically(self._path, save({"vectors": vectors, "best": best}, numbers))
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """Return the stored state; None if there is none of this key."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework="pt") as file:
                stored = file.metadata() or {}
                if stored.get("key") != self._key or "taken" not in stored:
                    return None
                vectors, best = (file.get_tensor(name) for name in ("vectors", "best"))
        except (OSError, SafetensorError):
            return None
        return State(int(stored["taken"]), vectors, int(stored["steps"]), best)

    def discard(self) -> None:
        """Delete the file: the result was stored."""
        self._path.unlink(missing_ok=True)
