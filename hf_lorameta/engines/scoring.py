"""What is compared, whatever runs the model: prompts, answers, scores and reports.

No model and no torch in here; torch (`evaluate`) and llama.cpp (`llama_cpp_eval`) score with it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hf_lorameta.environment import require_extra
from hf_lorameta.errors import EmptyDatasetError, UnlabeledDatasetError
from hf_lorameta.types import Row


@dataclass(frozen=True)
class Scores:
    """One method on one set of rows.

    Attributes:
        loss: cross entropy in nats, the mean over all output and end tokens.
        rouge_l: mean Rouge-L f-measure with stemming, 0 to 1; None when nothing was generated.
        exact_match: share of answers equal to the reference, both stripped; or None.
        contains: share of answers in which the stripped reference occurs; or None.
        rows: number of rows.
    """

    loss: float
    rouge_l: float | None
    exact_match: float | None
    contains: float | None
    rows: int


@dataclass(frozen=True)
class Sample:
    """One test row with every method's answer.

    Attributes:
        input: the row's input.
        reference: the row's output.
        outputs: method to answer.
    """

    input: str
    reference: str
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Several methods on the same rows.

    Attributes:
        scores: method to its scores, in the order to be shown.
        samples: a few rows with all answers; empty when nothing was generated.

    Example:
        >>> report = Report({"base": Scores(3.25, 0.1, 0.0, 0.25, 4)})
        >>> print(report.table())
        | method | loss  | Rouge-L | exact match | contains |
        |:-------|------:|--------:|------------:|---------:|
        | base   | 3.250 |   0.100 |       0.000 |    0.250 |
        >>> report.to_dict()["scores"]["base"]["rows"]
        4
    """

    scores: Mapping[str, Scores]
    samples: tuple[Sample, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return {
            "scores": {method: asdict(scores) for method, scores in self.scores.items()},
            "samples": [asdict(sample) for sample in self.samples],
        }

    def table(self) -> str:
        """A Markdown table, aligned to be read as plain text too; "–" is not computed."""
        head = ("method", "loss", "Rouge-L", "exact match", "contains")
        body = [
            (method, *map(_cell, (s.loss, s.rouge_l, s.exact_match, s.contains)))
            for method, s in self.scores.items()
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
        lines = [_line(head, widths, str.ljust), "|" + "|".join(rule) + "|"]
        return "\n".join(lines + [_line(row, widths, str.rjust) for row in body])


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(cells: Sequence[str], widths: Sequence[int], justify: Any) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(justify(cell, width) for cell, width in rest)]
    return f"| {' | '.join(padded)} |"


# --- texts --------------------------------------------------------------------------------------


def prompt_text(text: str, shots: Sequence[Row] = ()) -> str:
    """The prompt of a row: worked examples, each followed by a blank line, then its input.

    Args:
        text: the row's input.
        shots: examples of the train split.

    Example:
        >>> prompt_text("2+2=", shots=[("1+1=", "2")])
        '1+1= 2\\n\\n2+2='
    """
    return "".join(f"{row_text(*shot)}\n\n" for shot in shots) + text


def row_text(prompt: str, output: str) -> str:
    """Prompt and output, with a space between unless the prompt is empty or ends in whitespace.

    Example:
        >>> row_text("Q:", "a"), row_text("Q:\\n", "a"), row_text("", "a")
        ('Q: a', 'Q:\\na', 'a')
    """
    return f"{prompt} {output}" if prompt and not prompt[-1].isspace() else prompt + output


def choose_shots(train: Sequence[Row], k: int = 3, seed: int = 0) -> list[Row]:
    """k different rows of the train split, drawn with a seed; all of them when there are fewer.

    Example:
        >>> sorted(choose_shots([("a", "1"), ("b", "2")], k=3))
        [('a', '1'), ('b', '2')]
    """
    return random.Random(seed).sample(list(train), min(k, len(train)))


class TextScores(NamedTuple):
    """Means over answers, each 0 to 1; see `Scores`."""

    rouge_l: float
    exact_match: float
    contains: float


def score_texts(outputs: Sequence[str], references: Sequence[str]) -> TextScores:
    """Compare answers with their references, pair by pair.

    Args:
        outputs: n answers, n ≥ 1.
        references: n references.

    Raises:
        MissingExtraError: rouge-score is not installed.
        EmptyDatasetError: n is 0.
    """
    require_extra("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    if not outputs:
        raise EmptyDatasetError("no answers to score")
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = [(o.strip(), r.strip()) for o, r in zip(outputs, references, strict=True)]
    return TextScores(
        sum(scorer.score(r, o)["rougeL"].fmeasure for o, r in pairs) / len(pairs),
        sum(o == r for o, r in pairs) / len(pairs),
        sum(r in o for o, r in pairs) / len(pairs),
    )


class Tokens(NamedTuple):
    """A row as token ids: the prompt with its start token, the output with its end token."""

    prompt: list[int]
    output: list[int]

    @classmethod
    def split(
        cls, prompt: list[int], whole: list[int], start: list[int], first: list[int], end: int
    ) -> "Tokens":
        """Cut a row's tokens where its output begins: behind what the prompt's own tokens share.

        Args:
            prompt: tokens of the prompt alone.
            whole: tokens of prompt and output together.
            start: what the tokenizer puts in front, or nothing.
            first: what stands in for an empty prompt.
            end: the end-of-sequence token.

        Example:
            >>> Tokens.split([5, 6], [5, 6, 7], [], [0], 1)
            Tokens(prompt=[5, 6], output=[7, 1])
        """
        common = shared_length(prompt, whole)
        return cls(start + prompt[:common] or first, [*whole[common:], end])

    def cut(self, room: int, start: list[int]) -> list[int]:
        """The end of the prompt, behind its start token, in `room` tokens."""
        if len(self.prompt) <= room:
            return self.prompt
        keep = max(room - len(start), 1)
        return start + self.prompt[-keep:]

    def within(self, length: int, start: list[int]) -> "Tokens":
        """The row in `length` tokens: the prompt is cut, see `cut`, the output never."""
        return Tokens(self.cut(length - len(self.output), start), self.output)


def shared_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common beginning.

    Example:
        >>> shared_length([1, 2, 3], [1, 2, 4, 5])
        2
    """
    differ = (index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


class Scorer(Protocol):
    """Whatever holds a base model and scores it with an adapter or without."""

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Path | None = None,
        shots: Sequence[Row] = (),
        generate: bool = True,
    ) -> tuple[Scores, list[str]]:
        """Loss and answers; see `hf_lorameta.engines.torch_evaluate.Evaluator.evaluate`."""
        ...


def one_line(rows: Sequence[Row], asked: bool | None) -> bool:
    """Whether answers end with their first line: as asked, else unless a reference has several.

    Example:
        >>> one_line([("a", "b\\nc")], None)
        False
    """
    return asked if asked is not None else not any("\n" in output.strip() for _, output in rows)


def check_outputs(rows: Sequence[Row]) -> None:
    """Refuse rows of which none can be scored.

    Raises:
        UnlabeledDatasetError: there are rows, and no row has an output.
    """
    if rows and not any(output.strip() for _, output in rows):
        raise UnlabeledDatasetError(
            f"none of {len(rows)} rows has an output that answers could be compared with",
            hint="name the labeled split with --split, or the outputs: --columns output=COLUMN",
        )


def compare(
    evaluator: Scorer,
    rows: Sequence[Row],
    adapters: Mapping[str, Path | None],
    shots: Sequence[Row] = (),
    generate: bool = True,
    samples: int = 5,
    progress: Callable[[str, Scores], None] = lambda method, scores: None,
) -> Report:
    """Evaluate several methods on the same rows.

    Args:
        evaluator: holds the base model.
        rows: (input, output) pairs of the test split.
        adapters: method to adapter folder; None is the base model itself. The usual names are
            base, generated and reference.
        shots: rows of the train split; k of them add the method "k-shot", without an adapter.
        generate: also answer.
        samples: how many rows to show with their answers.
        progress: called with each method and its scores as soon as they are known.

    Raises:
        EmptyDatasetError: no rows.
        UnlabeledDatasetError: no row has an output.
        AdapterError: an adapter cannot be loaded.
    """
    check_outputs(rows)
    plans: dict[str, tuple[Path | None, Sequence[Row]]] = {
        method: (adapter, ()) for method, adapter in adapters.items()
    }
    if shots:
        plans[f"{len(shots)}-shot"] = (None, shots)
    results = {}
    for method, (adapter, before) in plans.items():
        results[method] = evaluator.evaluate(rows, adapter, before, generate)
        progress(method, results[method][0])
    shown = rows[:samples] if generate else ()
    return Report(
        {method: scores for method, (scores, _) in results.items()},
        tuple(
            Sample(*row, {method: outputs[index] for method, (_, outputs) in results.items()})
            for index, row in enumerate(shown)
        ),
    )
