"""The metadata of a README."""

import re
from typing import Any

import yaml

_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def metadata(text: str) -> dict[str, Any]:
    """Return the YAML metadata of a README; empty if it is missing or not valid."""
    try:
        data = parse(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


class _TextDates(yaml.SafeLoader):
    """YAML loader that keeps timestamps as text, so that all values are JSON values."""


_TextDates.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> Any:
    """Return the YAML metadata of a README as it is; None if there is none."""
    block = _BLOCK.match(text)
    return yaml.load(block[1], Loader=_TextDates) if block else None
