"""Publishing with care: look at the target first, then commit to what was looked at.

A repo is created only when the adapter is finished; an existing one keeps its visibility, and its
files are not replaced without consent.
"""

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.scores_section import MeasuredScores, with_scores
from hf_lorameta.environment import cache_dir
from hf_lorameta.errors import (
    AdapterError,
    AuthError,
    ConflictError,
    ConnectionLostError,
    LoraMetaError,
    UsageError,
)
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.visibility import check_visibility
from hf_lorameta.pipeline.adapter_folder import EXPORTS, FILES, read_provenance

STAGING_FOLDER = "outbox"


@dataclass(frozen=True)
class Target:
    """Where an adapter is going.

    Attributes:
        repo_id: ``user/name``.
        existing: the repo as it was looked at, None if it has to be created.
        private: visibility after publishing.
        create_pr: propose instead of commit.
        replaces: files already there that would be replaced.
    """

    repo_id: str
    existing: PinnedRepo | None
    private: bool
    create_pr: bool
    replaces: tuple[str, ...]


def default_repo_id(user: str, dataset: str, base_model: str) -> str:
    """A name for a dataset's adapter.

    Example:
        >>> default_repo_id("ann", "bob/Good Book", "HuggingFaceTB/SmolLM2-135M-Instruct")
        'ann/Good-Book-SmolLM2-135M-Instruct-lorameta'
    """
    stem = re.sub(r"\.(jsonl|ndjson|json|csv|tsv|parquet)$", "", Path(dataset).name, flags=re.I)
    name = "-".join([stem, base_model.split("/")[-1], "lorameta"])
    name = re.sub(r"[^A-Za-z0-9._]+", "-", name).replace("..", ".").strip("-.")
    return f"{user}/{name[: 96 - len(user) - 1].strip('-.')}"


def resolve_target(
    repo_id: str,
    *,
    private: bool | None = None,
    dataset_private: bool = False,
    create_pr: bool = False,
    token: str | None = None,
) -> Target:
    """Look at the target before any work is done.

    Args:
        repo_id: target.
        private: what was asked for; None decides by the dataset.
        dataset_private: strangers cannot see the dataset.
        create_pr: propose instead of commit.
        token: None uses the saved one.

    Raises:
        AuthError: no valid token.
        ConflictError: the existing repo has another visibility than was asked for, or is public
            while the dataset is private.
        UsageError: a pull request to a repo that does not exist.
    """
    hub = Hub(token)
    hub.user()
    existing = hub.existing(repo_id)
    if existing is None:
        if create_pr:
            raise UsageError(f"{repo_id} does not exist: nothing to open a pull request on")
        return Target(repo_id, None, dataset_private if private is None else private, False, ())
    check_visibility(
        existing,
        private,
        source_private=dataset_private,
        hint="name another with --repo-id",
    )
    replaces = tuple(sorted({*FILES, *EXPORTS} & set(existing.files)))
    return Target(repo_id, existing, existing.private, create_pr, replaces)


def check_no_overwrite(target: Target) -> None:
    """Insist on consent before files of an existing repo are replaced.

    Raises:
        ConflictError: a commit would replace files; a pull request only proposes to.
    """
    if target.replaces and not target.create_pr:
        raise ConflictError(
            f"{target.repo_id} already holds {', '.join(target.replaces)}",
            hint="add --yes to replace them, --create-pr to propose, or --repo-id for another repo",
        )


def publish_folder(folder: Path, target: Target, *, token: str | None = None) -> str:
    """Read a finished folder back and publish it in one commit.

    Returns:
        URL of the repo or of the pull request.

    Raises:
        AdapterError: the folder is not a whole generated adapter.
        ConflictError: the repo changed since `resolve_target`.
        ConnectionLostError: the connection was lost; the folder is untouched.
    """
    made = read_provenance(folder)
    return Hub(token).publish(
        folder,
        target.repo_id,
        message=f"LoRA adapter for {made['base_model_name_or_path']}, generated without training",
        private=target.private,
        parent=target.existing,
        create_pr=target.create_pr,
        only=(*FILES, *EXPORTS),
        delete=stale_exports(folder, target),
    )


