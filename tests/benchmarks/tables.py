"""Scores that are computed once, and tables of measurements."""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_lorameta.files import write_atomically


def stored(path: Path, compute: Callable[[], object]) -> Any:
    """Return the JSON value in a file, computed if the file is not there.

    So a command resumes where it stopped, and several processes may share its work.
    """
    if not path.exists():
        write_atomically(path, json.dumps(compute()).encode())
    return json.loads(path.read_bytes())


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
