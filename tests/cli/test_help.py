"""The generated parts of the README files are up to date."""

from pathlib import Path

import pytest

from tests.help_blocks import ROOT, blocks, readme_files, updated

FILES = [path for path in readme_files() if blocks(path.read_text(encoding="utf-8"))]


def test_the_guides_show_help_texts_and_methods() -> None:
    shown = {name for path in FILES for name in blocks(path.read_text(encoding="utf-8"))}
    assert {"bank build", "bank pack", "space build", "METRICS"} <= shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == updated(text), "run: python -m tests.help_blocks"
