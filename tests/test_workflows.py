"""The workflows run only what a commit names, with the least permissions."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools.job import JOBS, bounds

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PINNED = re.compile(r"uses: [\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
_JOB = re.compile(r"-m tests\.tools\.job (\w+)")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_with_its_version(path: Path) -> None:
    used = [line.strip(" -") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not _PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_have_only_the_permissions_that_they_name(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        expected = {"id-token": "write"} if name == "publish" else {"contents": "read"}
        assert job["permissions"] == expected
        for step in job["steps"]:
            if "actions/checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_new_versions_are_proposed_after_a_week() -> None:
    settings: Any = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    assert {update["cooldown"]["default-days"] for update in settings["updates"]} == {7}
    [hooks] = [
        repo
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        if repo["repo"] != "local"
    ]
    assert re.fullmatch("[0-9a-f]{40}", hooks["rev"])


def test_the_test_jobs_are_commands_that_run_here() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    called = {
        name: {word for step in job["steps"] for word in _JOB.findall(step.get("run", ""))}
        for name, job in workflow["jobs"].items()
    }
    assert called == {**{name: {name} for name in JOBS}, "workflows": set()}


@pytest.mark.parametrize(
    ("requirement", "message"),
    [("numpy", "numpy has no lower bound"), ("numpy>=2.1", "two lower bounds, 2.0 and 2.1")],
)
def test_each_dependency_has_one_lower_bound(requirement: str, message: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"numpy", "torch", "gradio", "pytest"} <= bounds(project).keys()
    with pytest.raises(ValueError, match=message):
        bounds({"name": "a", "dependencies": ["numpy>=2.0", requirement]})
