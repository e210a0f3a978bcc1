"""Deselect the tests of the real Hub unless the marker ``network`` is named on the command line."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "network" in config.option.markexpr:
        return
    deselected = [item for item in items if item.get_closest_marker("network")]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]
