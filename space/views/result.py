"""HTML and Markdown of answers and code, including code for another base model, all escaped."""

import json
import re
from functools import partial
from pathlib import Path

from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.cards.markdown import clean
from hf_lorameta.cards.prompt_code import usage_program
from hf_lorameta.cards.results import CheckResult, Counted
from hf_lorameta.engines.scoring import Report, Sample
from hf_lorameta.hub.packaged_model import SMOLLM2, SMOLLM2_GGUF
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.publish import command_to_publish, default_repo_id
from hf_lorameta.quoting import fenced, shell, shell_file
from settings import SpaceSettings, install_command
from views.blocks import render
from views.plan import bars_of
from work.planning import PageRequest, PlanResult
from work.predicting import Answered, command_to_predict

_SHORT = 300
"""Most characters of an input that is shown in code."""
EXAMPLE_FILE = Path(__file__).parents[1] / "example.json"


def best_example(report: Report) -> Sample:
    """Return a row that the adapter answers right, if there is one where the base model does not.

    Example:
        >>> wrong, right = ({"base": "no", "generated": text} for text in ("no", "yes"))
        >>> samples = Sample("a", "yes", wrong), Sample("b", "yes", right)
        >>> best_example(Report({}, samples)).input
        'b'
    """

    def gain(sample: Sample) -> tuple[bool, bool, bool]:
        before, after = (sample.outputs[method].strip() for method in ("base", "generated"))
        base, adapter = (report.is_right(sample, method) for method in ("base", "generated"))
        return adapter, not base, before != after

    return max(report.samples, key=gain)


def report_html(report: Report, result: PlanResult) -> str:
    """Return all answers, the wrong ones first, and one row before and after."""
    is_right = partial(report.is_right, method="generated")
    samples = sorted(report.samples, key=is_right)
    texts = [(bare_input(result, sample.input), sample) for sample in samples]
    place = samples.index(best_example(report))
    complete = all(scores.rouge_l is not None for scores in report.scores.values())
    return render(
        "result.report", example=texts[place], number=place + 1, samples=texts, is_right=is_right,
        complete=complete,
    )  # fmt: skip


def answered_html(answered: Answered, result: PlanResult, place: str) -> str:
    """Return rows that were answered, and what their probabilities were worth when counted."""
    texts = (bare_input(result, prompt) for prompt in answered.prompts)
    rows = [*zip(texts, answered.found, strict=False)]
    given = sum(bool(one.answer) for one in answered.found)
    command = command_to_predict(place)
    return render("result.answered", answered=answered, rows=rows, given=given, command=command)


def example_html() -> str:
    """Return the result of the example, which ``python -m tests.tools.example_result`` wrote."""
    stored = json.loads(EXAMPLE_FILE.read_text(encoding="utf-8"))
    counted = {method: Counted(**values) for method, values in stored["check"]["counted"].items()}
    check = CheckResult(stored["check"]["rows"], counted)
    report = Report({}, tuple(Sample(**sample) for sample in stored["samples"]))
    return render(
        "result.example", sample=best_example(report), total=check.rows, scores=bars_of(check),
        train=stored["train"], seconds=stored["seconds"],
    )  # fmt: skip


# --- inputs -------------------------------------------------------------------------------------


def bare_input(result: PlanResult, prompt: str) -> str:
    """Return a row's input without the instruction and the form that all prompts share.

    A prompt whose start was cut off stays as it is.
    """
    start, _, end = result.plan.dataset.columns.prompt_of("\0").partition("\0")
    complete = prompt.startswith(start) and prompt.endswith(end)
    return prompt[len(start) : len(prompt) - len(end)] if complete else prompt


def example_input(result: PlanResult) -> str:
    """Return the input of the visitor's first row that is short."""
    prompts = [prompt for prompt, _ in result.samples]
    short = (prompt for prompt in prompts if len(prompt) <= _SHORT)
    return bare_input(result, next(short, prompts[0])) if prompts else ""


# --- code ---------------------------------------------------------------------------------------


def usage_markdown(
    result: PlanResult, request: PageRequest, name: str, settings: SpaceSettings
) -> str:
    """Return how to use the adapter, as commands and programs that run as they are.

    Args:
        result: its plan, and rows for an example.
        request: its dataset.
        name: repo of the adapter, or the folder of the download.
        settings: of this Space, which offers the package.
    """
    plan, text = result.plan, example_input(result) or "An input"
    index, columns = plan.bank.index, plan.dataset.columns
    base, prompt = index.base_model, columns.prompt_of(text)
    return render(
        "result.usage",
        name=name,
        text=text,
        program=usage_program(base, index.base_revision, columns, name, prompt),
        base_model=clean(base),
        gguf=SMOLLM2_GGUF if base == SMOLLM2 else "",
        modelfile=shell_file(render_modelfile(base, columns), MODELFILE),
        with_torch=install_command("eval", settings),
        with_gguf=install_command("gguf", settings),
        train=request.command("generate", budget="10m", output="my-adapter"),
    )


def publish_markdown(result: PlanResult, folder: str, settings: SpaceSettings) -> str:
    """Return the commands that publish the downloaded adapter; none where visitors can sign in.

    Args:
        result: the plan.
        folder: name of the archive without its ending.
        settings: of this Space.
    """
    if settings.sign_in:
        return ""
    repo_id = default_repo_id("user", result.name, result.plan.bank.index.base_model)
    unzip = shell("python", "-m", "zipfile", "-e", f"{folder}.zip", folder)
    return fenced(f"{unzip}\n{command_to_publish(Path(folder), repo_id)}", "bash")


def other_base_markdown(plan: Plan, request: PageRequest, settings: SpaceSettings) -> str:
    """Return the commands that make an adapter for another base model, and why they run elsewhere.

    Args:
        plan: of the dataset.
        request: names the dataset.
        settings: of this Space, which offers the package.
    """
    install = install_command("eval", settings)
    generate = request.command("generate", base="org/model", output="my-adapter")
    return render("result.other_base", plan=plan, install=install, generate=generate)


def card_body(card: str) -> str:
    """Return the card without metadata and chart, its headings two levels lower."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    body = re.sub(r"^!\[.*?\]\(neighbors\.svg\)$", "", body, flags=re.M)
    parts = re.split(r"(^```.*?^```$)", body, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else re.sub(r"^#", "###", p, flags=re.M) for p in parts)
