"""Generate an adapter from a plan, for download or for a repo on the Hub."""

import re
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta.engines.scoring import Report
from hf_lorameta.errors import LoraMetaError
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
from work.dataset_request import REPO_ID, Credential, RequestError
from work.jobs import Job
from work.planning import PlanResult


class SignInError(LoraMetaError):
    """Publishing needs an account."""


class AdapterFiles:
    """A temporary folder with an adapter's folder and its zip, deleted with this object.

    Args:
        name: of the adapter's dataset.

    Attributes:
        folder: the adapter.
        archive: its zip file.
    """

    def __init__(self, name: str) -> None:
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
class AdapterResult:
    """A generated adapter.

    Attributes:
        files: its files; call ``files.discard()`` when they are no longer needed.
        seconds: duration of the combination.
        trained: whether it was trained further, which a plan does not say.
    """

    files: AdapterFiles
    seconds: float
    trained: bool = False


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


def make_adapter(plan_result: PlanResult, job: Job) -> AdapterResult:
    """Generate the files that ``hf-lorameta generate`` writes, and their zip."""
    generation = _generate(plan_result, job)
    return AdapterResult(save_files(generation, plan_result.name, job), generation.seconds)


def save_files(generation: Generation, name: str, job: Job) -> AdapterFiles:
    """Save an adapter and its zip, or leave nothing."""
    files = AdapterFiles(name)
    try:
        generation.save_pretrained(files.folder)
        job.check()
        files.write_archive()
    except BaseException:
        files.discard()
        raise
    return files


def make_and_publish(
    plan_result: PlanResult,
    destination: Destination,
    credential: Credential,
    job: Job,
    report: Report | None = None,
    trained: AdapterResult | None = None,
) -> Published:
    """Check the target, generate, and publish in one commit.

    Args:
        plan_result: the plan.
        destination: where to publish.
        credential: of the visitor.
        job: canceled until the commit begins.
        report: scores for the card.
        trained: an adapter to publish as it is, instead of generating one.

    Raises:
        SignInError: the visitor is signed out.
        LoraMetaError: as `resolve_target`, `publish_folder` and `combine` raise.
    """
    if credential is False:
        raise SignInError("Publishing needs an account: sign in first")
    hub, plan = Hub(credential), plan_result.plan
    repo_id = target_name(plan_result, destination, hub.user())
    job.report("Checking the repo")
    target = resolve_target(
        repo_id, private=destination.private, dataset_private=plan.private, hub=hub
    )
    if not destination.overwrite:
        check_no_overwrite(target)
    if trained:
        return _publish(trained.files.folder, target, trained.seconds, hub, job)
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder = Path(scratch) / "adapter"
        generation = _generate(plan_result, job)
        generation.save_pretrained(folder, repo_id=repo_id)
        if report:
            scores_to_card(folder, report, plan.dataset)
        return _publish(folder, target, generation.seconds, hub, job)


def _publish(folder: Path, target: Target, seconds: float, hub: Hub, job: Job) -> Published:
    job.report("Saving to the Hub; this can no longer be canceled")
    job.commit()
    url = publish_folder(folder, target, hub)
    return Published(url, target.repo_id, target.private, seconds)


def target_name(plan_result: PlanResult, destination: Destination, user: str) -> str:
    """Return the id of the repo to publish to.

    Raises:
        RequestError: the id is invalid, or a public repo would reveal a private dataset's name.
    """
    default = default_repo_id(user, plan_result.name, plan_result.plan.bank.index.base_model)
    name = (destination.repo_id or "").strip() or default
    name = name if "/" in name else f"{user}/{name}"
    if not REPO_ID.fullmatch(name):
        raise RequestError(f"{name[:80]!r} is not a repo id of the form user/name")
    exposed = plan_result.plan.dataset.private and destination.private is False
    if exposed and name.casefold() == default.casefold():  # the page's form proposes it
        raise RequestError(
            "The dataset is private, and a public repo named after it would reveal its name: "
            "type another name"
        )
    return name


def _generate(plan_result: PlanResult, job: Job) -> Generation:
    """Combine the adapters of the plan, reporting progress."""
    text = f"Combining {len(plan_result.plan.active_indices)} adapters"
    job.report(text)
    generation = combine(
        plan_result.plan, progress=lambda stage, done, total: job.report(text, done, total)
    )
    job.report("Saving and validating the adapter")
    return generation
