"""Quote texts that others chose in what people paste: shell commands, Python code, Markdown.

Whatever a quoted text holds, it ends neither its quotes nor its block, and arrives unchanged. All
code that is shown to be pasted is quoted here.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_OPPOSITES = {"private": "public"}
"""What a switch is called that is off, if not ``no-…``."""
_SPECIAL = re.compile(r"\\(?=[\\']|\Z)|[‘’‚‛]")
r"""What single quotes do not keep: in fish ``\\`` and ``\'``, in PowerShell other quotes."""
_AS_THEY_ARE = " _./:,="
"""Characters besides letters and digits that are themselves wherever `shell_word` puts them."""


def shell_word(text: str) -> str:
    r"""Return a text as one word for sh, bash, zsh and fish, which PowerShell does not obey either.

    Where it holds characters that a terminal may obey, such as line breaks or Ctrl-C, or that end
    or continue single quotes in some shell, all but line breaks at its end are written as octal
    numbers. A word holds no NUL, so these are left out.

    Example:
        >>> print(shell_word("it's"))
        'it'"'"'s'
        >>> print(shell_word("a\nEOF\n$(date)"))
        "$(printf 'a\012EOF\012\044\050date\051')"
        >>> print(shell_word("a\udcff"))
        "$(printf 'a\377')"
    """
    if text.isprintable() and not _SPECIAL.search(text):
        return shlex.quote(text)
    body = text.replace("\0", "").rstrip("\n")
    end = text[len(text.rstrip("\n")) :]  # a shell takes it from what `$(…)` prints
    printed = "".join(c if c.isalnum() or c in _AS_THEY_ARE else _octal(c) for c in body)
    return f"\"$(printf '{printed}')\"" + (f"'{end}'" if end else "")


def shell(*words: str | Path) -> str:
    """Return a command of words, each quoted as `shell_word` does; no path is taken for an option.

    Example:
        >>> shell("hf-lorameta", "plan", "--dataset", "my rows.csv")
        "hf-lorameta plan --dataset 'my rows.csv'"
        >>> shell("hf-lorameta", "try", Path("-x"))
        'hf-lorameta try ./-x'
    """
    return " ".join(
        shell_word(f"./{word}" if isinstance(word, Path) and str(word)[0] == "-" else str(word))
        for word in words
    )


def option_words(options: Mapping[str, object]) -> list[str]:
    """Return options as words of a command.

    Args:
        options: by their names in Python. None and an empty text are left out; True and False are
            those of a switch.

    Example:
        >>> option_words({"create_pr": True, "private": False, "max_rows": 500, "split": None})
        ['--create-pr', '--public', '--max-rows', '500']
    """
    words = []
    for name, value in options.items():
        if value is None or value == "":
            continue
        name = _OPPOSITES.get(name, f"no_{name}") if value is False else name
        words.append(f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            words.append(str(value))
    return words


def command(*words: str, **options: object) -> str:
    """Return a command of this package with options, see `option_words`.

    Example:
        >>> command("plan", "my rows.csv", top_k=3)
        "hf-lorameta plan 'my rows.csv' --top-k 3"
    """
    return shell("hf-lorameta", *words, *option_words(options))


def shell_file(text: str, name: str) -> str:
    r"""Return a command that writes a text of lines to a file, one line of it on each line.

    All are in quotes, since PowerShell would take a line for a command.

    Example:
        >>> print(shell_file("FROM a\nEOF\n", "Modelfile"))
        printf '%s\n' \
            'FROM a' \
            'EOF' > Modelfile
    """
    words = map(shell_word, text.removesuffix("\n").split("\n"))
    lines = (word if word[0] in "'\"" else f"'{word}'" for word in words)
    return " \\\n    ".join(["printf '%s\\n'", *lines]) + f" > {shell_word(name)}"


def python_literal(text: str) -> str:
    r"""Return a text as a Python string literal on one line.

    Example:
        >>> print(python_literal('say "hi"\u2028'))
        "say \"hi\"\u2028"
    """
    literal = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in literal)


def fenced(code: str, language: str) -> str:
    r"""Return a block of code in Markdown, with a fence that the code does not contain.

    Example:
        >>> fenced("a", "bash"), fenced("```", "bash")
        ('```bash\na\n```', '````bash\n```\n````')
    """
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", code)), 3)
    return f"{fence}{language}\n{code}\n{fence}"


def _octal(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is not UTF-8
    encoded = character.encode("utf-8", "surrogateescape" if is_byte else "replace")
    return "".join(f"\\{byte:03o}" for byte in encoded)
