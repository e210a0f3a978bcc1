"""Publish an adapter folder to the Hub in one commit.

The target repo is resolved before any work is done, and the commit is refused if the repo has
changed since. A repo is created only when the adapter is finished. An existing repo keeps its
visibility, and its files are replaced only with consent.

The command line, the Python API and the Space take the same steps: `target_for_dataset`, or
`resolve_target` for an adapter that is already made; then the adapter is made and saved; then
`publish_folder` or, if the user can run a command to resume, `publish_or_keep`.
"""

import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.bank.bank import Bank
from hf_lorameta.caches import delete_outdated, writable_cache
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.data.sources.formats import stem
from hf_lorameta.errors import (
    AdapterError,
    AuthError,
    ConflictError,
    ConnectionLostError,
    LoraMetaError,
    Option,
    UsageError,
)
from hf_lorameta.files import sha256, writing
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.errors import ForbiddenError, UnexpectedAnswerError, UnsupportedError
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo, check_visibility
from hf_lorameta.pipeline.adapter_folder import (
    COEFFICIENTS_FILE,
    EXPORTS,
    PICTURES,
    SavedAdapter,
    is_own_file,
    made_of,
    read_adapter,
)
from hf_lorameta.pipeline.plan_data import has_private_source
from hf_lorameta.quoting import command

STAGING_FOLDER = "staging"

