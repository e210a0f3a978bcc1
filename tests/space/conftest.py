"""Let tests import the modules of the Space, after those of all packages, and Gradio quickly."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Account, Shell, Web
from tests.support import no_stubs  # noqa: F401 - its import is enough
from tests.support.running_space import ROOT, SPACE, running_space

sys.path.append(str(SPACE))

HELD = """
import sys, time; sys.path.append({root!r})
from pathlib import Path
from tests.support.fast_training import fast_training; fast_training(steps=12)
from hf_lorameta.engines import scoring; scoring.MAX_NEW_TOKENS = 8
from hf_lorameta.training.trainer import Trainer
from work.trying import Model
home, load, step = Path({home!r}), Model.load, Trainer.step
def load_unless_held(model, job):
    while (home / "hold-loading").exists() and not job.stopped:
        time.sleep(0.02)
    return load(model, job)
def step_unless_held(*arguments):
    while (home / "hold-training").exists():
        time.sleep(0.02)
    step(*arguments)
Model.load, Trainer.step = load_unless_held, step_unless_held
"""
"""Code to run before a Space: while a file exists, it loads no model, or trains nothing."""


@pytest.fixture(scope="session")
def own_space(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A Space on the machine of its owner, whose token is saved there, with four places in line."""
    owner, home = enrol(), tmp_path_factory.mktemp("own")
    with running_space(
        world.hub, home, token=owner.token, HF_LORAMETA_QUEUE="4", HF_LORAMETA_MAX_UPLOAD_MB="1",
        HF_HUB_DOWNLOAD_TIMEOUT="600",
    ) as space:  # fmt: skip
        yield Web(space, owner)


@pytest.fixture(scope="session")
def tiny_space(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """A Space with a tiny base model, in float32, which trains and counts unasked."""
    from tests.support.tiny_bank import tiny_bank

    owner, home = enrol(), tmp_path_factory.mktemp("tiny")
    with running_space(
        world.hub, home, token=owner.token, on_hub=True, HF_LORAMETA_NO_BASE="",
        before=HELD.format(root=str(ROOT), home=str(home)),
        HF_LORAMETA_BANK=str(tiny_bank().folder),
        ONEDNN_MAX_CPU_ISA="AVX2",  # which is slow in bfloat16
    ) as space:  # fmt: skip
        yield Web(space, owner)


@pytest.fixture
def holds(tiny_space: Web) -> Iterator[tuple[Path, Path]]:
    """The files that hold the loading of the base model and trainings of the Space, see `HELD`."""
    home = tiny_space.space.log.parent
    files = home / "hold-loading", home / "hold-training"
    yield files
    for file in files:
        file.unlink(missing_ok=True)  # later tests of this Space would wait for ever
