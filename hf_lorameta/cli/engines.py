"""Choose what runs the base model: transformers or llama.cpp."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_lorameta.cli.options import Request
from hf_lorameta.cli.output import log

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.engines.scoring import Evaluator
    from hf_lorameta.pipeline.session import Session


def check_options(engine: str, base: Path | None, base_gguf: Path | None) -> None:
    """Refuse a base model that the engine cannot read."""
    from hf_lorameta.errors import UsageError

    llama = engine == "llama.cpp"
    if (base if llama else base_gguf) is not None:
        option, other = ("--base", "transformers") if llama else ("--base-gguf", "llama.cpp")
        raise UsageError(f"{option} is for the engine {other}", hint=f"add --engine {other}")


def validate_engine(request: Request, session: "Session", base_gguf: Path | None) -> Request:
    """Check before any work that the engine can do what is asked, and return the request for it.

    Raises:
        UsageError: the options contradict each other, or the engine cannot do it.
        MissingExtraError: the engine is not installed.
    """
    from hf_lorameta.errors import UsageError

    check_options(session.engine, None, base_gguf)
    needs_model = request.refine is not None or request.check is not None
    if session.engine == "llama.cpp":
        if request.train is not None:
            raise UsageError(
                "llama.cpp computes no gradients, which --train needs",
                hint="leave out --engine: transformers trains",
            )
        if not needs_model:
            raise UsageError(
                "--engine is for --refine and --check: combining needs no base model",
                hint="leave it out, or add --refine 16",
            )
        if request.refine is not None:
            if request.refiner == "gradient":
                raise UsageError("llama.cpp computes no gradients", hint="--refiner search")
            request = replace(request, refiner="search")
        _check_llama_cpp(session.bank, base_gguf)
    elif needs_model or request.train is not None:
        from hf_lorameta.engines.torch_evaluator import require_eval

        require_eval()
    return request


def _check_llama_cpp(bank: "Bank", base_gguf: Path | None) -> None:
    from hf_lorameta.engines.gguf_files import base_gguf as find_base_gguf
    from hf_lorameta.engines.gguf_files import check_base_gguf
    from hf_lorameta.engines.llama_server import require_llama_cpp

    base = find_base_gguf(bank.index.base_model, base_gguf)
    require_llama_cpp()
    check_base_gguf(base, bank.layout)


class BaseModel(NamedTuple):
    """A base model and where to find it.

    Attributes:
        name: Hub id.
        revision: commit, for transformers.
        folder: local folder, for transformers; None fetches it.
        gguf: GGUF file, for llama.cpp; None finds it.
        token: of the Hub.
    """

    name: str
    revision: str | None
    folder: Path | None
    gguf: Path | None
    token: str | None


@contextmanager
def open_evaluator(
    engine: str, model: BaseModel, adapters: Iterable[Path | None], quiet: bool
) -> "Iterator[Evaluator]":
    """Load a base model that adapters can be scored with."""
    if engine == "llama.cpp":
        from hf_lorameta.engines.gguf_files import base_gguf as find_base_gguf
        from hf_lorameta.engines.llama_evaluator import LlamaCppEvaluator

        folders = [folder for folder in adapters if folder is not None]
        gguf = find_base_gguf(model.name, model.gguf)
        log(quiet, f"Base model: {gguf}")
        with LlamaCppEvaluator(gguf, folders, base_model=model.name) as evaluator:
            yield evaluator
    else:
        from hf_lorameta.engines.torch_evaluator import TorchEvaluator, require_eval
        from hf_lorameta.hub.base_model import locate

        require_eval()
        folder = model.folder or locate(model.name, model.revision, model.token)
        yield TorchEvaluator(folder, base_model=model.name)
