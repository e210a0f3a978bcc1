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

from hf_lorameta import cli
from hf_lorameta.caches import check_caches
from hf_lorameta.cli.output import print_json, stage_bars
from hf_lorameta.data.prompt import from_option
from hf_lorameta.data.reading import TEXTS
from hf_lorameta.data.sources.formats import FORMATS
from hf_lorameta.network import check_endpoint
from hf_lorameta.paths import expanded
from hf_lorameta.pipeline.request import Request
from hf_lorameta.recipe import REGISTRIES, Recipe

if TYPE_CHECKING:
    CombinerName: TypeAlias = str
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
BankBaseOption = Annotated[
    str | None,
    typer.Option(
        help="Hub id of the bank's base model; selects a bank in this package. Default: that of "
        "the bank.",
        show_default=False,
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
_DESCRIBED = {n: field.description for n, field in Request.model_fields.items()}
ConfigOption = Annotated[str | None, typer.Option(help=_DESCRIBED["config"])]
RevisionOption = Annotated[str | None, typer.Option(help=_DESCRIBED["revision"])]
ColumnsOption = Annotated[str | None, typer.Option(help=_DESCRIBED["columns"])]
InstructionOption = Annotated[str | None, typer.Option(help=_DESCRIBED["instruction"])]
TemplateOption = Annotated[str | None, typer.Option(help=_DESCRIBED["template"])]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option("--dataset", "-d", help=_DESCRIBED["dataset"]),
]
AdapterArgument = Annotated[str, typer.Argument(help="Folder or Hub repo of an adapter.")]
FolderArgument = Annotated[Path, typer.Argument(help="Folder of a bank.")]


RecipeName = Annotated[
    Literal["default", "paper"],
    typer.Option(help="paper: the settings of arXiv 2507.01806, unless others are given."),
]


def request_options() -> dict[str, Any]:
    """Return the options for the fields of a `Request`, except `dataset`, by their names.

    A field that takes numbers and False has a switch ``--no-…`` as well.
    """
    options = dict[str, Any]()
    for name, field in Request.model_fields.items():
        kind: Any = Request.kind(name)
        kind = Literal[kind] if isinstance(kind, tuple) else kind
        option = typer.Option(help=field.description, show_default=False)
        options[name] = Annotated[Optional[kind], option]  # noqa: UP045 - of a type made here
        if Request.can_be_off(name):
            options[f"no_{name}"] = Annotated[bool, typer.Option(f"--no-{name}", help=_NOT)]
    del options["dataset"]
    return options


_NOT = "Leave that out."


def make_request(options: dict[str, Any]) -> Request:
    """Make a `Request` from a command's options, and remove these from the options.

    Raises:
        RecipeError: a setting is out of range, or two exclude each other.
        UsageError: a budget that is not a time.
    """
    names = [*(options.pop("name") or ()), *(options.pop("dataset") or ())]
    given = dict[str, Any]()
    for name in request_options():
        value = options.pop(name)
        if name.startswith("no_"):
            given |= {name.removeprefix("no_"): False} if value else {}
        elif value is not None and (value != "" or name == "instruction"):
            given[name] = from_option(value) if name in TEXTS else value
    if options.pop("recipe") == "paper":
        given = Recipe.paper().model_dump(exclude_defaults=True) | given
    return Request.of(**given, dataset=tuple(names) if len(names) > 1 else next(iter(names), None))


@contextmanager
def session_of(request: Request, token: str | None) -> "Iterator[Session]":
    """Open a command's session, which shows progress."""
    from hf_lorameta.pipeline.generate import open_session

    with (
        stage_bars() as progress,
        open_session(request, token=token, progress=progress) as session,
    ):
        session.began = cli.began
        yield session


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a `Request` to a command, which receives ``request`` and ``token``."""
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name not in ("request", "token")
    ]
    asked = [
        parameter(name, kind, False if name.startswith("no_") else None)
        for name, kind in request_options().items()
    ]
    first = [parameter("name", DatasetArgument, None), parameter("dataset", DatasetOption, None)]
    last = [parameter("recipe", RecipeName, "default"), parameter("token", TokenOption, None)]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        request = make_request(options)  # refuses wrong settings before anything is opened
        command(request=request, **options)

    return with_parameters(run, [*first, *own, *asked, *last])


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
