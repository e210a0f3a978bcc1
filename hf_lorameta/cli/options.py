"""Options that several commands share, written down once."""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta import recipe as recipes
from hf_lorameta.recipe import REGISTRIES, Dtype

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.recipe import Recipe

    MetricName = str
    RuleName = str
    CombinerName = str
    RefinerName = str
else:  # the choices that commands check and list in their help
    MetricName = Literal[tuple(REGISTRIES["metric"])]
    RuleName = Literal[tuple(REGISTRIES["coefficients"])]
    CombinerName = Literal[tuple(REGISTRIES["combine"])]
    RefinerName = Literal[tuple(REGISTRIES["refiner"])]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
ConfigOption = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")]
SplitOption = Annotated[
    str | None, typer.Option(help="Split; train, or the only one, if left out.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a Hub dataset.")]
ColumnsOption = Annotated[
    str | None, typer.Option(help="Which columns to read: input=COLUMN,output=COLUMN.")
]

ExportOption = Annotated[
    Literal["gguf"] | None,
    typer.Option(help="gguf: add the adapter for llama.cpp and Ollama (extra: gguf)."),
]
EngineOption = Annotated[
    Literal["transformers", "llama.cpp"],
    typer.Option(
        help="What runs the base model, where one is needed. llama.cpp: no torch, a base in 4 "
        "bits will do (extra: gguf instead of eval)."
    ),
]
BaseGgufOption = Annotated[
    Path | None,
    typer.Option(help="GGUF of the base model; found by itself for the demo's."),
]


@dataclasses.dataclass(frozen=True)
class Request:
    """What plan, generate and push are asked for."""

    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Hub id, or a jsonl, json, csv, tsv or parquet file."),
    ] = None
    bank: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub repo of a bank. Left out: $HF_LORAMETA_BANK, else the small bank "
            "that comes with this package."
        ),
    ] = None
    bank_revision: Annotated[str | None, typer.Option(help="Revision of a bank repo.")] = None
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(help="paper: arXiv 2507.01806 to the letter."),
    ] = "default"
    metric: Annotated[MetricName | None, typer.Option(help="Distance between datasets.")] = None
    coefficients: Annotated[
        RuleName | None, typer.Option(help="Rule from distances to coefficients.")
    ] = None
    combine: Annotated[
        CombinerName | None,
        typer.Option(help="factors: average A and B apart; exact: best rank-r of the true sum."),
    ] = None
    top_k: Annotated[int | None, typer.Option(help="Use the k largest coefficients only.")] = None
    temperature: Annotated[
        float | None, typer.Option(help="Of the softmin; below 1 is sharper.")
    ] = None
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights written.")] = None
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None
    config: ConfigOption = None
    split: SplitOption = None
    revision: RevisionOption = None
    columns: ColumnsOption = None
    max_rows: Annotated[int | None, typer.Option(help="Read at most so many rows.")] = None
    refine: Annotated[
        int | None,
        typer.Option(help="Fit the coefficients on so many rows, e.g. 16 (extra: eval or gguf)."),
    ] = None
    refiner: Annotated[
        RefinerName | None,
        typer.Option(help="search: forward passes alone; gradient: fewer steps, more memory."),
    ] = None
    check: Annotated[
        int | None,
        typer.Option(
            help="Score the adapter on so many other rows, e.g. 16, and weaken it until it is not "
            "worse than the base model (extra: eval or gguf)."
        ),
    ] = None

    def open_dataset(self) -> "Dataset":
        """The dataset that was named.

        Raises:
            UsageError: none was.
        """
        from hf_lorameta.errors import UsageError

        if self.dataset is None:
            raise UsageError("no dataset was named", hint="add --dataset user/name, or a file")
        return open_named(self.dataset, self.config, self.split, self.revision, self.columns)

    def open_bank(self) -> "Bank":
        """The bank that was named, or the default."""
        from hf_lorameta.bank.bank import Bank

        return Bank.from_pretrained(self.bank, revision=self.bank_revision)

    def make_recipe(self) -> "Recipe":
        """The recipe: the named one with what was set besides."""
        names = set(recipes.Recipe.model_fields) & {f.name for f in dataclasses.fields(self)}
        given = {name: getattr(self, name) for name in names}
        settings = {name: value for name, value in given.items() if value is not None}
        make = recipes.Recipe.paper if self.recipe == "paper" else recipes.Recipe.of
        return make(**settings)


def open_named(
    dataset: str, config: str | None, split: str | None, revision: str | None, columns: str | None
) -> "Dataset":
    """Open a dataset as the command line names it."""
    from hf_lorameta.data.columns import parse_columns
    from hf_lorameta.data.dataset import open_dataset

    chosen = parse_columns(columns) if columns else None
    return open_dataset(dataset, config=config, split=split, revision=revision, columns=chosen)


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `Request`, handed over as its argument ``request``."""
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

    @functools.wraps(command)
    def run(**options: Any) -> None:
        asked = {field.name: options.pop(field.name) for field in dataclasses.fields(Request)}
        command(request=Request(**asked), **options)

    parameters = [shared[0], *own, *shared[1:]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def example(*lines: str) -> Callable[[Callable[..., None]], Any]:
    """Attach examples to a command, shown below its help."""

    def attach(command: Any) -> Any:
        command.__example__ = "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])
        return command

    return attach


def emit(as_json: bool, data: object, text: Callable[[], str]) -> None:
    """Print a result on stdout, as JSON or for people."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, allow_nan=False))
    else:
        typer.echo(printable(text()))


def printable(text: str) -> str:
    """Text without control characters, which others' names could hold to trick a terminal.

    Example:
        >>> printable("a\\x1b[2Jb\\n")
        'a?[2Jb\\n'
    """
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def log(quiet: bool, message: str) -> None:
    """Say something on stderr."""
    if not quiet:
        typer.echo(printable(message), err=True)


@contextmanager
def progress_bar(total: int, what: str, quiet: bool) -> Iterator[Any]:
    """A bar on stderr, on terminals only."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=total, desc=what, disable=hidden, file=sys.stderr) as bar:
        yield bar


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Columns lined up, numbers to the right.

    Example:
        >>> print(table(["name", "n"], [["a", 10], ["long", 2]]))
        name   n
        a     10
        long   2
    """
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in cells) for i, _ in enumerate(head)]
    lines = [list(head), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").replace("-", "").replace("e", "").replace("%", "").isdecimal()


def megabytes(size: int) -> str:
    """A size for people.

    Example:
        >>> megabytes(1_500_000)
        '1.5 MB'
    """
    return f"{size / 1e6:.1f} MB"


FolderArgument = Annotated[Path, typer.Argument(help="Folder of a bank.")]
