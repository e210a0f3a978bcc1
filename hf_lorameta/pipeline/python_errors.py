"""Errors as a Python program can use them: arguments in place of the command line's options."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hf_lorameta.errors import LoraMetaError

_COMMAND = re.compile(r"hf-lorameta (plan|generate) --dataset (\S+)")
_OPTION = re.compile(r"--([a-z][a-z-]*)(?:[ =](\d+|[^\s,;]*[=/][^\s;:]*|[A-Z]+\b))?")


def in_python(text: str) -> str:
    """Return a message with Python's arguments in place of options.

    Example:
        >>> in_python("leave out --check, or add --columns input=q,output=a")
        "leave out check=, or add columns='input=q,output=a'"
        >>> in_python("lower --refine 16: hf-lorameta plan --dataset user/name")
        "lower refine=16: hf_lorameta.plan('user/name')"
    """

    def argument(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2] or ""
        return f"{name}={value if value.isdecimal() or not value else repr(value)}"

    text = _COMMAND.sub(lambda match: f"hf_lorameta.{match[1]}({match[2]!r})", text)
    return _OPTION.sub(argument, text)


@contextmanager
def python_errors() -> Iterator[None]:
    """Reword errors for Python, and show their hints in tracebacks."""
    try:
        yield
    except LoraMetaError as error:
        error.args = (in_python(str(error)),)
        error.hint = in_python(error.hint)
        if error.hint and not hasattr(error, "__notes__"):
            error.add_note(error.hint)
        raise
