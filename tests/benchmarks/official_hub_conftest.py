"""Fixtures of huggingface_hub's own tests, which its source distribution lacks.

`tests.benchmarks.official_hub_tests` copies this file beside the tests as ``conftest.py``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoUrl, constants

from .testing_constants import ENDPOINT_STAGING, TOKEN, USER
from .testing_utils import repo_name

RepoFactory = Callable[..., RepoUrl]


@pytest.fixture(scope="session")
def api() -> HfApi:
    """The client of the main test user."""
    return HfApi(endpoint=ENDPOINT_STAGING, token=TOKEN)


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    """Create repos that are deleted after the test."""
    made: list[tuple[RepoUrl, str | None]] = []

    def make(
        repo_type: str = "model", repo_id: str | None = None, token: str | None = None, **kind: Any
    ) -> RepoUrl:
        url = api.create_repo(repo_id or repo_name(), repo_type=repo_type, token=token, **kind)
        made.append((url, token))
        return url

    yield make
    for url, token in made:
        api.delete_repo(url.repo_id, repo_type=url.repo_type, token=token, missing_ok=True)


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    """The id of a model that the test creates, deleted after it."""
    repo_id = f"{USER}/{repo_name()}"
    yield repo_id
    api.delete_repo(repo_id, missing_ok=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    cache: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def fx_cache_dir(request: pytest.FixtureRequest, own_cache: Path) -> None:
    """Set ``cache_dir`` on a test class."""
    request.cls.cache_dir = own_cache
