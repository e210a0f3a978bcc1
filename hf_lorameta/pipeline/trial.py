"""An adapter in llama.cpp, without torch: its answers to prompts, and its scores on rows."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.engines.interfaces import all_alike
from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
from hf_lorameta.engines.llama_cpp.gguf_files import base_gguf as find_base_gguf
from hf_lorameta.engines.scoring import CHAT_METHOD, MAX_NEW_TOKENS, Report, compare
from hf_lorameta.environment import require_extra
from hf_lorameta.pipeline.evaluate import ONLY
from hf_lorameta.types import Row, StageProgress, no_progress


class Trial:
    """A base model in llama.cpp with one adapter loaded. A context manager.

    Args:
        folder: the adapter.
        base_model: the model that it is for.
        base_gguf: GGUF of that model; None finds it.
        cache: folder for the adapter as GGUF; None is the cache of this package, which keeps it.
        max_new_tokens: of an answer.

    Raises:
        LoraMetaError: as `require` raises; or the adapter does not fit the base model.
    """

    def __init__(
        self,
        folder: Path,
        base_model: str,
        base_gguf: Path | None = None,
        cache: Path | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        gguf = self.require(base_model, base_gguf)
        self._folder = folder
        self._evaluator = LlamaCppEvaluator(
            gguf, [folder], base_model=base_model, cache=cache, max_new_tokens=max_new_tokens
        )

    @staticmethod
    def require(base_model: str, base_gguf: Path | None = None) -> Path:
        """Return the GGUF of the base model, checking that everything a trial needs is there.

        Raises:
            MissingExtraError: the extra ``gguf``, or the package with the base model, is missing.
            NotFoundError: a GGUF of this base model has to be named.
            UsageError: the file does not exist.
        """
        require_extra("xllamacpp", "gguf", "rouge_score", "scipy", extra="gguf")
        return find_base_gguf(base_model, base_gguf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._evaluator.__exit__(*exception)

    def answer(self, prompt: str, *, adapted: bool = True) -> str:
        """Return the greedy answer to a prompt, with the adapter or of the base model."""
        return self._evaluator.answer(prompt, self._folder if adapted else None)

    def evaluate(
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
            Scores of the methods ``base``, ``generated`` and, with shots, for example ``3-shot``,
            with all rows and their answers.

        Raises:
            UsageError: an output is too long for the context.
            UnlabeledDatasetError: no row has an output.
        """
        methods = {"base": None, ONLY: self._folder}
        return compare(
            self._evaluator, rows, methods, shots, samples=len(rows), row_progress=progress
        )


def check_of(report: Report, shots: int) -> Check:
    """Return the check of an adapter that `Trial.evaluate` has scored with this many examples.

    Example:
        >>> from hf_lorameta.engines.scoring import Sample, Scores
        >>> scores = {"base": Scores(2.0, 0, 0.5, 0.5, 2), "generated": Scores(1.0, 1, 1.0, 1.0, 2)}
        >>> samples = [Sample("a", out, {"base": "b", "generated": out}) for out in "bc"]
        >>> check_of(Report(scores, tuple(samples)), 0).right
        RightAnswers(most_frequent=1, base=1, end=2, chat=None, prompt=None, alike=False)
    """
    outputs = [sample.reference.strip() for sample in report.samples]
    right = {m: sum(sample.is_right(m) for sample in report.samples) for m in report.scores}
    counted = RightAnswers(
        most_frequent=Counter(outputs).most_common(1)[0][1],
        base=right["base"],
        end=right[ONLY],
        chat=right.get(CHAT_METHOD),
        prompt=right.get(f"{shots}-shot"),
        alike=all_alike([sample.outputs[ONLY].strip() for sample in report.samples], outputs),
    )
    losses = {method: scores.loss for method, scores in report.scores.items()}
    base, end, rows = losses["base"], losses[ONLY], len(report.samples)
    chat, prompt = losses.get(CHAT_METHOD), losses.get(f"{shots}-shot")
    return Check(rows, base, end, end, 1.0, counted, chat, prompt, shots)
