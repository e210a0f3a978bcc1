"""Escape untrusted text (ids, column names, licenses) for Markdown, and render templates.

An escaped value starts no markup, ends no table cell and stays on its line.
"""

import json
import re
import unicodedata
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta import quoting
from hf_lorameta.cards.gguf_usage import BASE_FILE, GGUF_FILE, MODELFILE
from hf_lorameta.data.prompt import as_option
from hf_lorameta.engines.scoring import MEASURES
from hf_lorameta.hub.repo import is_hub_id
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    import jinja2

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=()-]([A-Za-z0-9_./:@+=(), -]*[A-Za-z0-9_./:@+=()-])?")


class Markdown(str):
    """Text that is already Markdown and needs no escaping."""

    __slots__ = ()


def clean(value: str) -> str:
    """Return the value on one line: control and direction characters become single spaces."""
    spaced = (" " if unicodedata.category(c)[0] in "CZ" else c for c in value)
    return " ".join("".join(spaced).split())


def prose(value: str) -> Markdown:
    """Escape text for a paragraph, a list item or a table cell.

    Example:
        >>> prose("*a* | b_c")
        '\\\\*a\\\\* \\\\| b_c'
    """
    text = re.sub(r"([\\`*\[\]{}|~#$!])", r"\\\1", clean(value))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = escape(text, quote=False)
    start = r"^([-+=]|\d+(?=[.)](\s|$)))"
    return Markdown(re.sub(start, lambda m: f"&#{ord(m[0][0])};{m[0][1:]}", text))


def code(value: str) -> Markdown:
    """Format text as inline code, which is also valid in a table cell.

    Example:
        >>> code("a-b"), code("a|b")
        ('`a-b`', '<code>a&#124;b</code>')
    """
    if _PLAIN.fullmatch(value):
        return Markdown(f"`{value}`")
    entities = re.sub(r"[!-/:-@\[-`{-~]", lambda m: f"&#{ord(m[0])};", clean(value))
    return Markdown(f"<code>{entities}</code>")


def hub_url(repo: str, revision: str | None = None, kind: str = "") -> str:
    """Return the URL of a repo on the Hub; `kind` is ``datasets/`` for a dataset."""
    pinned = f"/tree/{revision}" if revision and is_hub_id(revision) else ""
    return f"https://huggingface.co/{kind}{repo}{pinned}"


def link(
    repo: str, revision: str | None = None, kind: str = "", published: bool = True
) -> Markdown:
    """Format a repo id as inline code, with a link to its page if it is published on the Hub."""
    if not published or not is_hub_id(repo):
        return code(repo)
    return Markdown(f"[{code(repo)}]({hub_url(repo, revision, kind)})")


def source(row: Any, published: bool) -> Markdown:
    """Format the dataset of a source adapter: by its title if no page of the Hub shows it."""
    if row.title and not published:
        return prose(row.title)
    return link(row.dataset, row.dataset_revision, "datasets/", published)


def number(value: float, spec: str = ".3f") -> Markdown:
    """Format a number, by default with three decimals."""
    return Markdown(format(value, spec))


# --- templates ----------------------------------------------------------------------------------


def render(template: str, **values: object) -> str:
    """Render a template of this folder; a missing variable raises `jinja2.UndefinedError`.

    `huggingface_hub.ModelCard.from_template` takes no filters and escapes nothing. Here every value
    is escaped with `prose` unless a filter made it `Markdown`: a name cannot break the card because
    a template forgot to escape it.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=_escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "gguf_file": GGUF_FILE, "base_file": BASE_FILE, "modelfile": MODELFILE,
        "measures": MEASURES,
    }  # fmt: skip
    environment.filters |= {
        "code": code,
        "json": lambda value: Markdown(json.dumps(value)),
        "license": license_name,
        "link": link,
        "number": number,
        "option": as_option,
        "plural": plural,
        "source": source,
        "python": lambda value: Markdown(quoting.python_literal(value)),
        "shell": lambda value: Markdown(quoting.shell_word(value)),
    }
    return environment


def _escape(value: object) -> object:
    return value if isinstance(value, Markdown) else prose(str(value))


def license_name(stated: str | None) -> Markdown:
    """Format the id of a license; None is unknown."""
    return code(stated) if stated else Markdown("unknown")
