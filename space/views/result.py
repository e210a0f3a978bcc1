"""Step 3 as HTML: heading, answers, scores, code. All texts are escaped."""

import json
import re
import shlex

from hf_lorameta.cards.gguf_usage import render_modelfile
from hf_lorameta.engines.scoring import Report
from hf_lorameta.environment import install_requirement
from views.blocks import render
from work.generating import Destination, target_name
from work.planning import PlanResult
from work.trying import TRAINING_ROWS, Improvement, is_worse, title

_SHORT = 300
"""Characters of a prompt that is shown in code."""


def answers_html(base: str, adapter: str, expected: str) -> str:
    """Return two answers side by side, and the row's own output if it is known."""
    return render("result.answers", base=base, adapter=adapter, expected=expected)


def report_html(report: Report) -> str:
    """Return the scores of a test and three answers."""
    base, own, worse = report.scores["base"], report.scores["generated"], is_worse(report)
    text = (
        f"On these {own.rows} rows the adapter is {'not better' if worse else 'better'} than the "
        f"base model: its error is {own.loss:.2f}, the base model's {base.loss:.2f}."
    )
    best = min(scores.loss for scores in report.scores.values())
    titles = {method: title(method) for method in report.scores}
    return render("result.report", report=report, titles=titles, best=best, worse=worse, text=text)


def improve_text(why_not: str, command: str) -> str:
    """Return what training the adapter further does, or why that is not possible here."""
    commands = f"{_pip_install('eval')}\n{command}"
    return render("result.improve", why_not=why_not, commands=commands, rows=TRAINING_ROWS)


def improved_html(improvement: Improvement) -> str:
    """Return what the training brought."""
    level = "likely" if improvement.adapter else "unsure"
    return render("result.verdict", level=level, text=f"{improvement.message}.")


def no_model_html(reason: str) -> str:
    """Say why the adapter cannot be tried here, and how to try it elsewhere."""
    commands = f"{_pip_install('gguf')}\nhf-lorameta try ADAPTER --compare"
    return render("result.no_model", reason=reason, commands=commands)


def _pip_install(extra: str) -> str:
    """Return the command that installs this package with an extra on the visitor's machine."""
    return shlex.join(["pip", "install", install_requirement(extra, remote=True)])


def proposed_name(plan_result: PlanResult, user: str | None) -> str:
    """Return the name of the repo that the form proposes; empty for a visitor without account."""
    private = Destination(private=plan_result.plan.private)
    return target_name(plan_result, private, user) if user else ""


def usage_html(result: PlanResult, name: str) -> str:
    """Return how to load the adapter in Transformers, llama.cpp and Ollama.

    The prompt is that of the visitor's first row that is short, with its instruction and in its
    form, which the adapter needs.
    """
    prompts = (prompt for prompt, _ in result.samples if len(prompt) <= _SHORT)
    prompt = next(prompts, "The prompt of a row")
    base_model = result.plan.bank.index.base_model
    return render(
        "result.usage",
        name=name,
        base_model=base_model,
        prompt=json.dumps(prompt, ensure_ascii=False),
        shell_prompt=shlex.quote(prompt),
        modelfile=render_modelfile(base_model, result.plan.dataset.columns),
    )


def card_body(card: str) -> str:
    """Return the card without metadata and chart, its headings two levels lower."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "###", p, flags=re.M) for p in parts)
