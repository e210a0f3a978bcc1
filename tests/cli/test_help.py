"""The help texts in the README files are those of the commands."""

from pathlib import Path

import pytest

from tests.help_blocks import ROOT, commands, readme_files, updated

FILES = [path for path in readme_files() if commands(path.read_text(encoding="utf-8"))]


def test_the_readme_files_show_help_texts() -> None:
    shown = {name for path in FILES for name in commands(path.read_text(encoding="utf-8"))}
    assert {"bank build", "bank pack", "space build"} <= shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_help_texts_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == updated(text), "run: python -m tests.help_blocks"
