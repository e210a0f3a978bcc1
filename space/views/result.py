"""Step 3 as HTML: heading, answers, scores, code. All texts are escaped."""

import json
import re
import shlex

from hf_lorameta.cards.gguf_usage import render_modelfile
from hf_lorameta.engines.scoring import Report
from hf_lorameta.environment import install_requirement
from views.blocks import render
from work.generating import Adapter, Destination, Published, target_name
from work.planning import PlanResult
from work.trying import TRAINING_ROWS, Improvement, is_worse, title

_SHORT = 300
"""Characters of a prompt that is shown in code."""


def heading_html(adapter: Adapter, number: int, base_model: str) -> str:
    """Return the heading of a result, which takes the focus."""
    return render("result.heading", adapter=adapter, number=number, base_model=base_model)


def answers_html(base: str, adapter: str, expected: str) -> str:
    """Return two answers side by side, and the row's own output if it is known."""
    return render("result.answers", base=base, adapter=adapter, expected=expected)


def test_text(rows: int) -> str:
    """Return what a test on so many rows does, or why the adapter cannot be tested."""
    return render("result.test", rows=rows)


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


def published_html(published: Published) -> str:
    """Return where an adapter was saved."""
    return render("result.published", published=published)


def usage_html(result: PlanResult, name: str) -> str:
    """Return how to load the adapter in Transformers, llama.cpp and Ollama.

    The prompt is that of the visitor's first row that is short, with its instruction and in its
    form, which the adapter needs.
    """
    base_model, quoted = result.plan.bank.index.base_model, json.dumps(name)
    prompts = (prompt for prompt, _ in result.samples if len(prompt) <= _SHORT)
    prompt = next(prompts, "The prompt of a row")
    transformers = (
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({quoted})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(base_model)})\n"
        f"prompt = {json.dumps(prompt, ensure_ascii=False)}\n"
        'inputs = tokenizer(prompt, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))"
    )
    llama_cpp = (
        f"hf-lorameta try {name} --base-gguf base.gguf --template '{{}}' "
        f"--prompt {shlex.quote(prompt)}\n"
        f"# or a server:\nhf-lorameta export {name} -o adapter.gguf\n"
        "llama serve -m base.gguf --lora adapter.gguf"
    )
    modelfile = render_modelfile(base_model, result.plan.dataset.columns.template)
    ollama = (
        f"hf-lorameta export {name} -o adapter.gguf\n"
        f"cat > Modelfile <<'EOF'\n{modelfile}EOF\n"
        "ollama create my-adapter -f Modelfile"
    )
    codes = {"Transformers": transformers, "llama.cpp": llama_cpp, "Ollama": ollama}
    return render("result.usage", codes=codes)


def card_body(card: str) -> str:
    """Return the card without metadata and chart, its headings two levels lower."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "###", p, flags=re.M) for p in parts)
