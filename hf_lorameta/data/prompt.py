"""The prompt of a row: an instruction and an input in a template."""

import re
from collections.abc import Sequence
from itertools import takewhile

from hf_lorameta.errors import Option, UsageError

_FIELD = re.compile(r"\{(instruction|input)\}")
PROMPT = "{prompt}"
_WRITTEN = {"\\": r"\\", "\n": r"\n", "\t": r"\t"}
_READ = {written: text for text, written in _WRITTEN.items()}


def join_instruction(instruction: str, text: str, template: str | None = None) -> str:
    """Put an instruction before an input.

    Args:
        instruction: may be empty, as may the input: the prompt is then the other one. If both are,
            the prompt is empty, too.
        text: the input.
        template: with ``{instruction}`` and ``{input}``; if one is empty, surrounding whitespace
            is removed. None is the default format, as in the first example.

    Example:
        >>> join_instruction("Name the animal.", "woof")
        'Name the animal.\\n\\nInput: woof\\nOutput:'
        >>> join_instruction("Name the animal.", "", "{instruction}\\n\\n{input}")
        'Name the animal.'
    """
    both = bool(instruction and text)
    if not (instruction or text):
        return ""
    if template is None:
        return f"{instruction}\n\nInput: {text}\nOutput:" if both else instruction or text
    filled = fill(template, instruction, text)
    return filled if both or "{instruction}" not in template else filled.strip()


def fill(template: str, instruction: str, text: str) -> str:
    """Put an instruction and an input where a template has ``{instruction}`` and ``{input}``.

    Example:
        >>> fill("{instruction} {input}", "Say {input}.", "a")
        'Say {input}. a'
    """
    values = {"instruction": instruction, "input": text}
    return _FIELD.sub(lambda match: values[match[1]], template)


def check_template(template: str, *, has_instruction: bool) -> None:
    """Raise `UsageError` if a template lacks ``{input}`` or does not fit the instruction.

    A template with ``{prompt}`` needs no other field.
    """
    fields = set(_FIELD.findall(template))
    if PROMPT in template and not fields:
        return
    hint = Option("template", "{instruction} {input}")
    if "input" not in fields:
        problem = "has no {input} or {prompt}"
    elif "instruction" in fields and not has_instruction:
        problem, hint = "has {instruction}, and the rows have none", Option("instruction")
    elif has_instruction and "instruction" not in fields:
        problem = "has no {instruction}"
    else:
        return
    raise UsageError(f"the template {template!r} {problem}", code="template.invalid", hint=hint)


def shared_ends(texts: Sequence[str]) -> tuple[str, str]:
    """Return the common beginning of texts, and the common end of what follows it.

    Example:
        >>> shared_ends(["Q: a?", "Q: bb?"]), shared_ends(["aa", "aaa"])
        (('Q: ', '?'), ('aa', ''))
    """
    start = shared_length(texts)
    end = shared_length([text[start:][::-1] for text in texts])
    first = texts[0] if texts else ""
    return first[:start], first[len(first) - end :]


def shared_length(sequences: Sequence[Sequence[object]]) -> int:
    """Return the length of the common beginning of sequences.

    Example:
        >>> shared_length([[1, 2, 3], [1, 2, 4, 5]]), shared_length([])
        (2, 0)
    """
    same = takewhile(lambda items: len(set(items)) == 1, zip(*sequences, strict=False))
    return sum(1 for _ in same)


def as_option(text: str) -> str:
    r"""Return a text in the form of an option: on one line.

    Example:
        >>> print(as_option("a\n\\b"))
        a\n\\b
        >>> from_option(as_option("a\n\\b")) == "a\n\\b"
        True
    """
    return re.sub(r"[\\\n\t]", lambda found: _WRITTEN[found[0]], text)


def from_option(text: str) -> str:
    r"""Return a text from the form of an option.

    ``\n`` is a line break, ``\t`` a tab and ``\\`` a backslash; before any other character, a
    backslash is kept.
    """
    return re.sub(r"\\[\\nt]", lambda found: _READ[found[0]], as_unicode(text))


def as_unicode(text: str) -> str:
    r"""Replace the bytes that are not UTF-8 in a text of the command line or of standard input.

    Example:
        >>> as_unicode("a\udcff")
        'a�'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
