"""Make the wheel next to this file importable."""

import re
import sys
import tempfile
import zipfile
from pathlib import Path

_unpacked: list[tempfile.TemporaryDirectory[str]] = []
"""Keeps the folder until the process exits."""


def unpack_wheel() -> None:
    """Unpack the wheel, if there is one, into a temporary folder and put it first in ``sys.path``.

    Of several wheels, the latest version is taken. A wheel of pure Python is installed by unpacking
    it. requirements.txt cannot name it: the Hub installs requirements before it copies the repo's
    other files.
    """
    wheels = list(Path(__file__).parent.glob("hf_lorameta-*.whl"))
    if not wheels:
        return  # a checkout, where the package is installed
    latest = max(wheels, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    folder = tempfile.TemporaryDirectory(prefix="hf-lorameta-wheel-")
    with zipfile.ZipFile(latest) as archive:
        archive.extractall(folder.name)
    sys.path.insert(0, folder.name)
    _unpacked.append(folder)
