"""What runs the base model for a command: transformers, or llama.cpp."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_lorameta.cli.options import Request, log

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.engines.interfaces import BaseModelRunner
    from hf_lorameta.engines.scoring import Evaluator
    from hf_lorameta.pipeline.plan import Plan


def check_options(engine: str, base: Path | None, base_gguf: Path | None) -> None:
    """Refuse a base model that the engine does not read."""
    from hf_lorameta.errors import UsageError

    llama = engine == "llama.cpp"
    if (base if llama else base_gguf) is not None:
        given, other = ("--base", "transformers") if llama else ("--base-gguf", "llama.cpp")
        raise UsageError(f"{given} is for the engine {other}", hint=f"add --engine {other}")


def validate_engine(request: Request, engine: str, base_gguf: Path | None) -> Request:
    """Before any work: the request as the engine can serve it, once all that it needs is there."""
    from hf_lorameta.errors import UsageError

    check_options(engine, None, base_gguf)
    needed = request.refine is not None or request.check is not None
    if engine == "llama.cpp":
        if not needed:
            raise UsageError(
                "--engine is for --refine and --check: combining needs no base model",
                hint="leave it out, or add --refine 16",
            )
        if request.refine is not None:
            if request.refiner == "gradient":
                raise UsageError("llama.cpp computes no gradients", hint="--refiner search")
            request = replace(request, refiner="search")
        _check_llama_cpp(request.open_bank(), base_gguf)
    elif needed:
        from hf_lorameta.engines.torch_evaluator import require_eval

        require_eval()
    return request


def _check_llama_cpp(bank: "Bank", base_gguf: Path | None) -> None:
    from hf_lorameta.engines.gguf_files import base_gguf as find
    from hf_lorameta.engines.gguf_files import check_base_gguf
    from hf_lorameta.engines.llama_server import require_llama_cpp

    base = find(bank.index.base_model, base_gguf)
    require_llama_cpp()
    check_base_gguf(base, bank.layout)


@contextmanager
def open_runner(
    made: "Plan", engine: str, base_gguf: Path | None
) -> "Iterator[BaseModelRunner | None]":
    """What holds the base model, if the recipe needs it."""
    if made.recipe.refine is None and made.recipe.check is None:
        yield None
    elif engine == "llama.cpp":
        from hf_lorameta.engines.gguf_files import base_gguf as find
        from hf_lorameta.engines.llama_runner import LlamaCppRunner

        base = find(made.bank.index.base_model, base_gguf)
        with LlamaCppRunner(base, made.bank.layout) as held:
            yield held
    else:
        from hf_lorameta.pipeline.tune import load_base_model

        yield load_base_model(made.bank)


@contextmanager
def open_evaluator(
    engine: str,
    base_model: str,
    base: Path | None,
    base_gguf: Path | None,
    adapters: Iterable[Path | None],
    quiet: bool,
) -> "Iterator[Evaluator]":
    """What holds the base model, with the engine that was asked for."""
    if engine == "llama.cpp":
        from hf_lorameta.engines.gguf_files import base_gguf as find
        from hf_lorameta.engines.llama_evaluator import LlamaCppEvaluator

        folders = [folder for folder in adapters if folder is not None]
        gguf = find(base_model, base_gguf)
        log(quiet, f"The base model is {gguf}")
        with LlamaCppEvaluator(gguf, folders, base_model=base_model) as held:
            yield held
    else:
        from hf_lorameta.engines.torch_evaluator import TorchEvaluator
        from hf_lorameta.hub.base_model import locate

        yield TorchEvaluator(base or locate(base_model), base_model=base_model)
