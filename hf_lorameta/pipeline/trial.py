"""Compare a generated adapter with its base model in llama.cpp, without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from hf_lorameta.cards.scores_section import MeasuredScores
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
from hf_lorameta.engines.llama_cpp.gguf_files import base_gguf as find_base_gguf
from hf_lorameta.engines.llama_cpp.server import require_llama_cpp
from hf_lorameta.engines.scoring import Report, compare
from hf_lorameta.environment import require_extra
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.publish_scores import save_scores
from hf_lorameta.types import Row, StageProgress, no_progress


class Answers(NamedTuple):
    """What the base model answers to a prompt, alone and with the adapter."""

    base: str
    adapter: str


class Trial:
    """A base model in llama.cpp with one adapter loaded. A context manager.

    Args:
        folder: the adapter.
        base_model: the model that it is for.
        base_gguf: GGUF of that model; None finds it.
        cache: folder for the adapter as GGUF; None is the cache of this package, which keeps it.

    Raises:
        LoraMetaError: as `require` raises; or the adapter does not fit the base model.
    """

    def __init__(
        self,
        folder: Path,
        base_model: str,
        base_gguf: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        gguf = self.require(base_model, base_gguf)
        self._folder = folder
        self._evaluator = LlamaCppEvaluator(gguf, [folder], base_model=base_model, cache=cache)

    @staticmethod
    def require(base_model: str, base_gguf: Path | None = None) -> Path:
        """Return the GGUF of the base model, checking that everything a trial needs is there.

        Raises:
            MissingExtraError: the extra ``gguf``, or the package with the base model, is missing.
            NotFoundError: a GGUF of this base model has to be named.
            UsageError: the file does not exist.
        """
        require_llama_cpp()
        require_extra("gguf", "rouge_score", "scipy", extra="gguf")
        return find_base_gguf(base_model, base_gguf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._evaluator.__exit__(*exception)

    def answers(self, prompt: str) -> Answers:
        """Return the answers to a prompt."""
        evaluator = self._evaluator
        return Answers(evaluator.answer(prompt), evaluator.answer(prompt, self._folder))

    def test(
        self,
        rows: Sequence[Row],
        shots: Sequence[Row] = (),
        progress: StageProgress = no_progress,
    ) -> Report:
        """Score the base model, a few-shot prompt and the adapter on rows.

        Args:
            rows: to score on.
            shots: other rows of the same dataset, put before every prompt as examples.
            progress: called with (method, done, total).

        Returns:
            Scores of the methods ``base``, ``generated`` and, with shots, for example ``3-shot``.

        Raises:
            UsageError: an output is too long for the context.
            UnlabeledDatasetError: no row has an output.
        """
        methods = {"base": None, "generated": self._folder}
        return compare(self._evaluator, rows, methods, shots, samples=3, row_progress=progress)


def scores_to_card(folder: Path, report: Report, dataset: DatasetInfo) -> None:
    """Write the scores of `Trial.test` into the card of an adapter's folder."""
    scores = report.to_dict()["scores"]
    measured = MeasuredScores(dataset, scores["generated"]["rows"], "llama.cpp", scores)
    save_scores(folder, measured, None, hub=Hub(False))
