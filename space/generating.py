"""Generate an adapter from a plan, for download or for a repo on the Hub."""

import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_request import REPO_ID, Credential, RequestError
from hf_lorameta import (
    Generation,
    Hub,
    LoraMetaError,
    default_repo_id,
    generate_from_plan,
    publish_adapter,
)
from jobs import Job
from planning import PlanResult

PUBLISHING = "Publishing in one commit; this cannot be canceled"


class SignInError(LoraMetaError):
    """Publishing needs an account."""


@dataclass(frozen=True)
class AdapterResult:
    """A generated adapter.

    Attributes:
        archive: zip file of the adapter folder, alone in its own folder.
        card: content of the adapter's README.md.
        recipe: content of recipe.json.
        seconds: duration of the combination.
        url: URL of the repo; None if the adapter was not published.
        repo_id: id of the repo.
        private: whether the repo is private.
    """

    archive: Path
    card: str
    recipe: str
    seconds: float
    url: str | None = None
    repo_id: str | None = None
    private: bool = False


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
    """Generate the files that ``hf-lorameta generate`` writes, as a zip file."""
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        generation = _generate(plan_result, job)
        folder = generation.save_pretrained(Path(scratch) / "adapter")
        return _zip_adapter(folder, plan_result.name, generation.seconds, job)


def make_and_publish(
    plan_result: PlanResult, destination: Destination, credential: Credential, job: Job
) -> AdapterResult:
    """Check the target, generate, and publish in one commit.

    Raises:
        SignInError: the visitor is signed out.
        LoraMetaError: as `publish_adapter` and `generate_from_plan` raise.
    """
    if credential is False:
        raise SignInError("Publishing needs an account: sign in first")
    hub = Hub(credential)
    repo_id = target_name(plan_result, destination, hub.user())
    job.report("Checking the repo")
    adapters: list[AdapterResult] = []
    seconds: list[float] = []

    def generate() -> Generation:
        generation = _generate(plan_result, job)
        seconds.append(generation.seconds)
        return generation

    def on_saved(folder: Path) -> None:
        adapters.append(_zip_adapter(folder, plan_result.name, seconds[0], job))
        job.report(PUBLISHING)

    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        try:
            publication = publish_adapter(
                generate,
                repo_id,
                hub=hub,
                dataset_private=plan_result.plan.dataset.private,
                private=destination.private,
                overwrite=destination.overwrite,
                folder=Path(scratch) / "adapter",
                on_saved=on_saved,
            )
        except BaseException:
            for adapter in adapters:
                discard(adapter)
            raise
    return replace(
        adapters[0], url=publication.url, repo_id=repo_id, private=publication.target.private
    )


def target_name(plan_result: PlanResult, destination: Destination, user: str) -> str:
    """Return the id of the repo to publish to.

    Raises:
        RequestError: the id is invalid, or a public repo would reveal a private dataset's name.
    """
    name = (destination.repo_id or "").strip()
    if name:
        name = name if "/" in name else f"{user}/{name}"
        if not REPO_ID.fullmatch(name):
            raise RequestError(f"{name[:80]!r} is not a repo id of the form user/name")
        return name
    if plan_result.plan.dataset.private and destination.private is False:
        raise RequestError(
            "The dataset is private, and a public repo named after it would reveal its name: "
            "type a repo name in the options"
        )
    return default_repo_id(user, plan_result.name, plan_result.plan.bank.index.base_model)


def discard(adapter: AdapterResult) -> None:
    """Delete the archive, once Gradio has copied it or nobody needs it."""
    shutil.rmtree(adapter.archive.parent, ignore_errors=True)


def _generate(plan_result: PlanResult, job: Job) -> Generation:
    """Combine the adapters of the plan, reporting progress."""
    text = f"Combining {len(plan_result.plan.active_indices)} adapters"
    job.report(text)
    generation = generate_from_plan(
        plan_result.plan, lambda stage, done, total: job.report(text, done, total)
    )
    job.report("Saving and validating the adapter")
    return generation


def _zip_adapter(folder: Path, name: str, seconds: float, job: Job) -> AdapterResult:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-") or "adapter"
    job.check()
    archive = Path(tempfile.mkdtemp(prefix="lorameta-download-")) / f"{stem[:60]}-lorameta.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for path in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(path.name)  # fixed date: the same files give the same bytes
            info.external_attr = 0o644 << 16
            opened.writestr(info, path.read_bytes())
    card = (folder / "README.md").read_text(encoding="utf-8")
    recipe = (folder / "recipe.json").read_text(encoding="utf-8")
    return AdapterResult(archive, card, recipe, seconds)
