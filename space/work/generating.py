"""Generate an adapter from a plan, for download or for a repo on the Hub."""

import re
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.model_card import CARD_FILE, render_card
from hf_lorameta.engines.scoring import Report
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.evaluate import scores_to_card
from hf_lorameta.pipeline.make import make_adapter as combine
from hf_lorameta.pipeline.publish import (
    Target,
    check_no_overwrite,
    default_repo_id,
    publish_folder,
    resolve_target,
)
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.tables import plural
from work.jobs import Job, SpaceError
from work.planning import NAME_CHARACTERS, REPO_ID, Credential, PlanResult, RequestError

_SIGN_IN = (
    "Use the button at the top. This Space asks only for permission to create repos and to write "
    "to the repos it created."
)


class Adapter:
    """A generated adapter, in a temporary folder that is deleted with this object.

    Args:
        name: of the adapter's dataset.
        seconds: duration of the combination.
        trained: the data of its card if it was trained further; None if it was not.

    Attributes:
        folder: its files.
        archive: their zip file.
    """

    def __init__(self, name: str, seconds: float, trained: CardData | None = None) -> None:
        self.seconds, self.trained = seconds, trained
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-") or "adapter"
        scratch = Path(tempfile.mkdtemp(prefix="adapter-"))
        self.folder = scratch / "adapter"
        self.archive = scratch / f"{stem[:60]}-lorameta.zip"
        self.discard = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)

    def write_archive(self) -> None:
        """Write the zip file; the same files give the same bytes."""
        with zipfile.ZipFile(self.archive, "w", zipfile.ZIP_STORED) as opened:
            for path in sorted(self.folder.iterdir()):
                info = zipfile.ZipInfo(path.name)  # has a fixed date
                info.external_attr = 0o644 << 16
                opened.writestr(info, path.read_bytes())

    def read(self, name: str) -> str:
        """Return the text of a file of the adapter."""
        return (self.folder / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Published:
    """A published adapter.

    Attributes:
        url: URL of the repo.
        repo_id: id of the repo.
        private: whether the repo is private.
        seconds: duration of the combination.
    """

    url: str
    repo_id: str
    private: bool
    seconds: float


@dataclass(frozen=True)
class Destination:
    """Where to publish an adapter.

    Attributes:
        repo_id: repo id or name; None names it after the dataset.
        private: visibility; None makes it as private as the dataset.
        overwrite: replace an adapter that the repo already holds.
    """

    repo_id: str | None = None
    private: bool | None = None
    overwrite: bool = False


def make_adapter(result: PlanResult, job: Job) -> Adapter:
    """Generate the files that ``hf-lorameta generate`` writes, and their zip."""
    generation = _generate(result, job)
    return save_files(generation, Adapter(result.name, generation.seconds), job)


def save_files(generation: Generation, adapter: Adapter, job: Job) -> Adapter:
    """Save an adapter and its zip, or leave nothing."""
    job.report("Saving and validating the adapter")
    try:
        generation.save_pretrained(adapter.folder)
        job.check()
        adapter.write_archive()
    except BaseException:
        adapter.discard()
        raise
    return adapter


def make_and_publish(
    result: PlanResult,
    destination: Destination,
    credential: Credential,
    job: Job,
    report: Report | None = None,
    trained: Adapter | None = None,
) -> Published:
    """Check the target, generate, and publish in one commit.

    Args:
        result: the plan.
        destination: where to publish.
        credential: of the visitor.
        job: canceled until the commit begins.
        report: scores for the card.
        trained: an adapter whose files to publish, instead of generating one; only its card is
            written again, for the repo.

    Raises:
        SpaceError: the visitor is signed out.
        LoraMetaError: as `resolve_target`, `publish_folder` and `combine` raise.
    """
    if credential is False:
        raise SpaceError("Publishing needs an account: sign in first", hint=_SIGN_IN)
    hub, plan = Hub(credential), result.plan
    repo_id = target_name(result, destination, hub.user())
    job.report("Checking the repo")
    target = resolve_target(
        repo_id, private=destination.private, dataset_private=plan.private, hub=hub
    )
    if not destination.overwrite:
        check_no_overwrite(target)
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder = Path(scratch) / "adapter"
        if trained and trained.trained:
            seconds = trained.seconds
            shutil.copytree(trained.folder, folder)
            card = render_card(trained.trained, repo_id)
            (folder / CARD_FILE).write_text(card, encoding="utf-8", newline="")
        else:
            generation = _generate(result, job)
            seconds = generation.seconds
            job.report("Saving and validating the adapter")
            generation.save_pretrained(folder, repo_id=repo_id)
        if report:
            scores_to_card(folder, report, plan.dataset)
        return _publish(folder, target, seconds, hub, job)


def _publish(folder: Path, target: Target, seconds: float, hub: Hub, job: Job) -> Published:
    job.report("Saving to the Hub; this can no longer be canceled")
    job.commit()
    url = publish_folder(folder, target, hub)
    return Published(url, target.repo_id, target.private, seconds)


def target_name(result: PlanResult, destination: Destination, user: str) -> str:
    """Return the id of the repo to publish to.

    Raises:
        RequestError: the id is invalid, or a public repo would reveal a private dataset's name.
    """
    default = default_repo_id(user, result.name, result.plan.bank.index.base_model)
    name = (destination.repo_id or "").strip() or default
    name = name if "/" in name else f"{user}/{name}"
    if len(name) > NAME_CHARACTERS or not REPO_ID.fullmatch(name):
        raise RequestError(f"{name[:80]!r} is not a repo id of the form user/name")
    exposed = result.plan.dataset.private and destination.private is False
    if exposed and name.casefold() == default.casefold():  # the page's form proposes it
        raise RequestError(
            "The dataset is private, and a public repo named after it would reveal its name: "
            "type another name"
        )
    return name


def _generate(result: PlanResult, job: Job) -> Generation:
    """Combine the adapters of the plan, reporting progress."""
    text = f"Combining {plural(len(result.plan.neighbors()), 'adapter')}"
    job.report(text)
    return combine(result.plan, progress=lambda stage, done, total: job.report(text, done, total))