_ARRIVED = (ConnectionLostError, UnexpectedAnswerError, OSError, KeyboardInterrupt)
"""Errors after which what was sent may have arrived."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """The repo that an adapter will be published to.

    Attributes:
        repo_id: ``user/name``.
        existing: the repo at its current commit; None if it has to be created.
        private: visibility after publishing.
        create_pr: open a pull request instead of committing.
        replaces: names of the files in the repo that a commit would replace.
    """

    repo_id: str
    existing: PinnedRepo | None
    private: bool
    create_pr: bool
    replaces: tuple[str, ...]

    def options(self, replace: bool) -> dict[str, Any]:
        """Return the options of ``push`` for this repo, with consent to replace files or not."""
        return {
            "repo_id": self.repo_id,
            "private": self.private,
            "create_pr": self.create_pr or None,
            "overwrite": (replace and not self.create_pr) or None,
        }


class Consent(NamedTuple):
    """How a user wants an adapter to be published.

    Attributes:
        private: the visibility asked for; None makes a repo private if a source is private.
        create_pr: open a pull request instead of committing, which needs no consent.
        overwrite: replace files of an existing repo.
    """

    private: bool | None = None
    create_pr: bool = False
    overwrite: bool = False


NO_CONSENT = Consent()


class Published(NamedTuple):
    """What was published, or in a dry run would be.

    Attributes:
        folder: the adapter.
        target: its repo.
        deleted: files of a replaced adapter that the new one lacks and that would be misleading.
        url: of the repo or of the pull request; None in a dry run.
    """

    folder: Path
    target: Target
    deleted: tuple[str, ...]
    url: str | None


def default_repo_id(user: str, dataset: str, base_model: str) -> str:
    """Return a repo name for a dataset's adapter.

    Example:
        >>> default_repo_id("ann", "bob/Good Book", "HuggingFaceTB/SmolLM2-135M-Instruct")
        'ann/Good-Book-SmolLM2-135M-Instruct-lorameta'
        >>> default_repo_id("ann", "rows.jsonl", "/models/tiny.gguf")
        'ann/rows-tiny-lorameta'
        >>> default_repo_id("ann", "rows.conll", "org/tiny")
        'ann/rows-tiny-lorameta'
        >>> default_repo_id("ann", "notes...final.csv", "org/tiny")  # the Hub refuses ".."
        'ann/notes.final-tiny-lorameta'
    """
    base = base_model.split("/")[-1].removesuffix(".gguf")
    name = "-".join([stem(dataset), base, "lorameta"])
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._]+", "-", name)).strip("-.")
    return f"{user}/{name[: 96 - len(user) - 1].strip('-.')}"


def target_for_dataset(
    dataset: DatasetInfo,
    bank: Bank,
    hub: Hub,
    repo_id: str | None,
    consent: Consent = NO_CONSENT,
    *,
    name: str,
    dry_run: bool = False,
) -> Target:
    """Check that an adapter for a dataset can be published, and return its target repo.

    Args:
        dataset: the dataset.
        bank: the bank.
        hub: client.
        repo_id: target; None names it after the dataset and the base model.
        consent: what the user wants.
        name: of the dataset, as the user named it.
        dry_run: see `resolve_target`.

    Raises:
        UsageError: the name of a public repo would reveal that of a private dataset.
        LoraMetaError: as `resolve_target` raises.
    """
    if repo_id is None and dataset.public_id is None and consent.private is False:
        raise UsageError(
            "the dataset is private or a local file, and a public repo named after it would reveal "
            "its name",
            code="repo.name-reveals-dataset",
            hint=Option("repo_id", "user/name"),
        )
    if repo_id is None and dry_run and not hub.has_token:
        raise AuthError(
            "the repo is named after your account, and no Hub token is saved",
            code="token.none",
            hint=[Option("repo_id", "user/name"), "hf auth login"],
        )
    return resolve_target(
        repo_id or default_repo_id(hub.user(), name, bank.index.base_model),
        consent,
        source_private=has_private_source(dataset, bank),
        proposed=dataset.proposed,
        hub=hub,
        dry_run=dry_run,
    )


def resolve_target(
    repo_id: str,
    consent: Consent = NO_CONSENT,
    *,
    source_private: bool = False,
    proposed: bool = False,
    hub: Hub,
    dry_run: bool = False,
) -> Target:
    """Check that an adapter can be published to a repo, before any work, and return that repo.

    Args:
        repo_id: target, ``user/name``.
        consent: what the user wants.
        source_private: whether the adapter's dataset, or a part of the bank, is private.
        proposed: see `hf_lorameta.data.dataset.DatasetInfo`.
        hub: client.
        dry_run: nothing will be published, so no token is needed.

    Raises:
        AuthError: no valid token.
        ConflictError: the existing repo does not have the visibility asked for, or is public while
            `source_private` is true; or a commit would replace files without consent.
        UsageError: a pull request to a repo that does not exist, or a public repo for an adapter
            whose proposed instruction may name classes of private data.
    """
    if consent.private is False and proposed:
        raise UsageError(
            "the repo would be public, and the instruction in the adapter's files was made from a "
            "dataset that is not: it is private, gated or a local file",
            code="repo.instruction-reveals-dataset",
            hint=Option("instruction", "Classify the text.", "generate with"),
        )
    if hub.has_token or not dry_run:
        hub.check_token()
    existing = hub.existing(repo_id)
    source_private |= proposed
    if existing is None:
        if consent.create_pr:
            raise UsageError(
                f"{repo_id} does not exist, so there is nothing to open a pull request on",
                code="repo.none-for-pull-request",
                hint=Option("create_pr", change="leave out"),
            )
        private = source_private if consent.private is None else consent.private
        return Target(repo_id, None, private, False, ())
    check_visibility(existing, consent.private, source_private=source_private)
    replaces = tuple(sorted(filter(is_own_file, existing.files)))
    if replaces and not (consent.overwrite or consent.create_pr):
        raise ConflictError(
            f"{repo_id} already holds {', '.join(replaces)}",
            code="repo.holds-files",
            hint=[
                Option("overwrite", True),
                Option("create_pr", True),
                "name another repo",
            ],
        )
    return Target(repo_id, existing, existing.private, consent.create_pr, replaces)


def publish_folder(folder: Path, target: Target, hub: Hub, *, dry_run: bool = False) -> Published:
    """Read a finished folder to check it, and publish it in one commit.

    Args:
        folder: the adapter.
        target: from `resolve_target`.
        hub: client.
        dry_run: do everything but publish.

    Raises:
        AdapterError: the folder is not a complete generated adapter.
        ConflictError: the repo changed since `resolve_target`, or a file since it was checked; or
            the repo would be public, and a dataset that the adapter's files name no longer is.
        ConnectionLostError: the connection was lost; the folder is unchanged.
    """
    own = [name for name in _files(folder) if is_own_file(name)]
    digests = {name: sha256(folder / name) for name in own}  # before it is read
    adapter = read_adapter(folder).require_record()
    deleted = _stale_files(folder, target)
    if dry_run:
        return Published(folder, target, deleted, None)
    if not target.private:
        _require_public_datasets(adapter, hub)
    with _suggest_pr(target.existing, target.create_pr):
        url = hub.publish(
            Upload(folder, only=own, delete=deleted, digests=digests),
            target.repo_id,
            message=f"LoRA adapter for {adapter.config.base_model}",
            private=target.private,
            parent=target.existing,
            create_pr=target.create_pr,
        )
    return Published(folder, target, deleted, url)


def _require_public_datasets(adapter: SavedAdapter, hub: Hub) -> None:
    """Raise `ConflictError` if a dataset that an adapter's files name is not public any more."""
    for name in dict.fromkeys(made.dataset.id for made in made_of(adapter.record)):
        dataset = hub.existing(name, "dataset") if name else None
        if name and (dataset is None or dataset.private):
            raise ConflictError(
                f"{name}, which the adapter's files name, is not public any more, and the repo "
                "would be; nothing was published",
                code="dataset.not-public-any-more",
                hint=[Option("private", True), "generate it again"],
            )


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _suggest_pr(existing: PinnedRepo | None, create_pr: bool) -> Iterator[None]:
    """Advise a pull request if an error says that the user may not write to the repo."""
    try:
        yield
    except ForbiddenError as error:
        if existing is not None and not create_pr:
            error.advise(Option("create_pr", True))
        raise


