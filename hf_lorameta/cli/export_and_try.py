"""The commands that try an adapter, and export it for llama.cpp and Ollama."""

import logging
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.options import (
    AdapterArgument,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, prints_json
from hf_lorameta.data.prompt import as_option, as_unicode, from_option
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.quoting import shell

if TYPE_CHECKING:
    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.formats.gguf_adapter import Dtype

logger = logging.getLogger(__name__)

BaseOption = Annotated[
    str | None,
    typer.Option(
        help="Base model: Hub id, folder or GGUF file. Default: the one that the adapter names.",
        show_default=False,
    ),
]


@example(
    "hf-lorameta export my-adapter",
    "hf-lorameta export user/adapter -o adapter.gguf --dtype f32",
    "hf-lorameta export my-adapter --format mlx",
)
def export(
    adapter: AdapterArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The GGUF file, or the folder for mlx. Default: the adapter's name.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Literal["gguf", "mlx"],
        typer.Option("--format", help="gguf: for llama.cpp and Ollama; mlx: for mlx-lm on a Mac."),
    ] = "gguf",
    dtype: Annotated[Literal["f16", "f32"], typer.Option(help="Dtype of the weights.")] = "f16",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="Folder or repo whose config.json to use.")
    ] = None,
    token: TokenOption = None,
) -> None:
    """Write a plain LoRA adapter of PEFT for llama.cpp and Ollama (extra: gguf), or for mlx-lm."""
    if to == "mlx":
        _export_mlx(adapter, output, dtype, overwrite, base, token)
        return
    from hf_lorameta.environment import require_extra
    from hf_lorameta.formats.gguf_adapter import export as write
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.base_model import config_json
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.hub.packaged_model import SMOLLM2, SMOLLM2_GGUF
    from hf_lorameta.pipeline.adapter_folder import base_model_of, locate_adapter

    output = output or Path(f"{resolved(expanded(adapter)).name}.gguf")
    if output.is_dir():
        raise UsageError(
            f"{output} is a folder", code="output.is-a-folder", hint=Option("output", "FILE")
        )
    if output.exists() and not overwrite:
        hint = [Option("output", change="name another"), Option("overwrite", True)]
        raise UsageError(f"{output} exists already", code="output.exists", hint=hint)
    require_extra("gguf", extra="gguf")
    folder = locate_adapter(adapter, hub=Hub(token))
    config = check_adapter(folder)[0]
    base_model, revision = base_model_of(adapter, config, base)
    write(folder, output, config_json(base_model, revision, token), dtype)
    size = output.stat().st_size
    source = f" (from the Hub: {SMOLLM2_GGUF})" if base_model == SMOLLM2 else ""
    logger.info(f"To run it in llama.cpp, with {base_model} as base.gguf{source}:")
    logger.info(shell("llama-server", "-m", "base.gguf", "--lora", output))
    with suppress(AdapterError):  # its recipe is of another version
        if (form := as_option(_recorded_columns(folder).prompt_of("{}"))) != "{}":
            logger.info(f"Its prompts have this form, with an input in place of {{}}: {form}")
    data = {"file": str(output), "bytes": size, "dtype": dtype, "base_model": base_model}
    emit(data, lambda: str(output))


def _export_mlx(
    adapter: str,
    output: Path | None,
    dtype: "Dtype",
    overwrite: bool,
    base: str | None,
    token: str | None,
) -> None:
    from hf_lorameta.formats import mlx_adapter
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import (
        base_model_of,
        locate_adapter,
        new_folder,
        require_free_target,
    )

    output = output or Path(f"{resolved(expanded(adapter)).name}-mlx")
    require_free_target(output, overwrite, mlx_adapter.FILES.__contains__)
    folder = locate_adapter(adapter, hub=Hub(token))
    base_model, _ = base_model_of(adapter, check_adapter(folder)[0], base)
    with new_folder(output) as new:
        mlx_adapter.export(folder, new, dtype)
    logger.info("To run it on a Mac:")
    logger.info(shell("mlx_lm.generate", "--model", base_model, "--adapter-path", output))
    data = {"folder": str(output), "dtype": dtype, "base_model": base_model}
    emit(data, lambda: str(output))


