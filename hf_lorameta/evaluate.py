"""What an adapter is worth: loss and answers on test rows, beside base model and few-shot prompt.

Needs the extra ``eval``; torch, transformers and peft are imported when an `Evaluator` is made.

A row is the input, a space unless the input ends in whitespace or is empty, the output, and the
tokenizer's end token. The loss is over the tokens of all outputs, end tokens included; answers are
decoded greedily.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_lorameta.adapter import CONFIG_FILE, WEIGHTS_FILE
from hf_lorameta.base_model import quiet_transformers, require_extra
from hf_lorameta.errors import AdapterError, EmptyDatasetError, NotFoundError, UsageError
from hf_lorameta.profile import Row

if TYPE_CHECKING:
    import torch

_LOGIT_ROWS = 256
"""Positions whose logits are widened to float32 at once: 50 MB with a vocabulary of 49,152."""


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


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length whose padded size stays within the budget.

    Example:
        >>> list(_batches([5, 2, 9, 2], budget=10))
        [[1, 3], [0], [2]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning.

    Example:
        >>> _shared([1, 2, 3], [1, 2, 4, 5])
        2
    """
    differ = (index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


# --- the model ----------------------------------------------------------------------------------


class _Tokens(NamedTuple):
    """A row as token ids: the prompt with its start token, the output with its end token."""

    prompt: list[int]
    output: list[int]


class Evaluator:
    """A base model held in memory, to which adapters are attached in turn.

    Args:
        base_path: a local folder with model and tokenizer, see `hf_lorameta.base_model.locate`.
        dtype: torch name of the dtype of the weights.
        batch_tokens: padding included, at most this many tokens are in flight.
        max_length: tokens of prompt and answer together; longer prompts lose their beginning,
            outputs are never cut.
        seed: of `shots`; everything else is deterministic.
        max_new_tokens: an answer ends there at the latest.
        stop_at_newline: an answer ends with its first line. None: it does, for every method
            alike, unless a reference has several lines.
        base_model: id that adapters must name as their base; "" does not compare names.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the folder holds no loadable model.
        UsageError: the dtype is unknown, or the tokenizer has no end token.
    """

    def __init__(
        self,
        base_path: Path | str,
        dtype: str = "bfloat16",
        batch_tokens: int = 4096,
        max_length: int = 1024,
        seed: int = 0,
        *,
        max_new_tokens: int = 64,
        stop_at_newline: bool | None = None,
        base_model: str = "",
    ) -> None:
        require_extra("torch", "transformers", "peft", "rouge_score")
        self.batch_tokens, self.max_length, self.seed = batch_tokens, max_length, seed
        self.max_new_tokens, self.stop_at_newline = max_new_tokens, stop_at_newline
        self.base_model = base_model
        with quiet_transformers():
            self._model, self._tokenizer = _load(Path(base_path), dtype)
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        if end is None:
            raise UsageError(f"the tokenizer in {base_path} has no end-of-sequence token")
        self._end: int = end
        self._start = [start] if start in self._tokenizer("").input_ids else []
        self._first = [end if start is None else start]
        self._model.generation_config = self._greedily()

    def shots(self, train: Sequence[Row], k: int = 3) -> list[Row]:
        """k rows of the train split for a few-shot prompt, drawn with this evaluator's seed."""
        return choose_shots(train, k, self.seed)

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Path | None = None,
        shots: Sequence[Row] = (),
        generate: bool = True,
    ) -> tuple[Scores, list[str]]:
        """Loss and answers of the base model, with or without an adapter.

        Args:
            rows: (input, output) pairs, n of them.
            adapter: folder of a PEFT adapter; attached for this call only.
            shots: rows put before every prompt.
            generate: also answer; otherwise only the loss is computed.

        Returns:
            The scores, and the n answers in the order of the rows (none without ``generate``).

        Raises:
            EmptyDatasetError: no rows.
            AdapterError: the adapter is broken, was made for another base, or does not fit it.
        """
        import torch

        if not rows:
            raise EmptyDatasetError("no test rows to evaluate on", hint="name a split with --split")
        examples = [self._encode(row, shots) for row in rows]
        with torch.inference_mode(), quiet_transformers(), self._attached(adapter):
            loss = self._loss(examples)
            outputs = self._answers(examples, self._one_line(rows)) if generate else []
        if not outputs:
            return Scores(loss, None, None, None, len(rows)), outputs
        texts = score_texts(outputs, [output for _, output in rows])
        return Scores(loss, *texts, rows=len(rows)), outputs

    def _one_line(self, rows: Sequence[Row]) -> bool:
        if self.stop_at_newline is None:
            return not any("\n" in output.strip() for _, output in rows)
        return self.stop_at_newline

    def _encode(self, row: Row, shots: Sequence[Row]) -> _Tokens:
        """Tokenise the whole text at once: the output is what follows the prompt's own tokens."""
        prompt = prompt_text(row[0], shots)
        ids, whole = self._tokenizer(
            [prompt, row_text(prompt, row[1])], add_special_tokens=False
        ).input_ids
        shared = _shared(ids, whole)
        prompt_ids = self._start + ids[:shared]
        return _Tokens(prompt_ids or self._first, [*whole[shared:], self._end])

    def _cut(self, prompt: list[int], room: int) -> list[int]:
        """The end of a prompt, behind its start token."""
        if len(prompt) <= room:
            return prompt
        keep = max(room - len(self._start), 1)
        return self._start + prompt[-keep:]

    def _greedily(self) -> Any:
        """Plain greedy decoding: the model's own sampling and penalties are left behind."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self._ends(),
            pad_token_id=self._end,
        )

    def _ends(self) -> list[int]:
        """The tokenizer's end token and those the model's own settings add."""
        own = self._model.generation_config.eos_token_id
        return sorted({self._end, *(own if isinstance(own, list) else [own])} - {None})

    # --- loss ---

    def _loss(self, examples: Sequence[_Tokens]) -> float:
        cut = [
            _Tokens(self._cut(prompt, self.max_length - len(output)), output)
            for prompt, output in examples
        ]
        lengths = [len(prompt) + len(output) for prompt, output in cut]
        total = sum(
            self._nll([cut[index] for index in batch])
            for batch in _batches(lengths, self.batch_tokens)
        )
        return total / sum(len(output) for _, output in cut)

    def _nll(self, batch: Sequence[_Tokens]) -> float:
        """Summed cross entropy of a batch's output tokens, in nats."""
        import torch

        ids, mask = self._padded([[*prompt, *output] for prompt, output in batch], left=False)
        before = torch.zeros_like(mask, dtype=torch.bool)  # positions that predict an output token
        for row, (prompt, output) in enumerate(batch):
            before[row, len(prompt) - 1 : len(prompt) - 1 + len(output)] = True
        targets = torch.tensor([token for _, output in batch for token in output])
        with self._logits_only_at(before):
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
        chunks = range(0, len(targets), _LOGIT_ROWS)
        parts = [slice(start, start + _LOGIT_ROWS) for start in chunks]
        cross_entropy = torch.nn.functional.cross_entropy
        return sum(
            float(cross_entropy(logits[part].float(), targets[part], reduction="sum"))
            for part in parts
        )

    @contextmanager
    def _logits_only_at(self, positions: "torch.Tensor") -> Iterator[None]:
        """Hand only the chosen hidden states (n of B·T) to the output layer: logits (1, n, V)."""
        head = self._model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions][None],))
        try:
            yield
        finally:
            hook.remove()

    def _padded(
        self, sequences: Sequence[list[int]], left: bool
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Token ids and mask, both (B, T) int64."""
        import torch

        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self._end)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(sequences):
            place = slice(width - len(tokens), None) if left else slice(len(tokens))
            ids[row, place] = torch.tensor(tokens)
            mask[row, place] = 1
        return ids, mask

    # --- answers ---

    def _answers(self, examples: Sequence[_Tokens], one_line: bool) -> list[str]:
        room = self.max_length - self.max_new_tokens
        prompts = [self._cut(prompt, room) for prompt, _ in examples]
        answers = [""] * len(prompts)
        lengths = [len(prompt) + self.max_new_tokens for prompt in prompts]
        for batch in _batches(lengths, self.batch_tokens):
            found = self._greedy([prompts[index] for index in batch], one_line)
            for index, tokens in zip(batch, found, strict=True):
                text = self._text(tokens)
                answers[index] = text.split("\n")[0].strip() if one_line else text
        return answers

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def _greedy(self, prompts: Sequence[list[int]], one_line: bool) -> list[list[int]]:
        """The likeliest token again and again; end tokens may follow an answer."""
        from transformers import StoppingCriteriaList

        ids, mask = self._padded(prompts, left=True)
        width = ids.shape[1]
        tokens = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            stopping_criteria=StoppingCriteriaList([self._line_ended(width)] if one_line else []),
        )
        found: list[list[int]] = tokens[:, width:].tolist()
        return found

    def _line_ended(self, width: int) -> Any:
        """A stopping criterion: a line break after some text, behind the prompt's T tokens."""
        import torch

        def ended(ids: "torch.Tensor", scores: object, **_: object) -> "torch.Tensor":
            texts = self._tokenizer.batch_decode(ids[:, width:])
            return torch.tensor(["\n" in text.lstrip() for text in texts])

        return ended

    # --- adapters ---

    @contextmanager
    def _attached(self, adapter: Path | None) -> Iterator[None]:
        """The model with an adapter; afterwards, come what may, the very modules from before."""
        if adapter is None:
            yield
            return
        names = _check_adapter(adapter, self.base_model)
        modules = dict(self._model.named_modules())
        attributes = set(vars(self._model))
        try:
            _attach(self._model, adapter, names)
            yield
        finally:
            for name, module in modules.items():
                if name and self._model.get_submodule(name) is not module:
                    self._model.set_submodule(name, module)
            for added in set(vars(self._model)) - attributes:
                delattr(self._model, added)


def _load(folder: Path, dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UsageError(f"dtype is {dtype!r}, expected bfloat16, float16 or float32")
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder} is no folder", hint="hf_lorameta.base_model.locate gives one"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"{folder} holds no model that transformers loads: {_first_line(error)}"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def _check_adapter(folder: Path, base_model: str) -> set[str]:
    """The names of an adapter's tensors, after checking its files and its base model's name."""
    from safetensors import SafetensorError, safe_open

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} holds no {name}")
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        base = config.get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise AdapterError(f"{folder / CONFIG_FILE} is not a JSON object") from None
    if base_model and base and base != base_model:
        raise AdapterError(f"the adapter in {folder} is for {base}, expected {base_model}")
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE}: {_first_line(error)}") from None


