"""The progress that evaluate, demo, refine and ``bank fit`` report where no bar can be shown."""

from types import SimpleNamespace

import pytest

from hf_lorameta.cli import output


def test_lines_state_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now))
    for quiet in (False, True):
        with output.stage_bars(quiet) as progress:
            for done, now in enumerate((0.0, 20.0, 25.0, 60.0)):  # noqa: B007
                progress("Fitting", done, 4)
            now = 0.0
    assert capsys.readouterr().err.splitlines() == [
        "  Fitting: 1 of 4, about 60 s left",
        "  Fitting: 3 of 4, about 20 s left",
    ]
