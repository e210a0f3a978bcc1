"""Loss and answers of a base model in llama.cpp, with or without a PEFT adapter, without torch.

Texts, tokens and scores are defined by `hf_lorameta.engines.scoring`, so the figures of both
engines are comparable.
"""

from collections.abc import Sequence
from pathlib import Path

from hf_lorameta.engines import scoring
from hf_lorameta.engines.llama_cpp.gguf_files import adapter_gguf
from hf_lorameta.engines.llama_cpp.server import LlamaCpp
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.types import Progress, Row, no_progress


class LlamaCppEvaluator(scoring.Evaluator):
    """A base model in llama.cpp with the adapters to evaluate; quantized ones need less memory.

    Arguments are those of `hf_lorameta.engines.transformers.evaluator.TorchEvaluator`, with a GGUF
    as the base and the folders of all PEFT adapters, but outputs over `max_length` raise
    `UsageError`.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        AdapterError: an adapter is broken, or does not fit the base model.
        UsageError: the base model cannot be loaded, or not with these adapters, or its architecture
            is not supported.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path] = (),
        *,
        max_length: int = scoring.MAX_LENGTH,
        max_new_tokens: int = scoring.MAX_NEW_TOKENS,
        cache: Path | None = None,
    ) -> None:
        require_extra("rouge_score", extra="gguf")
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self._indices: dict[Path | None, int | None] = {None: None}
        self._indices |= {folder: index for index, folder in enumerate(adapters)}
        files = [adapter_gguf(folder, base, cache) for folder in adapters]
        self._engine = LlamaCpp(base, files, context=max_length)

    def __enter__(self) -> "LlamaCppEvaluator":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.Evaluator.chat_prompt`."""
        return self._engine.chat_prompt(text)

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Path | None = None,
        shots: Sequence[Row] = (),
        generate: bool = True,
        progress: Progress = no_progress,
    ) -> tuple[scoring.Scores, list[str]]:
        """See `hf_lorameta.engines.scoring.Evaluator.evaluate`.

        Raises:
            UsageError: an output is too long.
            LoraMetaError: the server failed.
        """
        index = self._indices[adapter]
        first_line = scoring.single_line(rows)
        steps = scoring.StepCounter(len(rows) * (1 + generate), progress)
        total, count, outputs = 0.0, 0, []
        for row in rows:
            example = _encode(self._engine, row, shots)
            total -= sum(self._engine.logprobs(*_fitted(self._engine, example), index))
            count += len(example.output)
            if generate:  # right after the loss, while the server has the prompt in its cache
                outputs.append(self._answer(example, index, first_line))
            steps.advance(1 + generate)
        return scoring.score(total / count, rows, outputs), outputs

    def answer(self, prompt: str, adapter: Path | None = None) -> str:
        """Return the greedy answer to a prompt, of the base model or with one of the adapters."""
        row = _encode(self._engine, (prompt, ""))
        return self._answer(row, self._indices[adapter], first_line=False)

    def _answer(self, row: scoring.Tokens, index: int | None, first_line: bool) -> str:
        length = self.max_length - self.max_new_tokens
        prompt = row.truncated_prompt(length, self._engine.start)
        text = ""
        for piece in self._engine.answer(prompt, index, max_tokens=self.max_new_tokens):
            text += piece
            if first_line and "\n" in text.lstrip():
                break
        return scoring.stripped(text, first_line)


def _encode(engine: LlamaCpp, row: Row, shots: Sequence[Row] = ()) -> scoring.Tokens:
    """Return a row, with few-shot examples before its prompt, as token ids, not truncated."""
    prompt = scoring.prompt_text(row[0], shots)
    text = engine.tokenize(scoring.row_text(prompt, row[1]))
    return scoring.Tokens.split(
        engine.tokenize(prompt), text, engine.start, engine.first, engine.end
    )


def _fitted(engine: LlamaCpp, row: scoring.Tokens) -> scoring.Tokens:
    """Truncate a row's prompt from the left so that the row fits the engine's context.

    Raises:
        UsageError: the output alone does not fit it.
    """
    limit = engine.context - len(engine.start)
    if len(row.output) >= limit:
        raise UsageError(
            f"a row's output has {len(row.output)} tokens, expected fewer than {limit}: prompt and "
            "output must fit llama.cpp's context",
            hint=["leave out rows with such long outputs", Option("engine", "transformers")],
        )
    return row.truncated(engine.context, engine.start)