def _stale_files(folder: Path, target: Target) -> tuple[str, ...]:
    """List the replaced adapter's files that the new one lacks and that would be misleading.

    A ``Modelfile`` without a GGUF next to it was not written by this package and is not listed.
    """
    existing = set(target.existing.files if target.existing else ())
    stale: tuple[str, ...] = EXPORTS if EXPORTS[0] in existing else ()
    if RECIPE_FILE in existing:
        stale += (COEFFICIENTS_FILE, CHART_FILE, *PICTURES)
    return tuple(name for name in stale if name in existing and not (folder / name).exists())


def publish_or_keep(folder: Path, target: Target, hub: Hub, *, dry_run: bool = False) -> Published:
    """Publish a folder, then delete it if it was made by `staging_folder`; keep it on failure.

    Args:
        folder: the adapter.
        target: as for `publish_folder`, like `hub` and `dry_run`.

    Raises:
        LoraMetaError: as `publish_folder` raises; the advice names how to resume.
    """
    try:
        published = publish_folder(folder, target, hub, dry_run=dry_run)
    except (LoraMetaError, OSError, KeyboardInterrupt) as error:
        # what was sent may have arrived
        arrived = isinstance(error, _ARRIVED)
        if isinstance(error, UnsupportedError):  # ask for consent again
            target = replace(target, create_pr=False, replaces=())
        again = command_to_publish(folder, **target.options(bool(target.replaces) or arrived))
        say_kept(error, f"resume with: {again}")
        raise
    if published.url and folder.resolve().parent == _staging_root():  # never the user's own folder
        shutil.rmtree(folder, ignore_errors=True)
    return published


def say_kept(error: BaseException, how: str) -> None:
    """Add to an error that the adapter is in a `staging_folder`, and how to go on with it."""
    kept = f"since the adapter is kept for a day, {how}"
    if isinstance(error, LoraMetaError):
        error.advise(kept)
    else:
        error.add_note(kept)


def command_to_publish(folder: Path, repo_id: str | None = None, **consent: object) -> str:
    """Return the command that publishes a finished folder.

    Example:
        >>> command_to_publish(Path("my adapter"))
        "hf-lorameta push --from 'my adapter' --repo-id user/name"
    """
    return command("push", **{"from": folder}, repo_id=repo_id or "user/name", **consent)


def _staging_root() -> Path:
    return writable_cache().resolve() / STAGING_FOLDER


def staging_folder(repo_id: str) -> Path:
    """Return a new path for a finished adapter that is not published yet.

    Folders that earlier commands left there are deleted after a day.

    Raises:
        AdapterError: no folder can be created there.
    """
    parent = _staging_root()
    with writing(parent, AdapterError, ""):
        parent.mkdir(parents=True, exist_ok=True)
        if outdated := delete_outdated(parent):
            logger.info("Deleted %d folders in %s that were older than a day", outdated, parent)
    return parent / f"{repo_id.replace('/', '--')}-{secrets.token_hex(4)}"
