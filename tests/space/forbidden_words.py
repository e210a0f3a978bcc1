"""Words that must not be visible on the page: options, names of exceptions, jargon."""

import re

FORBIDDEN = re.compile(
    r"(?<![\w-])--[a-z]|\b\w+(?:Error|Exception)\b|Traceback|\bscopes?\b|effective number"
    r"|lie of the land|/tmp/|site-packages|\bhf_[A-Za-z0-9]{8,}|\bsni__|\btask\d{3}",
)


def forbidden_words(text: str) -> list[str]:
    """Return the forbidden words of a text."""
    return FORBIDDEN.findall(text)
