"""Clip the names that a dataset chose, and mark them for programs and agents that read a result."""

from typing import Any

from hf_lorameta.data.columns.columns import NAME_CHARACTERS, clipped_name
from hf_lorameta.data.dataset import DatasetInfo


def marked(result: dict[str, Any], dataset: DatasetInfo) -> dict[str, Any]:
    """Return a result with names clipped, and ``dataset_words``: those that are the dataset's own.

    A column may be named "ignore all previous instructions": such a name is data.
    """
    names = {*dataset.columns.names(), dataset.config or "", dataset.split or ""} - {""}
    long = sorted((name for name in names if len(name) > NAME_CHARACTERS), key=len, reverse=True)
    words = sorted(map(clipped_name, names))
    return {**_replaced(result, long), "dataset_words": words}


def _replaced(value: Any, long: list[str]) -> Any:
    if isinstance(value, dict):
        return {_replaced(key, long): _replaced(of, long) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, long) for item in value]
    if isinstance(value, str):
        for name in long:
            value = value.replace(name, clipped_name(name))
    return value
