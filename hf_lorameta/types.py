"""Type aliases shared by many modules."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""float64 of any shape."""

FloatArray = NDArray[np.float32]
"""float32 of any shape."""

Row = tuple[str, str]
"""(input, output) of one example."""

Encode = Callable[[Sequence[str]], Iterable[Sequence[int]]]
"""Maps texts to their token ids, without special tokens."""
