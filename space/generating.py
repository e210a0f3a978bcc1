"""Generate an adapter from a plan, for download or for a repo on the Hub."""

import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_request import REPO_ID, Credential, RequestError
from hf_lorameta import (
    Hub,
    LoraMetaError,
    check_no_overwrite,
    default_repo_id,
    generate_from_plan,
    publish_folder,
    resolve_target,
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
        folder, seconds = _generate(plan_result, Path(scratch), None, job)
        return _zip_adapter(folder, plan_result.name, seconds, job)


def make_and_publish(
    plan_result: PlanResult, destination: Destination, credential: Credential, job: Job
) -> AdapterResult:
    """Check the target, generate, and publish in one commit.

    Raises:
        SignInError: the visitor is signed out.
        LoraMetaError: as `resolve_target`, `generate_from_plan` and `publish_folder`.
    """
    if credential is False:
        raise SignInError("Publishing needs an account: sign in first")
    repo_id = target_name(plan_result, destination, Hub(credential).user())
    job.report("Checking the repo")
    target = resolve_target(
        repo_id,
        private=destination.private,
        dataset_private=plan_result.plan.dataset.private,
        token=credential,
    )
    if not destination.overwrite:
        check_no_overwrite(target)
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder, seconds = _generate(plan_result, Path(scratch), repo_id, job)
        adapter = _zip_adapter(folder, plan_result.name, seconds, job)
        try:
            job.report(PUBLISHING)
            url = publish_folder(folder, target, token=credential)
        except BaseException:
            discard(adapter)
            raise
    return replace(adapter, url=url, repo_id=repo_id, private=target.private)


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


def _generate(
    plan_result: PlanResult, scratch: Path, repo_id: str | None, job: Job
) -> tuple[Path, float]:
    """Return the adapter's folder and the seconds that combining took."""
    text = f"Combining {len(plan_result.plan.active_indices)} adapters"
    job.report(text)
    result = generate_from_plan(plan_result.plan, lambda done, total: job.report(text, done, total))
    job.report("Saving and validating the adapter")
    return result.save_pretrained(scratch / "adapter", repo_id=repo_id), result.seconds


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
