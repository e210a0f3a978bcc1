"""Try an adapter in llama.cpp, without torch, and count its right answers."""

from collections import Counter
from pathlib import Path

from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
from hf_lorameta.engines.llama_cpp.evaluator import base_gguf as find_base_gguf
from hf_lorameta.engines.scoring import CHAT_METHOD, MAX_NEW_TOKENS, Report, folded
from hf_lorameta.environment import require_extra
from hf_lorameta.pipeline.evaluate import ONLY


def require_llama(base_model: str, base_gguf: Path | None = None) -> Path:
    """Return the GGUF of a base model, checking that everything a trial needs is there.

    Raises:
        MissingExtraError: the extra ``gguf``, or the package with the base model, is missing.
        NotFoundError: a GGUF of this base model has to be named.
        UsageError: the file does not exist.
    """
    require_extra("xllamacpp", "gguf", "rouge_score", "scipy", extra="gguf")
    return find_base_gguf(base_model, base_gguf)


def open_trial(
    folder: Path,
    base_model: str,
    base_gguf: Path | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> LlamaCppEvaluator:
    """Load a base model in llama.cpp with one adapter.

    Args:
        folder: the adapter.
        base_model: the model that it is for.
        base_gguf: GGUF of that model; None finds it.
        max_new_tokens: of an answer.

    Raises:
        LoraMetaError: as `require_llama` raises; or the adapter does not fit the base model.
    """
    gguf = require_llama(base_model, base_gguf)
    return LlamaCppEvaluator(gguf, [folder], max_new_tokens=max_new_tokens)


def check_of(report: Report, shots: int) -> Check:
    """Return the check of an adapter, of a report on it alone with this many examples.

    All of the report's rows are among its samples.

    Example:
        >>> from hf_lorameta.engines.scoring import Sample, Scores
        >>> scores = {"base": Scores(2.0, 0, 0.5, 0.5, 2), "generated": Scores(1.0, 1, 1.0, 1.0, 2)}
        >>> samples = [Sample("a", out, {"base": "b", "generated": out}) for out in "bc"]
        >>> check_of(Report(scores, tuple(samples)), 0).right
        RightAnswers(most_frequent=1, base=1, end=2, chat=None, prompt=None)
    """
    outputs = [folded(sample.reference) for sample in report.samples]
    right = {m: sum(sample.is_right(m) for sample in report.samples) for m in report.scores}
    counted = RightAnswers(
        most_frequent=Counter(outputs).most_common(1)[0][1],
        base=right["base"],
        end=right[ONLY],
        chat=right.get(CHAT_METHOD),
        prompt=right.get(f"{shots}-shot"),
    )
    losses = {method: scores.loss for method, scores in report.scores.items()}
    base, end, rows = losses["base"], losses[ONLY], len(report.samples)
    chat, prompt = losses.get(CHAT_METHOD), losses.get(f"{shots}-shot")
    return Check(rows, base, end, end, 1.0, counted, chat, prompt, shots)
