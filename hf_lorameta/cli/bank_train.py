"""The command ``hf-lorameta bank train``: train an adapter per task and make a bank of them."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.options import (
    DaskOption,
    InstructionOption,
    JsonFlag,
    MaxTextOption,
    QuietFlag,
    TemplateOption,
    TokenOption,
)
from hf_lorameta.cli.output import emit, log, stage_bars, table
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.tables import plural
from hf_lorameta.training.progress import Log, Reporter, TaskProgress
from hf_lorameta.training.settings import Settings
from hf_lorameta.types import StageProgress

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.bank.build import Outcome
    from hf_lorameta.training.jobs import JobEstimate, JobRequest
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
    instruction: InstructionOption = None,
    template: TemplateOption = None,
    max_text: MaxTextOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of initialization and order.")
    ] = _DEFAULTS.seed,
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
        bool,
        typer.Option(
            "--dry-run",
            help="Print only what would be trained and the estimated time; with --on jobs, the "
            "time and cost of the job.",
        ),
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
    curriculum = read_tasks(
        tasks, template and from_option(template), instruction and from_option(instruction)
    )
    without_general = _read_names(general_without) if general_without else set()
    if dry_run and not on:
        _describe(settings, len(curriculum), base, base_revision, output, json)
        return
    if on:
        if dask:
            raise UsageError("--dask and --on jobs exclude each other")
        if general_without:
            raise UsageError(f"a job does not see {general_without}")
        from hf_lorameta.training.jobs import JobRequest

        request = JobRequest(
            tuple(tasks), curriculum, base, base_revision, settings, at_once, flavor, push_to,
            template, max_text, instruction, device, dtype,
        )  # fmt: skip
        _submit(request, dry_run, token, json, quiet)
        return
    hub = Hub(token)
    with (
        stage_bars(quiet) as stage,
        dask_executor(dask) if dask else nullcontext() as executor,
    ):
        bank = train_bank(
            curriculum, output.resolve(), base, settings=settings, hub=hub, revision=base_revision,
            device=device, dtype=dtype, at_once=at_once, without_general=without_general,
            executor=executor, reporter=_ShownProgress(settings, stage, quiet),
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
    text = [f"{plural(len(bank), 'adapter')} for {bank.index.base_model}", "", table(head, cells)]
    skipped = [line for line in lines if "skipped" in line]
    if skipped:
        text += ["", f"{len(skipped)} skipped:"]
        text += [f"  {line['task']}: {line['skipped']}" for line in skipped]
    return "\n".join([*text, "", f"Use it with --bank {url or bank.folder}"])


class _ShownProgress(Reporter):
    """Shows the steps with the time left, and the losses of finished tasks.

    Args:
        settings: of the training.
        stage: called with (title, steps taken, all steps).
        quiet: show no losses.
    """

    def __init__(self, settings: Settings, stage: StageProgress, quiet: bool) -> None:
        self._settings, self._stage, self._quiet = settings, stage, quiet
        self._finished = self._tasks = 0

    def start_general(self, steps: int) -> None:
        log(self._quiet, f"training the general adapter, {steps} steps")
        self._begin("Training the general adapter", steps, 1)

    def general(self, log_: Log) -> None:
        log(
            self._quiet,
            f"general adapter: loss {log_.base_loss:.3f} → {log_.loss:.3f} on {log_.held_out} "
            f"held-out rows, {log_.steps} steps, {log_.seconds:.0f} s",
        )

    def start(self, tasks: int, finished: int) -> None:
        self._finished, self._tasks = finished, tasks
        if finished:
            log(self._quiet, f"{finished} of {tasks} tasks are finished already")
        self._begin("Training the adapters", self._settings.steps, tasks - finished)

    def step(self, progress: TaskProgress) -> None:
        self._take(progress.name, self._each if progress.finished else progress.step)

    def task(self, task: "Task", outcome: "Outcome", log_: Log | None) -> None:
        self._finished += 1
        self._take(task.name, self._each)
        reason = getattr(outcome, "reason", None)
        if reason or log_ is None:
            result = f"skipped: {reason}"
        else:
            result = (
                f"loss {log_.base_loss:.3f} → {log_.loss:.3f} on {log_.held_out} held-out rows, "
                f"{log_.steps} steps, {log_.seconds:.0f} s"
            )
        log(self._quiet, f"[{self._finished}/{self._tasks}] {task.name}: {result}")

    def _begin(self, title: str, steps: int, tasks: int) -> None:
        self._title, self._each, self._total = title, steps, steps * tasks
        self._steps: dict[str, int] = {}
        if tasks:
            self._stage(title, 0, self._total)

    def _take(self, name: str, steps: int) -> None:
        """Show the steps of all tasks; one that ends early has taken all of its own."""
        self._steps[name] = steps
        self._stage(self._title, sum(self._steps.values()), self._total)


def _describe(
    settings: Settings, tasks: int, base: str, revision: str | None, output: Path, json: bool
) -> None:
    """Print what would be trained on this machine, and how long it takes if that is known."""
    from hf_lorameta.hub.base_model import size_at_hand
    from hf_lorameta.pipeline.budget import measure_operations
    from hf_lorameta.training.jobs import operations

    size, general = size_at_hand(base, revision), settings.general_steps_for(tasks)
    seconds = operations(settings, tasks, size) / measure_operations() if size else None
    lines = [f"would train for {base}, into {output}, where finished tasks are kept:"]
    if general:
        lines.append(f"  a general adapter, {general} steps of {settings.general_rows} rows")
    lines.append(
        f"  {plural(tasks, 'adapter')}, at most {settings.steps} steps of {settings.rows} rows each"
    )
    if seconds:
        lines.append(f"at most about {duration(seconds)} on this CPU (estimated for short rows)")
    else:
        lines.append(f"time unknown: the base model is not on this machine: hf download {base}")
    lines.append("--on jobs --dry-run: time and cost on Hugging Face Jobs")
    data = {
        "tasks": tasks, "base_model": base, "folder": str(output), "steps": settings.steps,
        "general_steps": general, "seconds": seconds,
    }  # fmt: skip
    emit(json, data, lambda: "\n".join(lines))


def _submit(
    request: "JobRequest", dry_run: bool, token: str | None, json: bool, quiet: bool
) -> None:
    """Print what a job will cost, and submit it."""
    from hf_lorameta.training import jobs

    estimate = jobs.estimate_job(request, token)
    log(quiet or dry_run, _cost(estimate))
    url = None if dry_run else jobs.submit(request, token)
    data = estimate._asdict() | {"url": url}
    emit(json, data, lambda: url or _cost(estimate))


def _cost(estimate: "JobEstimate") -> str:
    hours = "an unknown time" if estimate.hours is None else f"about {estimate.hours:.1f} h"
    dollars = "" if estimate.dollars is None else f", ${estimate.dollars:.2f}"
    price = "" if estimate.hourly is None else f" at ${estimate.hourly:.2f} per hour"
    return f"{estimate.tasks} tasks on {estimate.flavor}: {hours}{dollars}{price} (estimated)"
