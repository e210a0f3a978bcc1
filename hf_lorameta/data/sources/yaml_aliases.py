"""Aliases in YAML, of which a few lines can stand for more than fits in memory."""

import yaml

MAX_ALIASED = 1_000_000
"""Most characters that the aliases of a text may stand for."""


def has_too_many_aliases(text: str) -> bool:
    """Return whether the aliases in YAML stand for more than `MAX_ALIASED` characters.

    What an alias stands for is shared in memory, but copied by what reads it, and may have aliases
    itself: ten lines can stand for a billion texts. The text is parsed and not loaded, since merge
    keys copy already then.

    Example:
        >>> has_too_many_aliases("a: &a [x, y]\\nb: [*a, *a]")
        False
        >>> has_too_many_aliases("a: &a [x, *a]")  # without end
        True
    """
    if "&" not in text:
        return False
    total, aliased, sizes = 0, 0, dict[str | None, int]()
    inside = list[tuple[str | None, int]]()  # anchors of what is open, and the total before it
    for event in yaml.parse(text, yaml.SafeLoader):
        size, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, MAX_ALIASED + 1)  # not in there while it is open
            aliased += size
        elif isinstance(event, yaml.ScalarEvent):
            size += len(event.value)
            sizes[anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            sizes[anchor] = total - before
        if aliased > MAX_ALIASED:
            return True
        total += size
    return False
