"""The examples in the docstrings of the Space."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.support.running_space import SPACE, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

MODULES = sorted(path for path in SPACE.rglob("*.py") if ">>>" in path.read_text("utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SPACE)))
def test_examples_in_docstrings(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(SPACE).with_suffix("").parts))
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (found.failed, found.attempted > 0) == (0, True)
