"""The progress of long commands where no bar can be shown, and the bars that ``-q`` hides."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_lorameta.cli import output
from tests.cli.conftest import EVERY_LINE, Published, fake_evaluator
from tests.conftest import Account, Built, Shell


@pytest.mark.parametrize(
    ("steps", "total", "lines"),
    [
        (
            [(0, 0.0), (1, 20.0), (2, 25.0), (3, 60.0)], 4,
            ["1 of 4, about 60 s left", "3 of 4, about 20 s left"],
        ),
        ([(80, 0.0), (90, 20.0)], 100, ["90 of 100, about 20 s left"]),  # after an earlier run
        ([(0, 0.0), (500, 5.0), (1100, 11.0)], 0, ["1100"]),
    ],
)  # fmt: skip
def test_lines_state_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    steps: list[tuple[int, float]],
    total: int,
    lines: list[str],
) -> None:
    now = 0.0
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: now))
    for level in (logging.INFO, logging.WARNING):
        with caplog.at_level(level, "hf_lorameta"), output.stage_bars() as progress:
            for done, now in steps:  # noqa: B007
                progress("Fitting", done, total)
            now = 0.0
    assert caplog.messages == [f"  Fitting: {line}" for line in lines]


STEPS = "done(0); done(2)"


def test_a_long_command_shows_the_time_left(cli: Shell, published: Published) -> None:
    before = EVERY_LINE + fake_evaluator(STEPS)
    shown = cli("evaluate", published.repo, "-d", published.dataset, before=before)
    for stage in ("base", "adapter"):
        assert re.search(rf"^ +{stage}: \d+ of \d+, about .+ left$", shown.err, re.MULTILINE)


def test_reading_and_verifying_are_reported(
    cli: Shell, bank: Built, data: Path, published: Published, user: Account
) -> None:
    def shown(*command: object) -> str:
        return cli(*command, before=EVERY_LINE + fake_evaluator(), token=user.token).err

    assert "  Reading rows: 0\n" in shown("plan", data, "--bank", bank.folder)
    assert "  Reading rows: 0\n" in shown("evaluate", published.repo, "-d", published.dataset)
    push = ("bank", "push", bank.folder, f"{user.name}/bank-progress")
    for command in (("bank", "verify", bank.folder), push):
        assert re.search(r"^  Verifying files: 1 of \d+", shown(*command), re.MULTILINE)
        assert shown(*command, "-q") == ""


LOADING = """
import functools, sys
from hf_lorameta.cli.app import app, main
[command] = [c for c in app.registered_commands if c.name == "evaluate"]
run = command.callback

@functools.wraps(run)
def with_bars(**options):  # importing what is replaced imports the libraries
    exec({fake!r}, globals())
    fake = evaluate.open_evaluator
    def open_evaluator(*arguments):
        from huggingface_hub.utils import tqdm as hub_bar
        from tqdm.auto import tqdm as transformers_bar  # dequantizing uses it as it is
        for bar in (hub_bar([1], desc="Fetching"), transformers_bar([1], desc="De-quantizing")):
            list(bar)
        return fake(*arguments)
    evaluate.open_evaluator = open_evaluator
    run(**options)

command.callback = with_bars
main(sys.argv[1:])
"""


def test_bars_of_fetching_and_dequantizing_the_base_model_obey_quiet(
    cli: Shell, published: Published
) -> None:
    """In a process of its own: the libraries read the setting when they are imported."""
    command = [sys.executable, "-c", LOADING.format(fake=fake_evaluator()), "evaluate",
               published.repo, "-d", published.dataset]  # fmt: skip
    env = {name: value for name, value in cli.env().items() if "PROGRESS_BARS" not in name}
    for options in ([], ["-q"]):
        done = subprocess.run(
            [*command, *options], env=env, cwd=cli.cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        shown = [name in done.stderr for name in ("Fetching", "De-quantizing")]
        assert shown == [False, not options]  # the Hub's bars are for terminals
        if options:
            assert done.stderr == ""
