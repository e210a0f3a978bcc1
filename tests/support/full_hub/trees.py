"""Comparing the trees of two commits."""

from hf_lorameta.localhub.history import Entry, Tree


def differences(before: Tree, after: Tree) -> dict[str, Entry | None]:
    """Return the changes that turn tree `before` into `after`."""
    changed: dict[str, Entry | None] = {p: e for p, e in after.items() if before.get(p) != e}
    return changed | {path: None for path in before if path not in after}
