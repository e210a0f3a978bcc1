"""Step 3 as HTML: heading, answers, scores, code. All texts are escaped."""

import json
import re
import shlex
from html import escape

from hf_lorameta.cards.gguf_usage import render_modelfile
from hf_lorameta.engines.scoring import Report
from hf_lorameta.environment import install_requirement
from views.blocks import code_html
from work.generating import AdapterResult, Destination, Published, target_name
from work.improving import ROWS, Improvement
from work.planning import PlanResult
from work.trying import is_worse, titles

_SHORT = 300
"""Characters of a prompt that is shown in code."""


def heading_html(adapter: AdapterResult, number: int, base_model: str) -> str:
    """Return the heading of a result, which takes the focus."""
    text = "Your adapter is ready"
    how = "and then trained on your rows" if adapter.trained else "without training"
    return (
        f'<h2 class="lm-h2" tabindex="-1" data-focus="{number}" data-announce="{text}.">'
        f"3 · {text}</h2>"
        f'<p class="lm-soft">A LoRA adapter for {escape(base_model)}, combined in '
        f"{adapter.seconds:.1f} s on a CPU, {how}.</p>"
    )


def answers_html(base: str, adapter: str, expected: str) -> str:
    """Return two answers side by side, and the row's own output if it is known."""
    boxes = "".join(
        f'<div><h4>{title}</h4><p class="lm-answer">{escape(text) or "<em>(empty)</em>"}</p></div>'
        for title, text in (("Base model", base), ("With your adapter", adapter))
    )
    own = f'<p class="lm-soft">Your data says: {escape(expected)}</p>' if expected else ""
    announced = escape(f"Base model: {base[:200]}. With your adapter: {adapter[:200]}.")
    return f'<div class="lm-pair" data-announce="{announced}">{boxes}</div>{own}'


def test_text(rows: int) -> str:
    """Return what a test on so many rows does, or why the adapter cannot be tested."""
    if not rows:
        return '<p class="lm-soft">Your data has too few rows with outputs to test on.</p>'
    return (
        f'<h3 class="lm-h3">Test on {rows} of your rows</h3>'
        '<p class="lm-soft">The base model, the base model with three of your rows as examples, '
        "and your adapter answer the same rows. The scores go on the adapter's card.</p>"
    )


def report_html(report: Report) -> str:
    """Return the scores of a test and three answers."""
    names = titles(list(report.scores))
    best = min(scores.loss for scores in report.scores.values())
    lines = "".join(
        f'<tr{" class=lm-best" if scores.loss == best else ""}><th scope="row">{escape(name)}</th>'
        f"<td>{scores.loss:.2f}</td><td>{100 * (scores.exact_match or 0):.0f} %</td></tr>"
        for name, scores in zip(names, report.scores.values(), strict=True)
    )
    answers = "".join(_sample(sample.input, sample.reference, sample.outputs, names)
                      for sample in report.samples)  # fmt: skip
    base, own = report.scores["base"], report.scores["generated"]
    worse = is_worse(report)
    verdict = (
        f"On these {own.rows} rows the adapter is {'not better' if worse else 'better'} than the "
        f"base model: its error is {own.loss:.2f}, the base model's {base.loss:.2f}."
    )
    return (
        f'<p class="lm-{"unlikely" if worse else "likely"} lm-verdict" data-announce="{verdict}">'
        f'{verdict}</p><div class="lm-table" role="region" aria-label="Scores" tabindex="0"><table>'
        '<thead><tr><th scope="col">method</th><th scope="col">error (lower is better)</th>'
        f'<th scope="col">exactly right</th></tr></thead><tbody>{lines}</tbody></table></div>'
        f"{answers}"
    )


def improve_text(why_not: str, command: str) -> str:
    """Return what training the adapter further does, or why that is not possible here."""
    heading = '<h3 class="lm-h3">Improve with your rows</h3>'
    if why_not:
        code = code_html(f"{_pip_install('eval')}\n{command}")
        return f'{heading}<p class="lm-soft">{escape(why_not)} On your own machine:</p>{code}'
    return (
        f'{heading}<p class="lm-soft">A few training steps on up to {ROWS} rows of your data, '
        "which takes minutes. The trained adapter replaces this one if it is better on rows that "
        "it was not trained on.</p>"
    )


def improved_html(improvement: Improvement) -> str:
    """Return what the training brought."""
    level = "likely" if improvement.adapter else "unsure"
    text = escape(improvement.message)
    return f'<p class="lm-{level} lm-verdict" data-announce="{text}.">{text}.</p>'


def _sample(prompt: str, reference: str, outputs: object, names: list[str]) -> str:
    texts = list(dict(outputs).values())  # type: ignore[call-overload]
    answers = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text[:200]) or '(empty)'}</dd>"
        for name, text in zip(names, texts, strict=True)
    )
    return (
        f'<dl class="lm-sample"><dt>Input</dt><dd>{escape(_end(prompt))}</dd>'
        f"<dt>Your data</dt><dd>{escape(reference[:200])}</dd>{answers}</dl>"
    )


def _end(text: str) -> str:
    """Return the end of a long text: prompts often share their start."""
    return text if len(text) <= 200 else f"…{text[-200:]}"


def no_model_html(reason: str) -> str:
    """Say why the adapter cannot be tried here, and how to try it elsewhere."""
    return f'<h3 class="lm-h3">Try it</h3><p>{escape(reason)} On your own machine:</p>' + code_html(
        f"{_pip_install('gguf')}\nhf-lorameta try ADAPTER --compare"
    )


def _pip_install(extra: str) -> str:
    """Return the command that installs this package with an extra on the visitor's machine."""
    return shlex.join(["pip", "install", install_requirement(extra, remote=True)])


def proposed_name(plan_result: PlanResult, user: str | None) -> str:
    """Return the name of the repo that the form proposes; empty for a visitor without account."""
    private = Destination(private=plan_result.plan.private)
    return target_name(plan_result, private, user) if user else ""


def published_html(published: Published) -> str:
    """Return where an adapter was saved."""
    visibility = "private" if published.private else "public"
    return (
        '<div class="lm-note lm-good" data-announce="Your adapter is on the Hub.">'
        "<strong>Your adapter is on the Hub</strong><p>"
        f'<a href="{escape(published.url)}" target="_blank" rel="noopener">'
        f"{escape(published.repo_id)}</a> ({visibility})</p></div>"
    )


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
    return "".join(
        f'<h4 class="lm-h3">{title}</h4>{code_html(code)}'
        for title, code in (
            ("Transformers", transformers),
            ("llama.cpp", llama_cpp),
            ("Ollama", ollama),
        )
    )


def card_body(card: str) -> str:
    """Return the card without metadata and chart, its headings two levels lower."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "###", p, flags=re.M) for p in parts)
