"""Errors and remarks in tests: by their codes, since words change."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from hf_lorameta.errors import LoraMetaError
from hf_lorameta.remarks import Remark


@contextmanager
def raises_code(
    code: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[LoraMetaError]]:
    """Check that an error with this code is raised; `match` is for names and figures in it."""
    with pytest.raises(LoraMetaError, match=match) as raised:
        yield raised
    assert raised.value.code == code, raised.value


def codes_of(remarks: Iterable[Remark]) -> list[str]:
    """Return the codes of remarks."""
    return [remark.code for remark in remarks]
