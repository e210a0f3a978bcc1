"""Render the Jinja templates of the model card.

`huggingface_hub.ModelCard.from_template` takes no filters and escapes nothing. Here every value is
escaped with `prose` unless a filter made it `Markdown`: a name cannot break the card because a
template forgot to escape it.
"""

import json
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hf_lorameta.cards.markdown import Markdown, clean, code, link, number, prose
from hf_lorameta.data.prompt import as_option
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: object) -> str:
    """Render a template of this folder; a missing variable raises `jinja2.UndefinedError`."""
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
    environment.filters |= {
        "code": code,
        "license": _license,
        "link": link,
        "number": number,
        "option": as_option,
        "plural": plural,
        "python": _python,
        "score": _score,
        "shell": shell,
    }
    return environment


def _escape(value: object) -> object:
    return value if isinstance(value, Markdown) else prose(str(value))


def _license(stated: str | None) -> Markdown:
    return code(stated) if stated else Markdown("unknown")


def _python(value: str) -> Markdown:
    """Format text as a Python string literal."""
    return Markdown(json.dumps(clean(value), ensure_ascii=False))


def _score(value: float | None) -> Markdown:
    return Markdown("–") if value is None else number(value)


def shell(*arguments: str) -> Markdown:
    """Quote arguments for a POSIX shell, on one line."""
    return Markdown(shlex.join(map(clean, arguments)))
