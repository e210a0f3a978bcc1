"""Makes the wheel beside this file importable, before anything else is imported."""

import sys
import tempfile
import zipfile
from pathlib import Path


def unpack() -> None:
    """Unpack the wheel, if there is one, into a folder of this process, and look there first.

    It holds Python and data only, so that unpacking is installing. A Space cannot name it in
    requirements.txt: those are installed before the repo's other files are there.
    """
    wheels = sorted(Path(__file__).parent.glob("hf_lorameta-*.whl"))
    if not wheels:
        return  # a checkout: the package is installed
    holder = tempfile.TemporaryDirectory(prefix="hf-lorameta-wheel-")
    with zipfile.ZipFile(wheels[-1]) as archive:
        archive.extractall(holder.name)
    sys.path.insert(0, holder.name)
    _KEPT.append(holder)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Alive as long as the process; removed with it."""
