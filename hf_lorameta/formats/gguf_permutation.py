"""How rows of a weight are permuted from transformers' order to llama.cpp's.

`hf_lorameta.formats.gguf_architecture` says which modules are permuted.
"""

from typing import Any

from numpy.typing import NDArray


def permute(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder the rows of a q or k matrix from transformers' order to llama.cpp's.

    Within a head of d rows, transformers rotates row i with row i + d/2; llama.cpp rotates
    neighbors. So row i of a head moves to 2i, and row i + d/2 to 2i + 1 (`LlamaModel.permute` of
    llama.cpp's conversion/llama.py). `rows` is (heads · d, …).

    Example:
        >>> import numpy as np
        >>> permute(np.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def tile(rows: NDArray[Any], groups: int, heads: int) -> NDArray[Any]:
    """Reorder the value heads of linear attention from transformers' order to llama.cpp's.

    Several value heads share a key head. Transformers has those of one key head together,
    llama.cpp the first of every key head, then the second (`_reorder_v_heads` of llama.cpp's
    conversion/qwen.py). `rows` is (heads · d, …), `groups` the number of key heads.

    Example:
        >>> import numpy as np
        >>> tile(np.arange(8), groups=2, heads=4).tolist()
        [0, 1, 4, 5, 2, 3, 6, 7]
    """
    grouped = rows.reshape(groups, heads // groups, rows.shape[0] // heads, *rows.shape[1:])
    return grouped.swapaxes(0, 1).reshape(rows.shape)
