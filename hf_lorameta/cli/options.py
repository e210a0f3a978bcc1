"""Options that several commands share."""

import dataclasses
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeAlias

import typer

from hf_lorameta.caches import check_caches
from hf_lorameta.cli.output import print_json, stage_bars
from hf_lorameta.data.prompt import from_option
from hf_lorameta.data.sources.formats import FORMATS
from hf_lorameta.network import check_endpoint
from hf_lorameta.paths import expanded
from hf_lorameta.pipeline.budget import SHARE_FOR_CHECK, budget_seconds
from hf_lorameta.recipe import REGISTRIES, Recipe

if TYPE_CHECKING:
    CombinerName: TypeAlias = str
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.adapter_folder import Export
    from hf_lorameta.pipeline.resolve import Resolved
    from hf_lorameta.pipeline.session import Session

if not TYPE_CHECKING:  # the choices of the registry
    CombinerName = Literal[tuple(REGISTRIES["combine"])]

_PROGRESS_LOGGERS = ("hf_lorameta.hub.retry", "hf_lorameta.data.sources.hub_repos")
"""Loggers whose warnings only say why a command takes longer."""


def _silence(quiet: bool) -> None:
    """Switch off messages and progress bars, ours and those of other libraries."""
    # other libraries read these variables when they are imported
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"
    if quiet or not sys.stderr.isatty():  # they would show "0 LFS files: 0it"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if quiet and logging.getLogger("hf_lorameta").level != logging.DEBUG:  # unless --debug is given
        logging.getLogger("hf_lorameta").setLevel(logging.WARNING)
        for name in _PROGRESS_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)


TokenOption = Annotated[
    str | None,
    typer.Option(
        callback=lambda token: token and token.strip(),
        help="Hub token. Other users can see it in the list of processes: set $HF_TOKEN instead. "
        "Default: $HF_TOKEN, else the saved login (hf auth login).",
        show_default=False,
    ),
]
ConfigOption = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Split. Default: train, or the only one.", show_default=False)
]
BankBaseOption = Annotated[
    str | None,
    typer.Option(
        help="Hub id of the bank's base model; selects a bank in this package. Default: that of "
        "the bank.",
        show_default=False,
    ),
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
        "chat template, the default without a bank."
    ),
]
ExportOption = Annotated[
    Literal["gguf"] | None,
    typer.Option(help="gguf: add the adapter for llama.cpp and Ollama (extra: gguf)."),
]
OverwriteFlag = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an existing adapter."),
]
DaskOption = Annotated[
    str | None,
    typer.Option(help="Use the workers of the Dask scheduler at tcp://HOST:PORT (extra: dask)."),
]
DatasetArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DATASET",
        help=f"The same as --dataset. Files that are read end in {', '.join(FORMATS)}.",
        show_default=False,
    ),
]
AdapterArgument = Annotated[str, typer.Argument(help="Folder or Hub repo of an adapter.")]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of a bank.")]


_DEFAULT_RECIPE = Recipe()


@dataclasses.dataclass(frozen=True)
class Request:
    """The options that plan, generate and push share, and the recipe."""

    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Hub id, folder, or files; several files are one dataset.",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: Hub id, folder or .gguf file. Default: that of the bank.",
            show_default=False,
        ),
    ] = None
    base_revision: Annotated[
        str | None, typer.Option(help="Revision of the base model, if no bank is used.")
    ] = None
    bank: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub repo of a bank, or none: train on the base model itself. "
            "Default: $HF_LORAMETA_BANK, else the bank that comes with this package; none for "
            "another base model.",
            show_default=False,
        ),
    ] = None
    bank_revision: Annotated[str | None, typer.Option(help="Revision of a bank repo.")] = None
    config: ConfigOption = None
    split: SplitOption = None
    revision: RevisionOption = None
    columns: ColumnsOption = None
    instruction: InstructionOption = None
    template: TemplateOption = None
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time to load the base model, train on your rows and count right answers (that "
            f"takes up to {SHARE_FOR_CHECK:.0%} of the time after loading), e.g. 10m or 30s; a "
            "number alone is seconds. 0: only combine adapters. Default: 2m if the base model is "
            "on this machine (extra: eval).",
            show_default=False,
        ),
    ] = None
    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check",
            help="Do not count right answers: all rows are trained on, none are held out for that.",
        ),
    ] = False
    token: TokenOption = None
    recipe: Recipe = _DEFAULT_RECIPE

    @property
    def name(self) -> str | list[str] | None:
        """The dataset's name, or the list of its files."""
        return self.dataset[0] if self.dataset and len(self.dataset) == 1 else self.dataset

    @property
    def first_name(self) -> str:
        """The dataset, or the first of its files, after which a repo is named."""
        return self.dataset[0] if self.dataset else ""

    @property
    def changed(self) -> list[str]:
        """Names of the options whose values are not the defaults, without the token."""
        fields = [f for f in dataclasses.fields(self) if f.name in _OPTIONS - {"token"}]
        changed = [f.name for f in fields if getattr(self, f.name) != f.default]
        return changed + list(self.recipe.model_dump(exclude_defaults=True))

    @contextmanager
    def session(self) -> "Iterator[Session]":
        """Open this command's session, which shows progress."""
        from hf_lorameta.pipeline.session import Session

        with (
            stage_bars() as progress,
            Session(
                self.bank,
                base=self.base,
                base_revision=self.base_revision,
                bank_revision=self.bank_revision,
                token=self.token,
                progress=progress,
            ) as session,
        ):
            yield session

    def resolve(
        self,
        dataset: "Dataset",
        session: "Session",
        export: "Export | None" = None,
        *,
        only_plan: bool = False,
    ) -> "Resolved":
        """Decide what is done for the dataset, see `hf_lorameta.pipeline.resolve.resolve`."""
        from hf_lorameta.pipeline.resolve import resolve

        seconds, check = budget_seconds(self.budget), not self.no_check
        return resolve(
            dataset, session, self.recipe,
            budget=seconds, check=check, export=export, only_plan=only_plan,
        )  # fmt: skip

    def open_dataset(self, session: "Session") -> "Dataset":
        """Open the dataset that was named; reading its rows reports progress."""
        return session.open_dataset(
            self.name or "",
            config=self.config,
            split=self.split,
            revision=self.revision,
            columns=self.columns or None,
            instruction=self.instruction and from_option(self.instruction),
            template=self.template and from_option(self.template),
        )