def _attach(model: Any, folder: Path, names: set[str]) -> None:
    """Put a PEFT adapter into the model, in place.

    Raises:
        AdapterError: PEFT cannot load it, or would leave out some of its tensors.
    """
    import warnings

    from peft import PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is an error just below
            wrapped = PeftModel.from_pretrained(model, folder)
    except Exception as error:
        raise AdapterError(f"{folder} does not fit the base model: {_first_line(error)}") from error
    expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if names != expected:
        first = min(names ^ expected)
        raise AdapterError(
            f"{folder} does not fit the base model: {len(names - expected)} tensors have no place "
            f"in it and {len(expected - names)} are missing, e.g. {first}"
        )
    model.eval()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# --- several methods ----------------------------------------------------------------------------


def compare(
    evaluator: Evaluator,
    rows: Sequence[Row],
    adapters: Mapping[str, Path | None],
    shots: Sequence[Row] = (),
    generate: bool = True,
    samples: int = 5,
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

    Raises:
        EmptyDatasetError: no rows.
        AdapterError: an adapter cannot be loaded.
    """
    plans: dict[str, tuple[Path | None, Sequence[Row]]] = {
        method: (adapter, ()) for method, adapter in adapters.items()
    }
    if shots:
        plans[f"{len(shots)}-shot"] = (None, shots)
    results = {
        method: evaluator.evaluate(rows, adapter, before, generate)
        for method, (adapter, before) in plans.items()
    }
    shown = rows[:samples] if generate else ()
    return Report(
        {method: scores for method, (scores, _) in results.items()},
        tuple(
            Sample(*row, {method: outputs[index] for method, (_, outputs) in results.items()})
            for index, row in enumerate(shown)
        ),
    )