def resolve_card_repo(
    name: str, *, create_pr: bool = False, token: str | None = None
) -> PinnedRepo | None:
    """Before the work of scoring an adapter: whether its card can be written.

    Args:
        name: folder, or Hub id.
        create_pr: the card of a repo is to be proposed.
        token: None uses the saved one.

    Returns:
        The repo as it stands; None for a folder.

    Raises:
        AuthError: no valid token.
        NotFoundError: no such repo.
        UsageError: a pull request to a folder.
    """
    if Path(name).expanduser().is_dir():
        if create_pr:
            raise UsageError(f"{name} is a folder: nothing to open a pull request on")
        return None
    hub = Hub(token)
    hub.user()
    return hub.resolve(name, "model")


def save_scores(
    folder: Path,
    measured: MeasuredScores,
    repo: PinnedRepo | None,
    *,
    create_pr: bool = False,
    token: str | None = None,
) -> str:
    """Write scores into the card of an adapter, in its folder or in one commit to its repo.

    Args:
        folder: the adapter, of a repo at the commit that was scored.
        measured: the scores.
        repo: the repo at that commit; None if the folder is all there is.
        create_pr: propose the card instead of committing it.
        token: None uses the saved one.

    Returns:
        Path of the card, or URL of the repo or the pull request.

    Raises:
        AdapterError: the card is missing or cannot be read, or not be written.
        ConflictError: the repo changed since it was scored.
        AuthError: no right to write there.
    """
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")
        fresh = with_scores(text, measured, repo.repo_id if repo else None).encode()
        if repo is None:
            write_atomically(folder / CARD_FILE, fresh)
            return str(folder / CARD_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{folder / CARD_FILE} cannot be read and written: {error}") from None
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / CARD_FILE).write_bytes(fresh)
        try:
            return Hub(token).publish(
                Path(scratch),
                repo.repo_id,
                message=f"Scores on {measured.rows} rows",
                private=repo.private,
                parent=repo,
                create_pr=create_pr,
            )
        except AuthError as error:
            if not create_pr:
                error.hint = f"{error.hint}, or add --create-pr to propose the card"
            raise


def stale_exports(folder: Path, target: Target) -> tuple[str, ...]:
    """Exports of the adapter that is replaced, where the new one has none: they would mislead.

    Args:
        folder: what will be published.
        target: where to. A ``Modelfile`` without a GGUF beside it is not ours and stays.
    """
    there = set(target.existing.files if target.existing else ())
    if EXPORTS[0] not in there:
        return ()
    return tuple(name for name in EXPORTS if name in there and not (folder / name).exists())


@contextmanager
def preserve_on_failure(folder: Path, target: Target) -> Iterator[None]:
    """Empty the outbox after publishing; after an error, say where the folder is and how to go on.

    Raises:
        LoraMetaError: the same error, its hint extended.
    """
    try:
        yield
        if folder.resolve().parent == _staging_root():  # never a folder of the user's own
            shutil.rmtree(folder)
    except LoraMetaError as error:
        flags = " --private" if target.private else " --public"
        if target.create_pr:
            flags += " --create-pr"
        elif target.replaces or isinstance(error, ConnectionLostError):  # it may have arrived
            flags += " --yes"
        command = f"hf-lorameta push --from {shlex.quote(str(folder))} --repo-id {target.repo_id}"
        error.hint = f"{error.hint}; the adapter is kept, go on with: {command}{flags}".lstrip("; ")
        raise


def _staging_root() -> Path:
    return cache_dir().resolve() / STAGING_FOLDER


def staging_dir(repo_id: str) -> Path:
    """A new folder where a finished adapter waits until it is published.

    Raises:
        AdapterError: it cannot be made.
    """
    parent = _staging_root()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{repo_id.replace('/', '--')}-", dir=parent))
    except OSError as error:
        raise AdapterError(
            f"{parent} cannot be used: {error.strerror}",
            hint="set HF_LORAMETA_CACHE or HF_HOME to a folder with space that can be written",
        ) from None
