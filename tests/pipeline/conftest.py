"""A small dataset with and without outputs, and a bank for a tiny base model."""

from pathlib import Path

import pytest

from hf_lorameta import Bank, Plan, Recipe
from hf_lorameta.pipeline.plan import plan_from_reading
from hf_lorameta.pipeline.read import ReadDataset
from tests.support.tiny_bank import tiny_bank as tiny_bank_of_this_run
from tests.training import tiny


def with_recipe(of: Plan, recipe: Recipe) -> Plan:
    """Plan again with other settings, without reading the dataset again."""
    reading = ReadDataset(of.dataset, recipe, of.profile, of.output_counts, of.example)
    return plan_from_reading(reading, of.bank)


@pytest.fixture(scope="session")
def tiny_bank() -> Bank:
    """A bank that was trained for a random base model, which is a folder on this machine."""
    return tiny_bank_of_this_run()


@pytest.fixture(scope="session")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a topic that the banks for tiny base models do not have."""
    return tiny.write_task(tmp_path_factory.mktemp("new"), "topic3", tiny.rows(3))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Fifty rows; every fifth has no output."""
    rows = [{"input": f"question {i}", "output": "" if i % 5 == 4 else f"{i}"} for i in range(50)]
    return tiny.write_task(tmp_path, "rows", rows)
