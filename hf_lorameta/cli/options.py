"""Options that several commands share."""

import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from hf_lorameta import recipe as recipes
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.metrics import METRICS

if TYPE_CHECKING:
    MetricName: TypeAlias = str
    RuleName: TypeAlias = str
    CombinerName: TypeAlias = str
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.session import Session
    from hf_lorameta.recipe import Recipe
    from hf_lorameta.types import StageProgress

if not TYPE_CHECKING:  # the choices of the registries
    MetricName, RuleName, CombinerName = (
        Literal[tuple(names)] for names in (METRICS, COEFFICIENT_RULES, COMBINERS)
    )

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_PROGRESS_LOGGERS = ("hf_lorameta.hub.retry", "hf_lorameta.hub.data_files")
"""Loggers whose warnings say why a command takes longer, not what its result lacks."""


def _silence(quiet: bool) -> bool:
    """Switch off messages and progress bars: ours, and those of other libraries."""
    if quiet:  # read when these libraries are imported
        os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if quiet and logging.getLogger("hf_lorameta").level != logging.DEBUG:  # unless --debug is given
        for name in _PROGRESS_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    return quiet


QuietFlag = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_silence, help="Print only warnings and errors on stderr."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        help="Hub token. Default: $HF_TOKEN, else the saved login (hf auth login).",
        show_default=False,
    ),
]
ConfigOption = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Split. Default: train, or the only one.", show_default=False)
]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a Hub dataset.")]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        help="Columns to read: input=COLUMN,output=COLUMN; also instruction=, choices= and "
        "messages=."
    ),
]
InstructionOption = Annotated[
    str | None,
    typer.Option(
        help=r"Text to put before every input, for rows without an instruction; \n is a line "
        r"break, \t a tab, \\ a backslash."
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="Prompt of a row, such as '{instruction}\\n\\n{input}'; chat: the base model's own "
        "chat template."
    ),
]
MaxTextOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Cut longer texts to this many characters, and refuse rows of more than 32 times "
        "as many bytes. Default: a million.",
    ),
]
ExportOption = Annotated[
    Literal["gguf"] | None,
    typer.Option(help="gguf: add the adapter for llama.cpp and Ollama (extra: gguf)."),
]
EngineOption = Annotated[
    Literal["transformers", "llama.cpp"],
    typer.Option(
        help="Runs the base model, where one is needed. llama.cpp needs no torch and takes a "
        "4-bit base model (extra: gguf instead of eval)."
    ),
]
BaseGgufOption = Annotated[
    Path | None,
    typer.Option(help="GGUF of the base model. Not needed for the default bank's."),
]
DaskOption = Annotated[
    str | None,
    typer.Option(help="Use the workers of the Dask scheduler at tcp://HOST:PORT (extra: dask)."),
]
DatasetArgument = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help="The same as --dataset.", show_default=False),
]
AdapterArgument = Annotated[str, typer.Argument(help="Folder or Hub repo of an adapter.")]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of a bank.")]


