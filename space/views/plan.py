"""Step 2 as HTML: what to expect, whether an adapter helps, and the details of the plan."""

from collections import Counter

from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, CHAT_METHOD, MEASURES, Report
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import SHOTS, Rows
from hf_lorameta.pipeline.save import Generation
from views.blocks import place_of, render

BARS = 10
_TITLES = {
    ADAPTER_METHOD: "With your adapter",
    BASE_METHOD: "Without it",
    CHAT_METHOD: "Without it, as a chat",
    f"{SHOTS}-shot": f"Without it, {SHOTS} examples in the prompt",
}
"""Titles of what is counted, in the order shown."""
_SHORT = 30


def expected_html(plan: Plan, name: str, rows: Rows) -> str:
    """Return what making an adapter will take, and the warnings.

    Args:
        plan: of the adapter.
        name: of the dataset.
        rows: that it will be checked on and trained on.
    """
    verdict = plan.verdict
    return render("plan.expected", name=name, rows=rows, verdict=verdict, warnings=_warnings(plan))


def verdict_html(made: Generation, name: str, said: str, *, busy: bool) -> str:
    """Return the right answers, one sentence about them, and the warnings.

    Args:
        made: the adapter, with what was measured.
        name: of the dataset.
        said: another sentence.
        busy: whether the adapter is being trained, or they are being counted.
    """
    verdict, report = made.verdict, made.report
    doubts = " ".join(remark.text for remark in made.remarks if remark.level == "doubt")
    level, title, reason = verdict.level, verdict.title, doubts if report else verdict.reason
    if busy and report:
        said = "It is being trained once more, for longer."
    elif busy:
        level, title = "unsure", "Not checked yet"
        reason = "It is being trained, and then checked, on your rows."
    return render(
        "plan.verdict", name=name, level=level, title=title, reason=reason,  said=said,
        scores=scores_of(report) if report else [], warnings=_warnings(made),
    )  # fmt: skip


def scores_of(report: Report) -> list[tuple[str, str, float]]:
    """Return title, score and share of each method: right answers, and how good they are.

    Example:
        >>> from hf_lorameta.engines.scoring import Sample
        >>> answers = {"base": "no", "generated": "yes"}
        >>> samples = (Sample("a", "yes", answers), Sample("b", "yes", answers))
        >>> scores_of(Report({}, samples))  # doctest: +NORMALIZE_WHITESPACE
        [('With your adapter', '2 of 2 right', 1.0), ('Without it', '0', 0.0),
         ('Always “yes”', '2', 1.0)]
    """
    samples, found = report.samples, list[tuple[str, str, float]]()
    measure = MEASURES.get(report.measure)
    for method, title in _TITLES.items():
        if measure and method in report.scores:
            scores = report.scores[method]
            score = getattr(scores, report.measure) or 0.0
            units = ("", "") if found else (f" {measure}", f" of {scores.rows} right")
            text = f"{score:.2f}{units[0]}, {scores.right}{units[1]}"
            found.append((title, text, score))
        elif not measure and method in samples[0].outputs:
            right, total = sum(report.is_right(sample, method) for sample in samples), len(samples)
            found.append((title, f"{right}{'' if found else f' of {total} right'}", right / total))
    if not measure:
        [(answer, count)] = Counter(sample.reference.strip() for sample in samples).most_common(1)
        always = f"Always “{answer}”" if len(answer) <= _SHORT else "Always the same answer"
        found.append((always, str(count), count / len(samples)))
    if (classified := report.classified) is not None:
        found.append(("A classifier on words alone", str(classified), classified / len(samples)))
    return found


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
