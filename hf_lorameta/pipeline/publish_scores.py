"""Write measured scores into an adapter's card, in its folder or in one commit to its repo."""

import tempfile
from pathlib import Path

from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.scores_section import MeasuredScores, with_scores
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.pipeline.publish import suggest_pr


def resolve_card_repo(name: str, *, hub: Hub, create_pr: bool = False) -> PinnedRepo | None:
    """Check that an adapter's card can be written, before the adapter is scored.

    Returns:
        The repo at its present commit; None for a folder.

    Raises:
        AuthError: no valid token.
        NotFoundError: no such repo.
        UsageError: a pull request to a folder.
    """
    if Path(name).expanduser().is_dir():
        if create_pr:
            raise UsageError(
                f"{name} is a folder, so there is nothing to open a pull request on",
                hint=[Option("create_pr", change="leave out"), "name a repo"],
            )
        return None
    hub.check_token()
    return hub.resolve(name, "model")


def save_scores(
    folder: Path,
    scores: MeasuredScores,
    repo: PinnedRepo | None,
    *,
    hub: Hub,
    create_pr: bool = False,
) -> str:
    """Write scores into an adapter's card, in its folder or in one commit to its repo.

    Args:
        folder: the adapter; of a repo, at the commit that was scored.
        scores: what was measured.
        repo: the repo at that commit; None for a folder.
        hub: client with the account's token.
        create_pr: open a pull request instead of committing.

    Returns:
        Path of the card, or URL of the repo or the pull request.

    Raises:
        AdapterError: the card is missing or cannot be read or written.
        ConflictError: the repo changed since it was scored.
        AuthError: no right to write to the repo.
    """
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")
        card = with_scores(text, scores, repo.repo_id if repo else None).encode()
        if repo is None:
            write_atomically(folder / CARD_FILE, card)
            return str(folder / CARD_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{folder / CARD_FILE} cannot be read and written: {error}") from None
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / CARD_FILE).write_bytes(card)
        with suggest_pr(repo, create_pr):
            return hub.publish(
                Upload(Path(scratch)),
                repo.repo_id,
                message=f"Scores on {scores.rows} rows",
                private=repo.private,
                parent=repo,
                create_pr=create_pr,
            )
