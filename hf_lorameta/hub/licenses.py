"""The licenses that the Hub knows, and the license of a combination of works."""

import re
from collections.abc import Iterable

HUB_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0",
    "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl",
    "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research", "intel-research",
    "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
    "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma",
})  # fmt: skip
"""Values that the Hub accepts for ``license``, besides ``other`` and ``unknown``
(huggingface_hub issue 4218; the client library ships no such list)."""

_AND = "-and-"
SEVERAL, NAME_CHARACTERS = "several-licenses", 100
"""The license name if a list of all licenses is longer than so many characters."""


def combined_license(stated: Iterable[str | None]) -> tuple[str, str | None]:
    """Return the values of ``license`` and ``license_name`` on the card of a combination.

    If the works have no common license that the Hub knows, the first is ``other``, and the second
    lists each license, ``unknown`` if the authors state none.

    Example:
        >>> combined_license(["mit", "MIT"]), combined_license(["mit", None])
        (('mit', None), ('other', 'mit-and-unknown'))
    """
    names = sorted({name for value in stated for name in _license_names(value)})
    if len(names) == 1 and names[0] in HUB_LICENSES:
        return names[0], None
    name = _AND.join(names)
    return "other", SEVERAL if len(name) > NAME_CHARACTERS else name


def _license_names(stated: str | None) -> list[str]:
    """Return the names in a stated license, which may be one that `combined_license` has made.

    They are in the Hub's spelling: lower case, digits, dots, pluses and dashes.
    """
    words = re.findall(r"[a-z0-9.+]+", (stated or "").lower())
    return [name[:60] or "unknown" for name in "-".join(words).split(_AND)]
