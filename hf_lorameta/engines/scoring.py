"""Score answers. Runs no model.

`hf_lorameta.engines.transformers.evaluator` scores with it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.columns.labels import JOINED, NONE, Form
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.tables import padded_markdown_table
from hf_lorameta.types import FactorPair, Row, no_progress, right_outputs

MAX_SCORED_TOKENS = 1024
"""Tokens of a prompt and its answer that are scored; longer prompts lose their beginning."""
MAX_NEW_TOKENS = 64
"""Most tokens of a generated answer."""
BASE_METHOD = "base"
"""The base model, a method of `hf_lorameta.engines.comparing.compare`."""
ADAPTER_METHOD = "generated"
"""The adapter, if only one is scored, a method of `hf_lorameta.engines.comparing.compare`."""
CHAT_METHOD = "base-chat"
"""The base model in its own chat template, a method of `hf_lorameta.engines.comparing.compare`."""
MEASURES = {"rouge_l": "Rouge-L", "label_f1": "F1 of labels"}
"""Names of the fields of `Scores` that judge texts, and outputs of several labels."""
_TEXT_WORDS = 5
"""Different outputs with at least this many words on average are texts."""
_WORD = re.compile(r"[^\W_]+")


def shown_name(method: str) -> str:
    """Return what tables and progress call a method: the only adapter may not be a generated one.

    Example:
        >>> shown_name("generated"), shown_name("3-shot")
        ('adapter', '3-shot')
    """
    return "adapter" if method == ADAPTER_METHOD else method


@dataclass(frozen=True)
class Scores:
    """Scores of one method on one set of rows.

    Attributes:
        loss: mean cross entropy of all output and end tokens, in nats; infinite if it is not a
            number, which is worse than any other.
        rouge_l: mean Rouge-L F-measure with stemming, 0 to 1; None if not all answers are known.
        exact_match: share of right answers: those equal to the reference, except for case and
            surrounding whitespace, and for the order of several labels if all answers are known.
        contains: share of answers that contain the reference, ignoring case, and the order of
            several labels; None like `rouge_l`.
        rows: number of rows.
        label_f1: F1 of the labels in all answers, see `label_f1`; None like `rouge_l`, and where an
            output is not several labels.
        tokens: number of their output and end tokens.
    """

    loss: float
    rouge_l: float | None
    exact_match: float
    contains: float | None
    rows: int
    label_f1: float | None = None
    tokens: int = 1

    @property
    def right(self) -> int:
        """Number of right answers.

        Example:
            >>> Scores(0.5, None, 0.75, None, rows=4).right
            3
        """
        return round(self.exact_match * self.rows)


@dataclass(frozen=True)
class Sample:
    """One test row: its input, its output as the reference, and the answer of every method."""

    input: str
    reference: str
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Scores of several methods on the same rows, in display order, and a few rows with answers.

    Attributes:
        scores: of each method.
        samples: rows with the answers of all methods.
        most_frequent: how many rows the most frequent output would answer right.
        measure: what grades the answers, one of `MEASURES`; None if they are only right or wrong.
        classified: how many rows a classifier on words answers right; None if none was tried.

    Example:
        >>> generated = Scores(0.5, 1, 0.25, 0.125, 4)
        >>> report = Report({"base": Scores(3.25, None, 0, None, 4), "generated": generated})
        >>> print(report.table())
        | method  | loss  | Rouge-L | exact match | contains |
        |:--------|------:|--------:|------------:|---------:|
        | base    | 3.250 |       – |       0.000 |        – |
        | adapter | 0.500 |   1.000 |       0.250 |    0.125 |
        >>> report.to_dict()["scores"]["base"]["rows"]
        4
    """

    scores: Mapping[str, Scores]
    samples: tuple[Sample, ...] = ()
    most_frequent: int = 0
    measure: str | None = None
    classified: int | None = None

    def is_right(self, sample: Sample, method: str) -> bool:
        """Whether a method's answer to a row counts as right, as in `Scores.exact_match`."""
        answer = sample.outputs[method]
        if self.measure == "label_f1":
            return labels_of(answer) == labels_of(sample.reference)
        return is_right(answer, sample.reference)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers, for JSON."""
        scores = {method: asdict(scores) for method, scores in self.scores.items()}
        for values in scores.values():
            if values["label_f1"] is None:
                del values["label_f1"]
        return {"scores": scores, "samples": [asdict(sample) for sample in self.samples]}

    def table(self) -> str:
        """Return a Markdown table, readable as plain text too; "–" marks missing scores."""
        head = ["method", "loss", "Rouge-L", "exact match", "contains"]
        head += [MEASURES["label_f1"]] if self.measure == "label_f1" else []
        rows = []
        for method, s in self.scores.items():
            values = (s.loss, s.rouge_l, s.exact_match, s.contains, s.label_f1)[: len(head) - 1]
            shown = ("–" if value is None else f"{value:.3f}" for value in values)
            rows.append((shown_name(method), *shown))
        return padded_markdown_table(head, rows, right=range(1, len(head)))


# --- answers ------------------------------------------------------------------------------------


def score(
    loss: float, rows: Sequence[Row], answers: Sequence[str], complete: bool, tokens: int = 1
) -> Scores:
    """Return the scores of rows with this mean loss and these answers.

    Of several right outputs of a row, the one counts that gives an answer the best score.

    Args:
        loss: mean over all output tokens, in nats.
        rows: with their references.
        answers: to each row, or the beginning of one that is wrong.
        complete: whether all answers are complete.
        tokens: number of output tokens.

    Example:
        >>> score(0.5, [("Is it?", "Yes.")], [" yes. "], complete=True).exact_match
        1.0
    """
    n = len(rows)
    pairs = list(zip(answers, (output for _, output in rows), strict=True))
    exact_match = sum(is_right(*pair) for pair in pairs) / n
    loss = math.inf if math.isnan(loss) else loss
    if not complete:
        return Scores(loss, None, exact_match, None, n, tokens=tokens)
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words(DefaultTokenizer(use_stemmer=True)))

    def best(answer: str, output: str) -> tuple[float, bool]:
        """Return the Rouge-L with the right output that is nearest, and whether one is in there."""
        text, right = normalized(answer), map(normalized, right_outputs(output))
        scores = [(scorer.score(r, text)["rougeL"].fmeasure, r in text) for r in right]
        return max(rouge for rouge, _ in scores), any(contained for _, contained in scores)

    nearest = [best(*pair) for pair in pairs]
    rouge_l = sum(rouge for rouge, _ in nearest) / n
    contains = sum(contained for _, contained in nearest) / n
    return Scores(loss, rouge_l, exact_match, contains, n, tokens=tokens)


def label_f1(rows: Sequence[Row], answers: Sequence[str]) -> float:
    """Return the micro-averaged F1 of the labels in answers; ``none`` is no label.

    It is 2 TP / (2 TP + FP + FN), counted over the labels of all rows, as for SemEval-2018 Task 1
    (https://aclanthology.org/S18-1001); 1 if there are no labels at all.

    Args:
        rows: with their references, in which commas are between labels.
        answers: to each row.

    Example:
        >>> rows = [("a", "joy"), ("b", "none"), ("c", "fear, joy")]
        >>> label_f1(rows, ["awe, Joy", "none", "none"])
        0.4
    """
    right = total = 0
    for answer, (_, output) in zip(answers, rows, strict=True):
        answered, expected = labels_of(answer), labels_of(output)
        right += len(answered & expected - {NONE, ""})
        total += len(answered - {NONE, ""}) + len(expected - {NONE, ""})
    return 2 * right / total if total else 1.0


def labels_of(text: str) -> frozenset[str]:
    """Return the labels in an output, as they are compared.

    Example:
        >>> sorted(labels_of("Joy, fear"))
        ['fear', 'joy']
    """
    return frozenset(map(str.strip, normalized(text).split(JOINED["several"][0])))


def of_labels(scores: Scores, rows: Sequence[Row], answers: Sequence[str]) -> Scores:
    """Return the scores of complete answers that are several labels, right in any order."""
    pairs = [(labels_of(a), labels_of(o)) for a, (_, o) in zip(answers, rows, strict=True)]
    return replace(
        scores,
        exact_match=sum(answered == expected for answered, expected in pairs) / len(pairs),
        contains=sum(answered >= expected for answered, expected in pairs) / len(pairs),
        label_f1=label_f1(rows, answers),
    )


class _Words:
    """Splits texts of any script into words; `rouge_score` alone drops all but a to z and digits.

    Args:
        latin: the tokenizer of `rouge_score`, for words of these.
    """

    def __init__(self, latin: Any) -> None:
        self._latin = latin

    def tokenize(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())
        return [t for w in words for t in (self._latin.tokenize(w) if w.isascii() else [w])]


def normalized(answer: str) -> str:
    """Return an answer as it is compared: without surrounding whitespace, and in one case.

    A base model that was never shown the outputs may write them in another case, which counts as
    right.
    """
    return answer.strip().casefold()


def is_right(answer: str, output: str) -> bool:
    """Whether an answer is the output of a row, or another that is as right.

    Example:
        >>> from hf_lorameta.types import Output
        >>> is_right(" Yes", "yes"), is_right("b", Output("a", ["b"]))
        (True, True)
    """
    return normalized(answer) in map(normalized, right_outputs(output))


def may_be_right(beginning: str, reference: str) -> bool:
    """Whether an answer with this beginning may still be right.

    Example:
        >>> may_be_right(" Y", "yes"), may_be_right("no", "yes"), may_be_right("yes, it", "yes")
        (True, False, False)
    """
    whole = beginning.rstrip("\ufffd")  # stands for a character of which only a part is known
    right = map(normalized, right_outputs(reference))
    return any(output.startswith(normalized(whole)) for output in right)


def single_line(rows: Sequence[Row]) -> bool:
    """Whether every output is a single line; answers then end after their first line.

    Example:
        >>> single_line([("a", "b\\nc")]), single_line([("a", "b\\n")])
        (False, True)
    """
    return not any("\n" in output.strip() for _, output in rows)


def are_texts(rows: Sequence[Row]) -> bool:
    """Whether outputs are texts, which good answers resemble, not labels or short answers.

    Example:
        >>> are_texts([("a", "The cat sat on a mat."), ("b", "Nobody knows where it went.")])
        True
        >>> are_texts([("a", "yes"), ("b", "New York")])
        False
    """
    words = [len(output.split()) for _, output in rows]
    different = len({normalized(output) for _, output in rows})
    return sum(words) >= _TEXT_WORDS * len(rows) and 2 * different > len(rows)


def measure_of(rows: Sequence[Row], form: Form) -> str | None:
    """Return what grades answers to rows, see `Report`."""
    if form == "several":
        return "label_f1"
    return "rouge_l" if are_texts(rows) else None


def stripped(answer: str, first_line: bool) -> str:
    """Return an answer without surrounding whitespace, or only its first line."""
    answer = answer.strip()
    return answer.split("\n")[0].strip() if first_line else answer


# --- what is scored -----------------------------------------------------------------------------


class LoraWeights(NamedTuple):
    """An adapter in memory.

    Attributes:
        layout: the adapted modules.
        pairs: A (r, in) and B (out, r) of each, in order.
    """

    layout: Layout
    pairs: Sequence[FactorPair]


Adapter = Path | LoraWeights
"""The folder of a PEFT adapter, or an adapter in memory."""


class Evaluator(Protocol):
    """A base model that scores rows with and without adapters."""

    @property
    def scored_form(self) -> ChatForm | None:
        """The chat form that the base model is scored in; None without a usable one."""

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Adapter | None = None,
        generate: bool = True,
        done: Callable[[int], None] = no_progress,
    ) -> tuple[Scores, list[str]]:
        """Return scores and greedy answers of a base model with an adapter.

        Args:
            rows: at least one.
            adapter: None is the base model itself.
            generate: complete all answers; False completes only those that may be right, and
                returns the beginning of the others.
            done: called with the number of finished steps, two for each row: its loss and its
                answer.

        Raises:
            AdapterError: the adapter is broken, or does not fit the base model.
        """

    def answer_seconds(self, rows: Sequence[Row], clock: Callable[[], float]) -> float:
        """Return how long it would take to generate all answers to rows, without their prompts.

        Args:
            rows: at least one.
            clock: returns seconds; a pass of the base model is timed with it.
        """
