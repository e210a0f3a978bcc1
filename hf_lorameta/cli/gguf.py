"""The commands for llama.cpp and Ollama: export and try."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.adapters import AdapterArgument
from hf_lorameta.cli.options import (
    BaseGgufOption,
    JsonFlag,
    QuietFlag,
    emit,
    example,
    log,
    printable,
)

if TYPE_CHECKING:
    from hf_lorameta.engines.llama_client import LlamaCpp


@example(
    "hf-lorameta export my-adapter -o my-adapter.gguf",
    "hf-lorameta export user/adapter -o adapter.gguf --dtype f32",
)
def export(
    adapter: AdapterArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The GGUF file.")],
    dtype: Annotated[Literal["f16", "f32"], typer.Option(help="Of the weights written.")] = "f16",
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    base: Annotated[
        str | None, typer.Option(help="Folder or repo whose config.json to use.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write any PEFT LoRA adapter as GGUF, for llama.cpp and Ollama (extra: gguf)."""
    from hf_lorameta.environment import require_extra
    from hf_lorameta.errors import UsageError
    from hf_lorameta.formats.gguf_adapter import export as write
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.base_model import config_json
    from hf_lorameta.pipeline.adapter_folder import locate_adapter

    if output.exists() and (output.is_dir() or not overwrite):
        what = "a folder" if output.is_dir() else "there already"
        raise UsageError(f"{output} is {what}", hint="name another with -o, or add --overwrite")
    require_extra("gguf", extra="gguf")
    folder = locate_adapter(adapter)
    base_model = base or check_adapter(folder)[0].base_model
    if not base_model:
        raise UsageError(f"{adapter} does not name its base model", hint="add --base REPO")
    write(folder, output, config_json(base_model), dtype)
    size = output.stat().st_size
    log(quiet, f"llama.cpp: llama-server -m base.gguf --lora {output}")
    data = {"file": str(output), "bytes": size, "dtype": dtype, "base_model": base_model}
    emit(json, data, lambda: str(output))


@example(
    "hf-lorameta try my-adapter --prompt 'The input of a row'",
    "hf-lorameta try user/adapter --base-gguf base.gguf",
    "hf-lorameta try my-adapter --template 'Question: {}\\nAnswer:'",
)
def try_(
    adapter: AdapterArgument,
    prompt: Annotated[
        str | None, typer.Option(help="What to continue; left out: a conversation.")
    ] = None,
    template: Annotated[
        str, typer.Option(help=r"What you type goes where {} stands; \n is a line break.")
    ] = "{}",
    base_gguf: BaseGgufOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 64,
    compare: Annotated[bool, typer.Option(help="Show the base model's answer too.")] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Ask an adapter through llama.cpp, on a CPU, without torch (extra: gguf)."""
    from hf_lorameta.engines.gguf_files import adapter_gguf
    from hf_lorameta.engines.gguf_files import base_gguf as find
    from hf_lorameta.engines.llama_client import LlamaCpp
    from hf_lorameta.errors import UsageError
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.pipeline.adapter_folder import locate_adapter

    if "{}" not in template:
        raise UsageError("the template has no {}", hint="add --template 'Input: {}\\nOutput:'")
    folder = locate_adapter(adapter)
    base = find(check_adapter(folder)[0].base_model, base_gguf)
    around = template.replace("\\n", "\n")
    with LlamaCpp(base, [adapter_gguf(folder, base)]) as engine:
        if prompt is None and not json:
            _converse(engine, around, max_tokens, compare, quiet)
            return
        asked = sys.stdin.read().rstrip("\n") if prompt is None else prompt
        text = around.replace("{}", asked)
        answer = "".join(_answer(engine, text, 0, max_tokens)).strip()
        data = {"prompt": text, "answer": answer, "base_model_gguf": str(base)}
        if compare:
            data["base"] = "".join(_answer(engine, text, None, max_tokens)).strip()
        emit(json, data, lambda: _both(answer, data.get("base")))


def _both(answer: str, base: str | None) -> str:
    return answer if base is None else f"adapter: {answer}\nbase:    {base}"


def _answer(engine: "LlamaCpp", text: str, place: int | None, limit: int) -> Iterator[str]:
    prompt = engine.start + engine.tokenize(text) or engine.first
    yield from engine.answer(prompt, place, max_tokens=limit)


def _converse(engine: "LlamaCpp", around: str, limit: int, compare: bool, quiet: bool) -> None:
    """Answer line by line until the input ends; each line stands alone."""
    spoken = sys.stdin.isatty() and not quiet
    if spoken:
        log(quiet, "Type and press Enter; each line is asked on its own. Ctrl-D ends.")
    while True:
        if spoken:
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        text = around.replace("{}", line.rstrip("\n").replace("\\n", "\n"))
        speakers = [(0, "adapter: "), (None, "base:    ")] if compare else [(0, "")]
        for place, name in speakers:
            typer.echo(name, nl=False)
            _speak(_answer(engine, text, place, limit))


def _speak(pieces: Iterator[str]) -> None:
    """Print an answer as it comes, without the space or line break in front."""
    started = False
    for piece in pieces:
        shown = piece if started else piece.lstrip()
        started = started or bool(shown)
        typer.echo(printable(shown), nl=False)
        sys.stdout.flush()
    typer.echo()


COMMANDS: tuple[Any, ...] = (export, try_)
