"""Tables of measurements."""

from collections.abc import Collection, Iterable, Sequence


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Return a table of cells that are Markdown already; the columns `right` are aligned right.

    Example:
        >>> print(markdown_table(["name", "n"], [["a", "10"]], right=[1]))
        | name | n |
        | --- | ---: |
        | a | 10 |
    """
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
