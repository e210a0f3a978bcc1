"""A push target and a generated adapter as HTML, code and Markdown."""

import json
import re
from html import escape

from generating import AdapterResult, Destination, target_name
from hf_lorameta import LoraMetaError
from html_blocks import note
from planning import PlanResult


def target_html(plan_result: PlanResult, destination: Destination, user: str) -> str:
    """Return which repo a push would create."""
    try:
        name = target_name(plan_result, destination, user)
    except LoraMetaError as error:
        return note("warning", str(error))
    visibility = "private" if destination.private else "public"
    return (
        f'<p class="lm-soft">Pushing creates the {visibility} repo <b>{escape(name)}</b>. '
        "You can change its name and visibility in the options.</p>"
    )


def result_html(adapter: AdapterResult, base_model: str) -> str:
    """Return the heading of a result."""
    if adapter.url is None:
        title, location = "Your adapter is ready", "Download it below. Nothing was published."
    else:
        visibility = "private" if adapter.private else "public"
        link = (
            f'<a href="{escape(adapter.url)}" target="_blank" rel="noopener">'
            f"{escape(adapter.repo_id or '')}</a>"
        )
        title, location = "Your adapter is on the Hub", f"{link} ({visibility})"
    return (
        f'<div class="lm-note lm-good"><h2>{title}</h2><p>{location}</p><p class="lm-soft">A LoRA '
        f"adapter for {escape(base_model)}, combined in {adapter.seconds:.1f} s on a CPU, without "
        "training. It was not evaluated: its model card says how to.</p></div>"
    )


def loading_code(adapter: AdapterResult) -> str:
    """Return Python code that loads the adapter."""
    name = json.dumps(adapter.repo_id or f"./{adapter.archive.stem}")
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({name})"
    )


def card_body(card: str) -> str:
    """Return the card without metadata and chart, its headings one level lower."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "##", p, flags=re.M) for p in parts)
