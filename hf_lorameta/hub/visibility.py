"""Check the visibility of an existing repo before anything is published to it."""

from hf_lorameta.errors import ConflictError
from hf_lorameta.hub.repo import PinnedRepo


def check_visibility(
    existing: PinnedRepo,
    private: bool | None,
    *,
    source_private: bool = False,
    source: str = "a dataset or adapter that it is made from is private",
    hint: str = "name another repo",
) -> None:
    """Raise ConflictError if a repo's visibility is not as requested or exposes private content.

    ``create_repo(exist_ok=True)`` does not check: it ignores `private` when the repo exists.

    Args:
        existing: the target.
        private: requested visibility; None keeps the repo's own.
        source_private: whether what is published derives from private repos or files.
        source: clause that says what is private, for the message.
        hint: how to choose another target.
    """
    if private is not None and private != existing.private:
        actual, requested = ("private", "public") if existing.private else ("public", "private")
        raise ConflictError(
            f"{existing.repo_id} exists and is {actual}, but {requested} was requested",
            hint=f"change the visibility in the repo's settings on the Hub, or {hint}",
        )
    if private is None and source_private and not existing.private:
        raise ConflictError(
            f"{existing.repo_id} is public, but {source}",
            hint=f"add --public to publish it anyway, or {hint}",
        )
