"""Rows to plan with, published adapters, and stand-ins for what runs the base model."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Account, Built, Shell, rows

FAKE_BASE = """
import hf_lorameta.engines.transformers.evaluator
import hf_lorameta.pipeline.session
from tests.pipeline.test_check import FakeBase
hf_lorameta.engines.transformers.evaluator.require_eval = lambda: None
hf_lorameta.pipeline.session.Session.fetch_base_model = lambda session: None
hf_lorameta.pipeline.session.Session.evaluator = FakeBase({best})
"""
FAKE_EVALUATOR = """
from hf_lorameta.pipeline import evaluate
from hf_lorameta.engines.scoring import Scores

class FakeEvaluator:
    def __init__(self):
        self.adapters = []

    scored_form = None

    def evaluate(self, rows, adapter=None, generate=True, done=None):
        {meanwhile}
        if adapter:
            self.adapters.append(adapter)
        loss = 0.5 ** len(self.adapters) if adapter else 1.0 if "\\n\\n" in rows[0][0] else 2.0
        return Scores(loss, 0.25, 0.125, 0.5, len(rows)), [output for _, output in rows]

evaluate.open_evaluator = lambda *args: FakeEvaluator()
"""
EVERY_LINE = "import hf_lorameta.cli.output as output; output._REPORT_SECONDS = -1.0\n"
"""Code to run before a command: each step of a progress is a line."""
NO_EXTRAS = "import importlib.util as u; u.find_spec = lambda *_: None"
"""Code to run before a command: no optional package is installed."""


def fake_runner(best: float) -> str:
    """Return code to run before a command: its loss is lowest if the update has the norm `best`."""
    return FAKE_BASE.format(best=best)


TRAINED = """
from dataclasses import replace
import hf_lorameta.pipeline.train as train
from hf_lorameta.cards.results import Interruption, Outcome, Training

def run(stage, work, context):
    training = Training(8, steps=12, seen=8, labeled=8)
    stopped = Interruption("training", "The training was interrupted.") if {interrupted} else None
    outcome = Outcome(training, interrupted=stopped)
    return replace(work, outcome=outcome)

train.Train.run = run
"""


def trained(*, interrupted: bool = False) -> str:
    """Return code to run after that of `fake_runner`: a training of 12 steps, or Ctrl-C then."""
    return TRAINED.format(interrupted=interrupted)


def fake_evaluator(meanwhile: str = "pass") -> str:
    """Return code to run before a command: fixed scores, and `meanwhile` while it scores."""
    return FAKE_EVALUATOR.format(meanwhile=meanwhile)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A local file with rows of topic 1."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(1))
    return path


class Published(NamedTuple):
    """An adapter repo, and the dataset repo that it was generated for."""

    repo: str
    dataset: str


@pytest.fixture
def published(cli: Shell, bank: Built, user: Account) -> Published:
    """An adapter repo and its dataset, which has a test split."""
    files = {"train.jsonl": rows(1), "test.jsonl": rows(1, 9)}
    dataset, repo = user.dataset("words", files), f"{user.name}/adapter"
    push = ("push", "-d", dataset, "--bank", bank.folder, "--repo-id", repo, "--rank", 2)
    cli(*push, token=user.token)
    return Published(repo, dataset)
