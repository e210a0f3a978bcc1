"""What `tests.benchmarks.space_page` repeats many times, a few times each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Web
from tests.support.fault_hub import FaultHub
from tests.support.running_space import Visitor, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from tests.benchmarks.space_page import WAYS, Repetitions, create_datasets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repetitions(
    web: Web, chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repetitions]:
    hub = web.space.hub
    assert isinstance(hub, FaultHub)
    create_datasets(hub)
    visitor = Visitor(chromium, web.space.url)
    try:
        yield Repetitions(visitor, hub, tmp_path_factory.mktemp("repeated"))
        assert visitor.errors == []
    finally:
        visitor.close()


@pytest.mark.parametrize(
    ("action", "times"),
    [
        (Repetitions.search, 4),
        (Repetitions.slow_dataset_then_file, 1),
        (Repetitions.file_then_slow_dataset, 1),
        (Repetitions.cancel, 4),
    ],
)
def test_the_page_is_right_each_time(
    repetitions: Repetitions, action: Callable[[Repetitions], bool], times: int
) -> None:
    assert [action(repetitions) for _ in range(times)] == [True] * times


@pytest.mark.parametrize("way", WAYS)
def test_a_role_that_was_chosen_is_kept(repetitions: Repetitions, way: str) -> None:
    for slowdown in (1, 6):
        with repetitions.slowed(slowdown):
            assert repetitions.choose_role(way)
