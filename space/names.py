"""Readable names of bank datasets: what a person can say, not what a file system stores."""

import re

_PREFIX = re.compile(r"^(?:\w+?__)?(?:task\d+_)?")
_LONGEST = 60


def readable_name(dataset: str) -> str:
    """Return a bank dataset's name in words.

    Example:
        >>> readable_name("Lots-of-LoRAs/task1687_sentiment140_classification")
        'Sentiment140 classification'
        >>> readable_name("local/sni__task875_emotion_classification")
        'Emotion classification'
    """
    stem = _PREFIX.sub("", dataset.rpartition("/")[2])
    words = " ".join(re.split(r"[_\W]+", stem)).strip() or dataset
    name = words[:1].upper() + words[1:]
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