@dataclasses.dataclass(frozen=True)
class Request:
    """The options that plan, generate and push share."""

    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Hub id, folder, or files (jsonl, json, csv, tsv, txt or parquet; also "
            "'*.jsonl'), or - for stdin.",
        ),
    ] = None
    bank: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub repo of a bank. Default: $HF_LORAMETA_BANK, else the bank "
            "that comes with this package.",
            show_default=False,
        ),
    ] = None
    bank_revision: Annotated[str | None, typer.Option(help="Revision of a bank repo.")] = None
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(help="paper: the method of arXiv 2507.01806 without changes."),
    ] = "default"
    metric: Annotated[MetricName | None, typer.Option(help="Distance between datasets.")] = None
    coefficients: Annotated[
        RuleName | None, typer.Option(help="Rule from distances to coefficients.")
    ] = None
    combine: Annotated[
        CombinerName | None,
        typer.Option(
            help="exact: the best rank-r fit of the true sum; factors: average A and B separately; "
            "the others choose among the updates' entries and take longer."
        ),
    ] = None
    emit: Annotated[
        recipes.Emit | None,
        typer.Option(
            help="mixture: keep the adapters separate, and let PEFT's Arrow route each token "
            "between them; mixture-gks: with the general adapter subtracted (GenKnowSub)."
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Use the k largest coefficients only. Default: all, of a mixture 8.",
            show_default=False,
        ),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the coefficients; below 1 is sharper.")
    ] = None
    output_prior: Annotated[
        float | None,
        typer.Option(help="Strength of the update toward the dataset's output tokens; 0: none."),
    ] = None
    scale: Annotated[
        float | None,
        typer.Option(
            help="Factor of all coefficients. Default: 1, less if the outputs are longer than the "
            "bank's.",
            show_default=False,
        ),
    ] = None
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None
    dtype: Annotated[recipes.Dtype | None, typer.Option(help="Dtype of the weights.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None
    config: ConfigOption = None
    split: SplitOption = None
    revision: RevisionOption = None
    columns: ColumnsOption = None
    instruction: InstructionOption = None
    template: TemplateOption = None
    max_rows: Annotated[int | None, typer.Option(help="Read at most this many rows.")] = None
    max_characters: Annotated[
        int | None,
        typer.Option(min=1, help="Stop reading after this many characters. Default: a billion."),
    ] = None
    max_text: MaxTextOption = None
    refine: Annotated[
        int | None,
        typer.Option(help="Fit the coefficients on this many rows, e.g. 16 (extra: eval)."),
    ] = None
    train: Annotated[
        int | None,
        typer.Option(
            help="Train the adapter further on this many rows, e.g. 16 or 200, while that helps on "
            "rows held out (extra: eval)."
        ),
    ] = None
    check: Annotated[
        int | None,
        typer.Option(
            help="Score the adapter on this many other rows, e.g. 16, and scale it down until it "
            "is not worse than the base model (extra: eval). Without it, 16 rows are "
            "scored and reported where the base model is on this machine and small.",
            show_default=False,
        ),
    ] = None
    no_check: Annotated[bool, typer.Option("--no-check", help="Skip the automatic check.")] = False
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time to spend, e.g. 60s or 5m: chooses --train, if the base model is on this "
            "machine."
        ),
    ] = None
    token: TokenOption = None

    def session(self) -> "Session":
        """The session of this command."""
        from hf_lorameta.pipeline.session import Session

        return Session(self.bank, bank_revision=self.bank_revision, token=self.token)

    def open_dataset(self, session: "Session", progress: "StageProgress") -> "Dataset":
        """Open the dataset that was named; rows that are read are reported.

        Raises:
            UsageError: none was.
        """
        from hf_lorameta.data.prompt import from_option
        from hf_lorameta.errors import UsageError
        from hf_lorameta.hub.reading_limits import ReadingLimits
        from hf_lorameta.pipeline.progress import with_progress

        if self.dataset is None:
            raise UsageError("no dataset was named", hint="add --dataset user/name, or a file")
        limits = {"text": self.max_text, "characters": self.max_characters}
        dataset = session.open_dataset(
            self.dataset,
            config=self.config,
            split=self.split,
            revision=self.revision,
            columns=self.columns or None,
            instruction=self.instruction and from_option(self.instruction),
            template=self.template and from_option(self.template),
            limits=ReadingLimits(**{k: v for k, v in limits.items() if v is not None}),
        )
        return with_progress(dataset, progress)

    def make_recipe(self) -> "Recipe":
        """The named recipe with the settings that were given.

        Raises:
            RecipeError: as `Recipe.of` and `Recipe.paper` raise.
            UsageError: a budget, which chooses `train`, with the paper's recipe or a mixture.
        """
        from hf_lorameta.errors import UsageError

        if self.recipe == "paper" and self.budget:
            raise UsageError(
                "--budget chooses --train, and the paper's recipe trains nothing",
                hint="leave out one of --budget and --recipe",
            )
        names = set(recipes.Recipe.model_fields) & {f.name for f in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names}
        settings = {name: value for name, value in values.items() if value is not None}
        make = recipes.Recipe.paper if self.recipe == "paper" else recipes.Recipe.of
        recipe = make(**settings)
        if recipe.is_mixture and self.budget:
            raise UsageError(
                "--budget chooses --train, and a mixture trains nothing",
                hint=f"leave out one of --budget and --emit {recipe.emit}",
            )
        return recipe


def one_dataset(argument: str | None, option: str | None) -> str | None:
    """Return the dataset that was named as an argument or with ``--dataset``.

    Raises:
        UsageError: both name one.
    """
    from hf_lorameta.errors import UsageError

    if argument is not None and option is not None:
        raise UsageError(f"two datasets: {argument} and --dataset {option}", hint="name one")
    return option if argument is None else argument


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """Add every option of `Request` to a command, which receives them as ``request``."""
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for field in dataclasses.fields(Request)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "request"
    ]

    name = inspect.Parameter(
        "name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=DatasetArgument
    )

    @functools.wraps(command)
    def run(**options: Any) -> None:
        request = {field.name: options.pop(field.name) for field in dataclasses.fields(Request)}
        request["dataset"] = one_dataset(options.pop("name"), request["dataset"])
        command(request=Request(**request), **options)

    parameters = [name, shared[0], *own, *shared[1:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def example(*lines: str) -> Callable[[Callable[..., None]], Any]:
    """Attach examples to a command, shown below its help."""

    def attach(command: Any) -> Any:
        command.__example__ = "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])
        return command

    return attach
