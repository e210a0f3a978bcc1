"""Readable names of bank datasets: what a person can say, not what a file system stores."""

import re
from typing import Protocol

_PREFIX = re.compile(r"^(?:\w+?__)?(?:task\d+_)?")
_LONGEST = 60


class Named(Protocol):
    """An entry of a bank, or a neighbor of a plan."""

    @property
    def dataset(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str | None: ...  # noqa: D102


def readable_name(entry: Named) -> str:
    """Return the title that the bank states for a dataset, else its id in words.

    Example:
        >>> from types import SimpleNamespace as Entry
        >>> dataset = "local/sni__task875_emotion_classification"
        >>> readable_name(Entry(dataset=dataset, title=None))
        'Emotion classification'
        >>> readable_name(Entry(dataset=dataset, title="Emotion (emotion of a message)"))
        'Emotion (emotion of a message)'
    """
    name = entry.title
    if not name:
        stem = _PREFIX.sub("", entry.dataset.rpartition("/")[2])
        words = " ".join(re.split(r"[_\W]+", stem)).strip() or entry.dataset
        name = words[:1].upper() + words[1:]
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
