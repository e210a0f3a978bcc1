"""Markdown of what others have named: ids, columns and licenses come out as the text they are.

Whatever a name holds, it ends no cell, opens no markup and stays on its line.
"""

import re
import unicodedata
from collections.abc import Sequence

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=()-]([A-Za-z0-9_./:@+=(), -]*[A-Za-z0-9_./:@+=()-])?")


def is_hub_id(value: str) -> bool:
    """Whether the Hub could have a repo, or git a revision, of that name."""
    tricks = ".." in value or "--" in value
    return not tricks and len(value) <= 96 and _HUB_ID.fullmatch(value) is not None


def clean(value: str) -> str:
    """One line: controls, line ends, surrogates and direction marks become single spaces."""
    spaced = (" " if unicodedata.category(c)[0] in "CZ" else c for c in value)
    return " ".join("".join(spaced).split())


def _entities(value: str) -> str:
    """Every ASCII sign that is neither letter nor digit as an entity: nothing left to parse."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda m: f"&#{ord(m[0])};", clean(value))


def code(value: str) -> str:
    """Inline code, also inside a table cell."""
    return f"`{value}`" if _PLAIN.fullmatch(value) else f"<code>{_entities(value)}</code>"


def prose(value: str) -> str:
    """Text that reads as it is and starts no markup, block or HTML."""
    text = re.sub(r"([\\`*\[\]{}|~#$!])", r"\\\1", clean(value))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^([-+=]|\d+(?=[.)](\s|$)))", lambda m: f"&#{ord(m[0][0])};{m[0][1:]}", text)


def hub_url(repo: str, revision: str | None = None, kind: str = "") -> str:
    """Where a repo is seen, at a revision if one is given; kind is ``datasets/`` or nothing."""
    pinned = f"/tree/{revision}" if revision and is_hub_id(revision) else ""
    return f"https://huggingface.co/{kind}{repo}{pinned}"


def link(repo: str, revision: str | None = None, kind: str = "", *, published: bool = True) -> str:
    """A repo as inline code, linked to the commit read if it can be found there."""
    if not published or not is_hub_id(repo):
        return code(repo)
    return f"[{code(repo)}]({hub_url(repo, revision, kind)})"


def number(value: float) -> str:
    """With four digits."""
    return f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table whose columns at `numbers` are flush right; cells are Markdown already."""
    rule = ["---:" if i in numbers else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
