"""The command ``hf-lorameta bank train``: train an adapter per task and make a bank of them."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.options import (
    DaskOption,
    JsonFlag,
    MaxTextOption,
    QuietFlag,
    TemplateOption,
    TokenOption,
)
from hf_lorameta.cli.output import emit, log, progress_bar, table
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.training.progress import Log, Progress, Reporter
from hf_lorameta.training.settings import Settings

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.build import Outcome
    from hf_lorameta.training.jobs import Estimate, Request
    from hf_lorameta.training.tasks import Task

_DEFAULTS = Settings()
EXAMPLES = """\b
Examples:
  hf-lorameta bank train tasks/ -o my-bank --base org/model
  hf-lorameta bank train bank_manifest.yaml -o my-bank --base org/model --dry-run
"""


def train(
    tasks: Annotated[
        list[str],
        typer.Argument(
            help="Folder of TASK.train.jsonl files, manifest (.yaml), dataset files or Hub ids."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bank.")],
    base: Annotated[str, typer.Option(help="Base model: Hub id or folder.")],
    base_revision: Annotated[str | None, typer.Option(help="Revision of the base model.")] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tasks trained at a time. Default: by the device.", show_default=False
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = _DEFAULTS.rank,
    targets: Annotated[str, typer.Option(help="Adapted linear layers.")] = ",".join(
        _DEFAULTS.targets
    ),
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps per task, at most.")
    ] = _DEFAULTS.steps,
    rows: Annotated[int, typer.Option(min=1, help="Rows per step.")] = _DEFAULTS.rows,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = _DEFAULTS.lr,
    general_steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps of the general adapter that the others start from; 0: none. "
            "Default: by the number of tasks.",
            show_default=False,
        ),
    ] = None,
    general_without: Annotated[
        Path | None,
        typer.Option(help="File of task names to leave out of the general adapter."),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=8, help="Tokens of a row; longer inputs lose their beginning.")
    ] = _DEFAULTS.max_length,
    template: TemplateOption = None,
    max_text: MaxTextOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initialization and order.")] = _DEFAULTS.seed,
    device: Annotated[
        str | None, typer.Option(help="cuda, mps or cpu. Default: the best.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype of the base model. Default: by the device.", show_default=False),
    ] = None,
    dask: DaskOption = None,
    on: Annotated[
        Literal["jobs"] | None,
        typer.Option(help="jobs: run on Hugging Face Jobs, which cost money; needs --push-to."),
    ] = None,
    flavor: Annotated[str, typer.Option(help="Hardware of the job.")] = "a10g-large",
    push_to: Annotated[
        str | None, typer.Option(help="Publish the finished bank as this dataset repo.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the estimated time and cost of a job only.")
    ] = False,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a bank for any base model; run it again to resume (extra: eval)."""
    from hf_lorameta.bank.executors import dask_executor
    from hf_lorameta.bank.share import push_bank
    from hf_lorameta.data.prompt import from_option
    from hf_lorameta.errors import UsageError
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.hub.reading_limits import ReadingLimits
    from hf_lorameta.training.tasks import read_tasks
    from hf_lorameta.training.train_bank import train_bank

    settings = Settings(
        rank=rank, targets=tuple(filter(None, targets.split(","))), steps=steps, rows=rows, lr=lr,
        max_length=max_length, seed=seed, warmup=min(_DEFAULTS.warmup, steps),
        general_steps=general_steps,
    )  # fmt: skip
    curriculum = read_tasks(tasks, template and from_option(template))
    without_general = _read_names(general_without) if general_without else set()
    if on or dry_run:
        if dask:
            raise UsageError("--dask and --on jobs exclude each other")
        if general_without:
            raise UsageError(f"a job does not see {general_without}")
        from hf_lorameta.training.jobs import Request

        request = Request(
            tuple(tasks), curriculum, base, base_revision, settings, at_once, flavor, push_to,
            template, max_text,
        )  # fmt: skip
        _submit(request, dry_run, token, json, quiet)
        return
    hub = Hub(token)
    with (
        progress_bar(1, "training", quiet) as bar,
        dask_executor(dask) if dask else nullcontext() as executor,
    ):
        bank = train_bank(
            curriculum, output.resolve(), base, settings=settings, hub=hub, revision=base_revision,
            device=device, dtype=dtype, at_once=at_once, without_general=without_general,
            executor=executor, reporter=_ShownProgress(settings, bar, quiet),
            limits=ReadingLimits.of_text(max_text),
        )  # fmt: skip
    url = push_bank(bank.folder, push_to, hub=hub) if push_to else None
    _show(bank, url, json)