_OPTIONS = {f.name for f in dataclasses.fields(Request)} - {"recipe"}
"""Fields of a `Request` that are options."""

RecipeName = Annotated[
    Literal["default", "paper"],
    typer.Option(help="paper: the settings of arXiv 2507.01806, unless others are given."),
]


def _recipe_parameters() -> list[inspect.Parameter]:
    """Return an option for each field of a recipe, with its description as the help."""
    parameters = [parameter("recipe", RecipeName, "default")]
    for name, field in Recipe.model_fields.items():
        kind = Literal[tuple(REGISTRIES[name])] if name in REGISTRIES else field.annotation
        option = typer.Option(help=field.description, show_default=False)
        parameters.append(parameter(name, Annotated[Optional[kind], option], None))  # noqa: UP045
    return parameters


def _make_request(options: dict[str, Any]) -> Request:
    """Make a `Request` from a command's options, and remove these from the options.

    Raises:
        RecipeError: as `Recipe.of` raises.
        UsageError: a budget that is not a time.
    """
    shared = {name: options.pop(name) for name in _OPTIONS}
    shared["dataset"] = [*(options.pop("name") or ()), *(shared["dataset"] or ())] or None
    settings = {name: options.pop(name) for name in Recipe.model_fields}
    settings = {name: value for name, value in settings.items() if value is not None}
    budget_seconds(shared["budget"])  # raises if it is not a time
    paper = options.pop("recipe") == "paper"
    recipe = Recipe.paper(**settings) if paper else Recipe.of(**settings)
    return Request(**shared, recipe=recipe)


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a `Request` and of a recipe to a command, which receives ``request``."""
    first, *shared = field_parameters(Request, without={"recipe"})
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "request"
    ]
    name = parameter("name", DatasetArgument, None)

    @functools.wraps(command)
    def run(**options: Any) -> None:
        request = _make_request(options)  # refuses wrong settings before anything is opened
        command(request=request, **options)

    return with_parameters(run, [name, first, *own, *_recipe_parameters(), *shared])


class Commands(typer.Typer):
    """Commands, each of which has the options ``--json`` and ``--quiet``."""

    def command(self, *args: Any, **settings: Any) -> Callable[[Any], Any]:
        """Add a command, as `typer.Typer.command` does."""
        add = super().command(*args, **settings)
        return lambda run: add(_with_output_options(run))


def _with_output_options(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(*, json: bool, quiet: bool, **options: Any) -> None:
        check_endpoint()  # before `huggingface_hub` is imported, which fails with another one
        check_caches()
        # a shell leaves ~ as it is in --output=~/a
        paths = {name: expanded(v) for name, v in options.items() if isinstance(v, Path)}
        command(**options | paths)

    own = inspect.signature(command).parameters.values()
    flags = [parameter(name, flag, False) for name, flag in _OUTPUT_FLAGS.items()]
    return with_parameters(run, [*own, *flags])


_OUTPUT_FLAGS = {
    "json": Annotated[bool, typer.Option("--json", callback=print_json, help="Print JSON.")],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", callback=_silence, help="Print only warnings and errors on stderr."
        ),
    ],
}


def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return an option of a command; `annotation` has its type and its help."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def field_parameters(request: type, without: Collection[str]) -> list[inspect.Parameter]:
    """Return an option for each field of a dataclass, except those in `without`."""
    fields = [field for field in dataclasses.fields(request) if field.name not in without]
    return [
        parameter(f.name, f.type, inspect.Parameter.empty if f.default is MISSING else f.default)
        for f in fields
    ]


def with_parameters(
    run: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Set the options of a command that takes any keyword arguments."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def example(*lines: str) -> Callable[[Callable[..., None]], Any]:
    """Attach examples to a command, shown below its help."""

    def attach(command: Any) -> Any:
        command.__example__ = "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])
        return command

    return attach
