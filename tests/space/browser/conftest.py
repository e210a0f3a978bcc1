"""A browser for all of these tests, and a visitor whose page must end without errors.

Other tests in this process cannot use asyncio while it runs, so they are outside this folder.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Shell, Web
from tests.space.forbidden_words import forbidden_words
from tests.support.running_space import Visitor, browser


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="package")
def context(chromium: Any) -> Any:
    """A context of the browser for visitors one after another."""
    return chromium.new_context()


@pytest.fixture
def visitor(web: Web, chromium: Any, context: Any, cli: Shell) -> Iterator[Visitor]:
    """A visitor; at the end, the page must have contacted no other host and logged no error."""
    visitor = Visitor(chromium, web.space.url, context=context)
    try:
        yield visitor
        assert visitor.foreign_requests() == []
        assert visitor.errors == []
        assert web.owner.token not in visitor.page.content()
        assert forbidden_words(visitor.visible_text()) == []
    finally:
        visitor.close()
    assert web.space.settled() == []