def _read_names(path: Path) -> set[str]:
    """Return the names in a file, which white space separates."""
    from hf_lorameta.errors import UsageError

    try:
        return set(path.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _show(bank: "Bank", url: str | None, json: bool) -> None:
    from hf_lorameta.training.train_bank import training_log

    lines = training_log(bank)
    data = {"folder": str(bank.folder), "url": url, "adapters": len(bank), "tasks": lines}
    emit(json, data, lambda: _summary(bank, lines, url))


def _summary(bank: "Bank", lines: list[dict[str, Any]], url: str | None) -> str:
    head = ["task", "rows", "base loss", "trained", "steps", "seconds"]
    trained = [line for line in lines if "skipped" not in line]
    cells = [
        [t["task"], t["rows"], f"{t['base_loss']:.3f}", f"{t['loss']:.3f}", t["steps"],
         f"{t['seconds']:.0f}"]
        for t in trained
    ]  # fmt: skip
    text = [f"{len(bank)} adapters for {bank.index.base_model}", "", table(head, cells)]
    skipped = [line for line in lines if "skipped" in line]
    if skipped:
        text += ["", f"{len(skipped)} skipped:"]
        text += [f"  {line['task']}: {line['skipped']}" for line in skipped]
    return "\n".join([*text, "", f"Use it with --bank {url or bank.folder}"])


class _ShownProgress(Reporter):
    """Shows losses and the time left: a bar on a terminal, a line per task otherwise."""

    def __init__(self, settings: Settings, bar: Any, quiet: bool) -> None:
        self._settings, self._bar, self._quiet = settings, bar, quiet
        self._steps: dict[str, int] = {}
        self._steps_of_task = settings.steps
        self._done = self._total = self._left = 0
        self._start = time.monotonic()

    def start_general(self, steps: int) -> None:
        self._steps_of_task = steps
        self._bar.reset(total=steps)
        log(self._quiet, f"training the general adapter, {steps} steps")

    def general(self, log_: Log) -> None:
        self._steps.clear()
        self._steps_of_task = self._settings.steps
        self._start = time.monotonic()
        log(
            self._quiet,
            f"general adapter: loss {log_.base_loss:.3f} → {log_.loss:.3f} on {log_.held_out} "
            f"held-out rows, {log_.steps} steps, {log_.seconds:.0f} s",
        )

    def start(self, tasks: int, finished: int) -> None:
        self._done, self._total, self._left = finished, tasks, tasks - finished
        self._bar.reset(total=self._left * self._settings.steps)
        if finished:
            log(self._quiet, f"{finished} of {tasks} tasks are finished already")

    def step(self, progress: Progress) -> None:
        before = self._steps.get(progress.name, 0)
        after = self._steps_of_task if progress.finished else progress.step
        self._steps[progress.name] = after
        if self._bar.disable:
            return
        self._bar.set_postfix_str(
            f"{progress.name[:24]} {progress.base_loss:.2f} → {progress.loss:.2f}", refresh=False
        )
        self._bar.update(after - before)

    def task(self, task: "Task", outcome: "Outcome", log_: Log | None) -> None:
        self._done += 1
        self._left -= 1
        self._steps[task.name] = self._settings.steps
        reason = getattr(outcome, "reason", None)
        if reason or log_ is None:
            result = f"skipped: {reason}"
        else:
            result = (
                f"loss {log_.base_loss:.3f} → {log_.loss:.3f} on {log_.held_out} held-out rows, "
                f"{log_.steps} steps, {log_.seconds:.0f} s"
            )
        message = f"[{self._done}/{self._total}] {task.name}: {result}{self._time_left()}"
        if self._bar.disable:
            log(self._quiet, message)
        else:
            self._bar.write(message)

    def _time_left(self) -> str:
        """Estimate the time left from the steps taken since the start."""
        taken = sum(self._steps.values())
        if not self._left:
            return ""
        total = taken + self._left * self._settings.steps
        total -= sum(n for n in self._steps.values() if n < self._settings.steps)
        seconds = (time.monotonic() - self._start) * (total - taken) / max(taken, 1)
        return f"; about {duration(seconds)} left"


def _submit(request: "Request", dry_run: bool, token: str | None, json: bool, quiet: bool) -> None:
    """Print what a job will cost, and submit it."""
    from hf_lorameta.training import jobs

    estimate = jobs.estimate(request, token)
    log(quiet or dry_run, _cost(estimate))
    url = None if dry_run else jobs.submit(request, token)
    data = estimate._asdict() | {"url": url}
    emit(json, data, lambda: url or _cost(estimate))


def _cost(estimate: "Estimate") -> str:
    hours = "an unknown time" if estimate.hours is None else f"about {estimate.hours:.1f} h"
    dollars = "" if estimate.dollars is None else f", ${estimate.dollars:.2f}"
    price = "" if estimate.hourly is None else f" at ${estimate.hourly:.2f} per hour"
    return f"{estimate.tasks} tasks on {estimate.flavor}: {hours}{dollars}{price} (estimated)"
