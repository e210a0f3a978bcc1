"""The commands for llama.cpp and Ollama: export and try."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_lorameta.cli.options import (
    AdapterArgument,
    BaseGgufOption,
    JsonFlag,
    QuietFlag,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, log, printable
from hf_lorameta.data.prompt import as_option, from_option, join_instruction
from hf_lorameta.errors import AdapterError, Option, UsageError

if TYPE_CHECKING:
    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.engines.llama_cpp.server import LlamaCpp


@example(
    "hf-lorameta export my-adapter",
    "hf-lorameta export user/adapter -o adapter.gguf --dtype f32",
)
def export(
    adapter: AdapterArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The GGUF file. Default: the adapter's name.", show_default=False
        ),
    ] = None,
    dtype: Annotated[Literal["f16", "f32"], typer.Option(help="Dtype of the weights.")] = "f16",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="Folder or repo whose config.json to use.")
    ] = None,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write any PEFT LoRA adapter as GGUF, for llama.cpp and Ollama (extra: gguf)."""
    from hf_lorameta.environment import require_extra
    from hf_lorameta.formats.gguf_adapter import export as write
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.base_model import config_json
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import locate_adapter

    output = output or Path(f"{Path(adapter).expanduser().resolve().name}.gguf")
    if output.is_dir():
        raise UsageError(f"{output} is a folder", hint=Option("output", "FILE"))
    if output.exists() and not overwrite:
        hint = [Option("output", change="name another"), Option("overwrite", True)]
        raise UsageError(f"{output} exists already", hint=hint)
    require_extra("gguf", extra="gguf")
    folder = locate_adapter(adapter, hub=Hub(token))
    config = check_adapter(folder)[0]
    base_model, revision = (base, None) if base else (config.base_model, config.revision)
    if not base_model:
        raise UsageError(f"{adapter} does not name its base model", hint=Option("base", "REPO"))
    write(folder, output, config_json(base_model, revision, token), dtype)
    size = output.stat().st_size
    log(quiet, f"llama.cpp: llama-server -m base.gguf --lora {output}")
    data = {"file": str(output), "bytes": size, "dtype": dtype, "base_model": base_model}
    emit(json, data, lambda: str(output))


