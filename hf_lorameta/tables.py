"""Tables of text, Markdown or aligned with spaces, and counts with their nouns."""

from collections.abc import Collection, Iterable, Sequence

_SHOWN_ADAPTERS = 5
"""So few that what follows the table, such as the verdict, is on the screen, too."""


def padded_markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Return a Markdown table whose source is aligned, too, on the right in the columns `right`.

    Example:
        >>> print(padded_markdown_table(["name", "n"], [["a", "10"]], right=[1]))
        | name | n  |
        |:-----|---:|
        | a    | 10 |
    """
    widths = column_widths([head, *rows])
    dashes = ["-" * (width + 1) for width in widths]
    rule = [f"{line}:" if i in right else f":{line}" for i, line in enumerate(dashes)]
    lines = [pad(head, widths), *(pad(row, widths, right) for row in rows)]
    first, *rest = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([first, f"|{'|'.join(rule)}|", *rest])


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format aligned columns, numbers to the right.

    Example:
        >>> print(table(["name", "n"], [["a", 10], ["long", 2]]))
        name   n
        a     10
        long   2
    """
    titles, cells = list(head), [[str(cell) for cell in row] for row in rows]
    right = {i for i in range(len(titles)) if all(_is_number(row[i]) for row in cells)}
    widths = column_widths([titles, *cells])
    return "\n".join("  ".join(pad(row, widths, right)).rstrip() for row in [titles, *cells])


def coefficient_table(
    head: Sequence[str], rows: Sequence[Sequence[object]], coefficients: Sequence[float]
) -> str:
    """Format a table of adapters, a row for each of the first 5, a line for all others.

    Example:
        >>> print(coefficient_table(["adapter"], [["a"]] * 7, [0.02] * 7).splitlines()[-1])
        The other 2 have coefficients that sum to 4.0%.
    """
    text = table(head, rows[:_SHOWN_ADAPTERS])
    rest = coefficients[_SHOWN_ADAPTERS:]
    if not rest:
        return text
    return f"{text}\nThe other {len(rest)} have coefficients that sum to {sum(rest):.1%}."


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").replace("-", "").replace("e", "").replace("%", "").isdecimal()


def column_widths(rows: Iterable[Sequence[str]]) -> list[int]:
    """Return the length of the longest cell of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def pad(cells: Sequence[str], widths: Sequence[int], right: Collection[int] = ()) -> list[str]:
    """Return a row's cells padded to the widths; those at the indices `right` on their left.

    Example:
        >>> pad(["a", "10"], [3, 4], right=[1])
        ['a  ', '  10']
    """
    padded = enumerate(zip(cells, widths, strict=True))
    return [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in padded]


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "row"), plural(1234, "row")
        ('1 row', '1,234 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
