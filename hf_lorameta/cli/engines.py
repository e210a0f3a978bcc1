"""Choose what runs the base model: transformers or llama.cpp."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_lorameta.cli.output import log

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Evaluator


def check_options(engine: str, base: Path | None, base_gguf: Path | None) -> None:
    """Refuse a base model that the engine cannot read."""
    from hf_lorameta.errors import Option, UsageError

    llama = engine == "llama.cpp"
    if (base if llama else base_gguf) is not None:
        what, other = ("a folder", "transformers") if llama else ("a GGUF", "llama.cpp")
        raise UsageError(
            f"{what} of the base model is for the engine {other}", hint=Option("engine", other)
        )


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
        from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
        from hf_lorameta.engines.llama_cpp.gguf_files import base_gguf as find_base_gguf

        folders = [folder for folder in adapters if folder is not None]
        gguf = find_base_gguf(model.name, model.gguf)
        log(quiet, f"Base model: {gguf}")
        with LlamaCppEvaluator(gguf, folders, base_model=model.name) as evaluator:
            yield evaluator
    else:
        from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
        from hf_lorameta.hub.base_model import locate

        require_eval()
        folder = model.folder or locate(model.name, model.revision, model.token)
        yield TorchEvaluator(folder, base_model=model.name)