@example(
    "hf-lorameta try my-adapter --prompt 'The input of a row'",
    "hf-lorameta try user/adapter --base base.gguf",
    "hf-lorameta try adapter.gguf --base base.gguf",
    "hf-lorameta try my-adapter --template 'Question: {}\\nAnswer:'",
)
def try_(
    adapter: Annotated[str, typer.Argument(help="Folder, Hub repo or GGUF file of an adapter.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Text to continue. Default: read prompts from the terminal.", show_default=False
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help=r"Text around the prompt, which replaces {}; \n is a line break, \t a tab, "
            r"\\ a backslash. "
            "Default: as the adapter's recipe says.",
            show_default=False,
        ),
    ] = None,
    base: BaseGgufOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 64,
    compare: Annotated[bool, typer.Option(help="Show the base model's answer too.")] = False,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try an adapter through llama.cpp, on a CPU, without torch (extra: gguf)."""
    from hf_lorameta.engines.llama_cpp.server import LlamaCpp

    if template is not None and "{}" not in template:
        raise UsageError("the template has no {}", hint=Option("template", r"Input: {}\nOutput:"))
    base, file, folder = _files(adapter, base, token)
    if template is None:
        fill = _recorded_prompt(folder) if folder else str
    else:
        fill = partial(from_option(template).replace, "{}")
    log(quiet, f"Loading the base model {base}")
    with LlamaCpp(base, [file]) as engine:
        if prompt is None and not json:
            _converse(engine, fill, max_tokens, compare, quiet, folder)
            return
        text = fill(sys.stdin.read().rstrip("\n") if prompt is None else prompt)
        answer = "".join(_answer(engine, text, 0, max_tokens)).strip()
        if not answer:
            log(quiet, _no_answer(folder))
        data = {"prompt": text, "answer": answer, "base_model_gguf": str(base)}
        if compare:
            data["base"] = "".join(_answer(engine, text, None, max_tokens)).strip()
        emit(json, data, lambda: _both(answer, data.get("base")))


def _files(adapter: str, base: Path | None, token: str | None) -> tuple[Path, Path, Path | None]:
    """Return the GGUF of the base model, that of the adapter, and the adapter's folder if any."""
    from hf_lorameta.engines.llama_cpp.gguf_files import adapter_gguf
    from hf_lorameta.engines.llama_cpp.gguf_files import base_gguf as find_base_gguf
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.formats.peft_config import CONFIG_FILE
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.hub.packaged_model import SMOLLM2
    from hf_lorameta.pipeline.adapter_folder import locate_adapter

    file = Path(adapter).expanduser()
    if file.suffix != ".gguf" or not file.is_file():
        folder = locate_adapter(adapter, hub=Hub(token))
        base = find_base_gguf(check_adapter(folder)[0].base_model, base)
        return base, adapter_gguf(folder, base), folder
    if (file.parent / CONFIG_FILE).exists():
        return find_base_gguf(check_adapter(file.parent)[0].base_model, base), file, file.parent
    return find_base_gguf(SMOLLM2, base), file, None  # a GGUF does not name its base model


def _recorded_prompt(folder: Path) -> Callable[[str], str]:
    """Return a function from an input to its prompt, as an adapter's recipe has it."""
    return _recorded_columns(folder).prompt_of


def _recorded_columns(folder: Path) -> "Columns":
    """Return how an adapter's recipe reads rows; empty if it has none."""
    from pydantic import ValidationError

    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.pipeline.adapter_folder import read_adapter

    provenance = read_adapter(folder).provenance or {}  # a merge has no dataset
    stored = provenance.get("dataset", {}).get("columns")
    try:
        return Columns.model_validate(stored or {})
    except ValidationError:
        raise AdapterError(
            "the adapter's recipe.json has columns that this version does not know",
            hint=["update hf-lorameta", Option("template", "{}")],
        ) from None


def _no_answer(folder: Path | None) -> str:
    """Return what to say when an answer is empty: the form of the inputs it expects."""
    form = whole = "INPUT"
    if folder:
        columns = _recorded_columns(folder)
        stand_in = "INSTRUCTION" if columns.instruction_of_input else ""
        instruction = columns.instruction_text or stand_in
        form = join_instruction(instruction, whole, columns.template)
    if form == whole:
        form = "as its dataset has them, with the instruction and the labels around each"
    return (
        f"The answer is empty: the adapter expects complete inputs: {as_option(form)}\n"
        "--template 'Question: {}\\nAnswer:' puts what they share around each text"
    )


def _both(answer: str, base: str | None) -> str:
    return answer if base is None else f"adapter: {answer}\nbase:    {base}"


def _answer(engine: "LlamaCpp", text: str, adapter: int | None, limit: int) -> Iterator[str]:
    """Yield the pieces of an answer; `adapter` None asks the base model."""
    prompt = engine.start + engine.tokenize(text) or engine.first
    yield from engine.answer(prompt, adapter, max_tokens=limit)


def _converse(
    engine: "LlamaCpp",
    fill: Callable[[str], str],
    limit: int,
    compare: bool,
    quiet: bool,
    folder: Path | None,
) -> None:
    """Answer each line of stdin on its own until it ends."""
    interactive = sys.stdin.isatty() and not quiet
    if interactive:
        log(quiet, "Type a prompt and press Enter. Lines are independent. Ctrl-D ends.")
    while True:
        if interactive:
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        text = fill(line.rstrip("\n"))
        for adapter, label in [(0, "adapter: "), (None, "base:    ")] if compare else [(0, "")]:
            typer.echo(label, nl=False)
            answered = _print_stream(_answer(engine, text, adapter, limit))
            if not answered and adapter is not None:
                log(quiet, _no_answer(folder))


def _print_stream(pieces: Iterator[str]) -> bool:
    """Print an answer as it arrives, without leading white space; return whether there is any."""
    started = False
    for piece in pieces:
        text = piece if started else piece.lstrip()
        started = started or bool(text)
        typer.echo(printable(text), nl=False)
        sys.stdout.flush()
    typer.echo()
    return started
