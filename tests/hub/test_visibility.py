"""Visibility of an existing repo against the requested one."""

import pytest

from hf_lorameta.errors import ConflictError
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.visibility import check_visibility

PUBLIC, PRIVATE = (PinnedRepo("a/b", "model", "0" * 40, private=p) for p in (False, True))


def test_a_requested_visibility_that_differs_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match="a/b exists and is public, but private was requested"):
        check_visibility(PUBLIC, private=True)
    with pytest.raises(ConflictError, match="a/b exists and is private, but public was requested"):
        check_visibility(PRIVATE, private=False, hint="name another with --repo-id")


def test_a_private_source_needs_consent_to_become_public() -> None:
    with pytest.raises(ConflictError, match="is public, but 2 entries are private") as caught:
        check_visibility(PUBLIC, None, source_private=True, source="2 entries are private")
    assert caught.value.hint == "add --public to publish it anyway, or name another repo"
    check_visibility(PUBLIC, private=False, source_private=True)
    check_visibility(PRIVATE, None, source_private=True)
    check_visibility(PUBLIC, None)
