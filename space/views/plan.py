"""Step 2 as HTML: what to expect, whether an adapter helps, and the details of the plan."""

from hf_lorameta.cards.results import CheckResult, method_in_words
from hf_lorameta.engines.scoring import MEASURES
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from views.blocks import advice, message_of, place_of, render

BARS = 10


def expected_html(plan: Plan, name: str, rows: Rows) -> str:
    """Return what making an adapter will take, and the warnings.

    Args:
        plan: of the adapter.
        name: of the dataset.
        rows: that it will be checked on and trained on.
    """
    verdict = plan.verdict
    base = plan.bank.index.base_model
    return render(
        "plan.expected", name=name, base=base, rows=rows, verdict=verdict, warnings=_warnings(plan)
    )


def verdict_html(made: Generation, name: str, said: str | LoraMetaError, *, busy: bool) -> str:
    """Return the verdict, what was counted as a table, and the warnings.

    Args:
        made: the adapter, with what was measured.
        name: of the dataset.
        said: another sentence, or why the training failed.
        busy: whether the adapter is being trained, or they are being counted.
    """
    verdict, check = made.verdict, made.outcome.check
    if not isinstance(said, str):
        said = " ".join([f"{message_of(said)}.", *advice(said)])
    level, title, reason = verdict.level, verdict.title, verdict.beside_counts
    if busy and check:
        said = "It is being trained once more, for longer."
    elif busy:
        level, title = "unsure", "Not checked yet"
        reason = "It is being trained, and then checked, on your rows."
    return render(
        "plan.verdict", name=name, level=level, title=title, reason=reason, said=said,
        scores=bars_of(check) if check else [], warnings=_warnings(made),
    )  # fmt: skip


def bars_of(check: CheckResult) -> list[tuple[str, str, float]]:
    """Return title, right answers and length of a bar for each method, the adapter first.

    Where answers are graded, their score is shown as well, and is the length of the bar.

    Example:
        >>> from hf_lorameta.cards.results import Counted
        >>> bars_of(CheckResult(4, {"generated": Counted(3), "base": Counted(1)}))
        [('The adapter', '3 of 4 right', 0.75), ('The base model', '1', 0.25)]
    """
    bars: list[tuple[str, str, float]] = []
    for method, counted in check.counted.items():
        first, title, right, score = not bars, method_in_words(method), counted.right, counted.score
        text = f"{right} of {check.rows} right" if first else f"{right}"
        if score is not None and check.measure:
            measure = f" {MEASURES[check.measure]}" if first else ""
            text = f"{score:.2f}{measure}, {text}"
        share = right / check.rows if score is None else score
        bars.append((title[:1].upper() + title[1:], text, share))
    return bars


def _warnings(shown: Plan | Generation) -> list[str]:
    """Return the warnings, with what can be done about them on the page."""
    warnings = (remark for remark in shown.remarks if remark.level == "warning")
    return [" ".join(filter(None, (remark.text, place_of(remark.option)))) for remark in warnings]


def details_html(plan: Plan) -> str:
    """Return what an adapter is made of, and the shares of the largest parts."""
    neighbors = plan.neighbors()
    largest = max((abs(n.coefficient) for n in neighbors), default=0.0) or 1.0
    shares = [
        (n.label, f"{100 * n.coefficient:.1f} %", abs(n.coefficient) / largest) for n in neighbors
    ]
    return render("plan.details", plan=plan, shares=shares[:BARS], rest=neighbors[BARS:])
