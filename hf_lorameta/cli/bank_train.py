"""The command ``hf-lorameta bank train``: train one adapter per task and make a bank of them."""

import dataclasses
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.bank_reports import training_report
from hf_lorameta.cli.options import (
    DaskOption,
    InstructionOption,
    TemplateOption,
    TokenOption,
    field_parameters,
    parameter,
    with_parameters,
)
from hf_lorameta.cli.output import emit, stage_bars
from hf_lorameta.data.prompt import from_option
from hf_lorameta.paths import resolved
from hf_lorameta.tables import plural
from hf_lorameta.training.settings import BankSettings

if TYPE_CHECKING:
    from hf_lorameta.training.bank.tasks import Task

_DEFAULTS = BankSettings()
_SETTINGS = {
    "rank": "Rank of the adapters.",
    "targets": "Adapted linear layers.",
    "steps": "Optimizer steps per task, at most.",
    "rows": "Rows per step.",
    "lr": "Peak learning rate.",
    "general_steps": "Steps of the general adapter that the others start from; 0: none. "
    "Default: depends on the number of tasks.",
    "general_only": "Train the general adapter and no others, for a bank of a few MB.",
    "max_length": "Tokens per row; longer inputs are cut at the beginning.",
    "forms": "Prompts of many forms, half of them in the base model's chat template; --no-forms "
    "leaves prompts as they are.",
    "seed": "Seed of initialization and order.",
}
"""The fields of `BankSettings` that are options, and their help."""
EXAMPLES = """\b
Examples:
  hf-lorameta bank train tasks/ -o my-bank --base org/model
  hf-lorameta bank train bank_manifest.yaml -o my-bank --base org/model --dry-run
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Options of ``bank train``; `chosen` holds the training settings, see `_SETTINGS`."""

    tasks: Annotated[
        list[str],
        typer.Argument(
            help="Folder of TASK.train.jsonl files, manifest (.yaml), dataset files or Hub ids."
        ),
    ]
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bank.")]
    base: Annotated[str, typer.Option(help="Base model: Hub id or folder.")]
    base_revision: Annotated[str | None, typer.Option(help="Revision of the base model.")] = None
    instruction: InstructionOption = None
    template: TemplateOption = None
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(
            help="Dtype of the base model. Default: depends on the device.", show_default=False
        ),
    ] = None
    dask: DaskOption = None
    push_to: Annotated[
        str | None, typer.Option(help="Publish the finished bank as this dataset repo.")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be trained.")
    ] = False
    token: TokenOption = None
    chosen: Mapping[str, Any]

    @property
    def settings(self) -> BankSettings:
        """The training settings."""
        targets = tuple(filter(None, self.chosen["targets"].split(",")))
        warmup = min(_DEFAULTS.warmup, self.chosen["steps"])
        return BankSettings(**{**self.chosen, "targets": targets, "warmup": warmup})

    def read_tasks(self) -> "tuple[Task, ...]":
        """Read the tasks that were named on the command line."""
        from hf_lorameta.training.bank.tasks import read_tasks

        return read_tasks(
            self.tasks,
            self.template and from_option(self.template),
            self.instruction and from_option(self.instruction),
        )


def _parameters() -> list[inspect.Parameter]:
    """Return an option for each field of `TrainRequest` and each of `_SETTINGS`."""
    settings = []
    for name, text in _SETTINGS.items():
        default = getattr(_DEFAULTS, name)
        kind: Any = type(default) if default is not None else int | None
        if name == "targets":
            kind, default = str, ",".join(default)
        option = typer.Option(help=text, show_default=default is not None)
        settings.append(parameter(name, Annotated[kind, option], default))
    tasks, output, base, *others = field_parameters(TrainRequest, without={"chosen"})
    return [tasks, output, base, *settings, *others]


_OPTIONS = _parameters()


def train(**options: Any) -> None:
    """Train a bank for any base model; run it again to resume (extra: eval)."""
    chosen = {name: options.pop(name) for name in _SETTINGS}
    request = TrainRequest(**options, chosen=chosen)
    settings, tasks = request.settings, request.read_tasks()
    if request.dry_run:
        _describe(request, tasks, settings)
    else:
        _run_here(request, tasks, settings)


command = with_parameters(train, _OPTIONS)
"""The command, with its options."""


def _run_here(request: TrainRequest, tasks: "tuple[Task, ...]", settings: BankSettings) -> None:
    from hf_lorameta.bank.executors import dask_executor
    from hf_lorameta.bank.share import push_bank
    from hf_lorameta.engines.transformers.evaluator import require_eval
    from hf_lorameta.hub.client import Hub

    require_eval()
    from hf_lorameta.training.bank.base import TrainingBase
    from hf_lorameta.training.bank.train_bank import train_bank, training_log

    hub = Hub(request.token)
    with (
        stage_bars() as progress,
        dask_executor(request.dask) if request.dask else nullcontext() as executor,
    ):
        try:
            bank = train_bank(
                tasks,
                resolved(request.output),
                TrainingBase.find(request.base, request.base_revision, hub),
                settings,
                request.dtype,
                hub=hub,
                executor=executor,
                progress=progress,
            )
        except KeyboardInterrupt as error:
            error.add_note("Run the same command again to resume: finished tasks are kept")
            raise
    url = push_bank(bank.folder, request.push_to, hub=hub) if request.push_to else None
    lines = training_log(bank)
    data = {"folder": str(bank.folder), "url": url, "adapters": len(bank), "tasks": lines}
    emit(data, lambda: training_report(bank, lines, url))


def _describe(request: TrainRequest, tasks: "tuple[Task, ...]", settings: BankSettings) -> None:
    """Print what would be trained on this machine."""
    base, count, general = request.base, len(tasks), settings.general_steps_for(len(tasks))
    lines = [f"would train for {base}, into {request.output}, where finished tasks are kept:"]
    if general:
        lines.append(f"  a general adapter, {general} steps of {settings.general_rows} rows")
    if not settings.general_only:
        each = f"at most {settings.steps} steps of {settings.rows} rows each"
        lines.append(f"  {plural(count, 'adapter')}, {each}")
    data = {
        "tasks": count, "base_model": base, "folder": str(request.output), "steps": settings.steps,
        "general_steps": general,
    }  # fmt: skip
    emit(data, lambda: "\n".join(lines))