@example(
    "hf-lorameta try my-adapter --prompt 'The input of a row'",
    "hf-lorameta try user/adapter --compare",
    "hf-lorameta try my-adapter --template 'Question: {}\\nAnswer:'",
)
def try_(
    adapter: AdapterArgument,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Text to continue. Default: each line of standard input, or with --json all of "
            "it.",
            show_default=False,
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
    base: BaseOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=512, help="Length of an answer.")] = 64,
    compare: Annotated[bool, typer.Option(help="Show the base model's answer too.")] = False,
    token: TokenOption = None,
) -> None:
    """Answer prompts with an adapter (extra: eval)."""
    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.data.questions import Question
    from hf_lorameta.engines.adapter_weights import adapter_weights
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.answering import attached
    from hf_lorameta.pipeline.evaluate import open_evaluator
    from hf_lorameta.pipeline.predict import open_predictor

    if template is not None and "{}" not in template:
        raise UsageError(
            "the template has no {}",
            code="template.no-input",
            hint=Option("template", r"Input: {}\nOutput:"),
        )
    predictor = open_predictor(adapter, Hub(token), base, max_tokens)
    if template is None:
        fill = (predictor.columns or Columns()).prompt_of
    else:
        fill = partial(from_option(template).replace, "{}")
    rounds = prompt is None or compare  # for one answer, it takes longer than it saves
    evaluator = open_evaluator(*predictor.answering.base, token, max_tokens, rounds)
    weights = adapter_weights(predictor.answering.folder)
    asked: Iterable[str] = sys.stdin if prompt is None else [prompt]
    if prompt is None:
        logger.info(_what_is_read())
    else:
        logger.info("Answering")
    if prompt is None and prints_json():
        asked = [sys.stdin.read()]
    for text in asked:
        asking = fill(as_unicode(text.rstrip("\n") if prompt is None else text))
        data: dict[str, Any] = {"prompt": asking}
        if predictor.choice:
            with attached(evaluator, predictor.answering) as answer:
                [found] = answer([Question(asking)])
            data |= {"answer": found.answer, "probability": found.probability}
        else:
            data["answer"] = evaluator.answer(asking, weights)
        shown = data["answer"]
        if not shown:
            logger.info(_NO_ANSWER)
        if compare:
            data["base"] = evaluator.answer(asking)
            shown = f"adapter: {shown}\nbase:    {data['base']}"
        emit(data, partial(str, shown))


def _what_is_read() -> str:
    """Say what of standard input is a prompt, and how to give one otherwise."""
    if prints_json():
        return "Reading a prompt, all of standard input. To give one: --prompt TEXT"
    if sys.stdin.isatty():
        return "Type a prompt and press Enter. Lines are independent. Ctrl-D ends."
    return "Reading prompts, one in each line of standard input. To give one: --prompt TEXT"


_NO_ANSWER = (
    "The answer is empty: the adapter may expect inputs like those of its dataset; "
    "--template 'Question: {}\\nAnswer:' puts what they share around each prompt"
)


def _recorded_columns(folder: Path) -> "Columns":
    """Return how an adapter's recipe reads rows; empty if it has no recipe.

    Raises:
        AdapterError: the recipe is one of another version.
    """
    from hf_lorameta.cards.record import RECIPE_FILE
    from hf_lorameta.data.columns.columns import Columns
    from hf_lorameta.pipeline.adapter_folder import read_adapter

    adapter = read_adapter(folder)
    if adapter.record is None and (folder / RECIPE_FILE).exists():
        unknown = f"{folder / RECIPE_FILE} is not a recipe of this version of hf-lorameta"
        hint = Option("template", "{}")
        raise AdapterError(unknown, code="recipe.unknown-columns", hint=hint)
    return adapter.columns or Columns()
