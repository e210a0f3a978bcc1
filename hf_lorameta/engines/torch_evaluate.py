"""What an adapter is worth: loss and answers on test rows, beside base model and few-shot prompt.

Needs the extra ``eval``; torch, transformers and peft are imported when an `Evaluator` is made.

A row is the input, a space unless the input ends in whitespace or is empty, the output, and the
tokenizer's end token. The loss is over the tokens of all outputs, end tokens included; answers are
decoded greedily.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.engines.scoring import (
    Report,
    Sample,
    Scores,
    Tokens,
    choose_shots,
    compare,
    one_line,
    prompt_text,
    row_text,
    score_texts,
)
from hf_lorameta.engines.torch_forward import (
    log_odds,
    packed_sequences,
    sequence_budget,
    summed_nll,
)
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import AdapterError, EmptyDatasetError, NotFoundError, UsageError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.packaged_model import quiet_transformers
from hf_lorameta.types import Row

if TYPE_CHECKING:
    import torch


__all__ = [
    "Evaluator", "Report", "Sample", "Scores", "choose_shots", "compare", "prompt_text", "row_text",
    "score_texts", "suited_dtype",
]  # fmt: skip

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


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


# --- the model ----------------------------------------------------------------------------------


def require_eval() -> None:
    """Check, without importing it, that what an `Evaluator` needs is installed.

    Raises:
        MissingExtraError: the extra ``eval`` is not.
    """
    require_extra("torch", "transformers", "peft", "rouge_score", "psutil")


class Evaluator:
    """A base model held in memory, to which adapters are attached in turn.

    Args:
        base_path: a local folder with model and tokenizer, see `hf_lorameta.hub.base_model.locate`.
        dtype: torch name of the dtype of the weights; ``auto`` is `suited_dtype`.
        batch_tokens: at most this many tokens are in flight, padding included.
        max_length: tokens of prompt and answer together; longer prompts lose their beginning,
            outputs are never cut.
        seed: of `shots`; everything else is deterministic.
        max_new_tokens: an answer ends there at the latest.
        stop_at_newline: an answer ends with its first line. None: it does, for every method
            alike, unless a reference has several lines.
        base_model: id that adapters must name as their base; "" does not compare names.

    Attributes:
        model: the base model, of transformers.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the folder holds no loadable model.
        UsageError: the dtype is unknown, or the tokenizer has no end token.
    """

    def __init__(
        self,
        base_path: Path | str,
        dtype: str = "auto",
        batch_tokens: int = 4096,
        max_length: int = 1024,
        seed: int = 0,
        *,
        max_new_tokens: int = 64,
        stop_at_newline: bool | None = None,
        base_model: str = "",
    ) -> None:
        require_eval()
        self.batch_tokens, self.max_length, self.seed = batch_tokens, max_length, seed
        self.max_new_tokens, self.stop_at_newline = max_new_tokens, stop_at_newline
        self.base_model = base_model
        chosen = suited_dtype(Path(base_path)) if dtype == "auto" else dtype
        with quiet_transformers():
            self.model, self._tokenizer = _load(Path(base_path), chosen)
        end, start = self._tokenizer.eos_token_id, self._tokenizer.bos_token_id
        if end is None:
            raise UsageError(f"the tokenizer in {base_path} has no end-of-sequence token")
        self._end: int = end
        self._line = sequence_budget(self.model)
        self._start = [start] if start in self._tokenizer("").input_ids else []
        self._first = [end if start is None else start]
        self.model.generation_config = self._greedily()

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
        with torch.inference_mode(), quiet_transformers(), self._attached(adapter):
            loss = self._loss(self.encode(rows, shots))
            first_line = one_line(rows, self.stop_at_newline)
            outputs = self._answers(rows, shots, first_line) if generate else []
        if not outputs:
            return Scores(loss, None, None, None, len(rows)), outputs
        texts = score_texts(outputs, [output for _, output in rows])
        return Scores(loss, *texts, rows=len(rows)), outputs

    def _encode(self, row: Row, shots: Sequence[Row]) -> Tokens:
        """Tokenize the whole text at once: the output is what follows the prompt's own tokens."""
        prompt = prompt_text(row[0], shots)
        ids, whole = self._tokenizer(
            [prompt, row_text(prompt, row[1])], add_special_tokens=False
        ).input_ids
        return Tokens.split(ids, whole, self._start, self._first, self._end)

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
        own = self.model.generation_config.eos_token_id
        return sorted({self._end, *(own if isinstance(own, list) else [own])} - {None})

    # --- loss ---

    def encode(self, rows: Sequence[Row], shots: Sequence[Row] = ()) -> list[Tokens]:
        """Rows as token ids, the beginnings of long prompts cut off."""
        return [self._encode(row, shots).within(self.max_length, self._start) for row in rows]

    def losses(self, examples: Sequence[Tokens]) -> Iterator["torch.Tensor"]:
        """Summed cross entropy of the output tokens, in nats, one scalar a line."""
        for part in self.lines(examples):
            yield summed_nll(self.model, part)

    def log_odds(self, examples: Sequence[Tokens]) -> "torch.Tensor":
        """``log p / (1 − p)`` of the output tokens, float64, row after row."""
        import torch

        return torch.cat([log_odds(self.model, part) for part in self.lines(examples)])

    def lines(self, examples: Sequence[Tokens], share: bool = True) -> Iterator[Sequence[Tokens]]:
        """Rows that may go through the model together, see `hf_lorameta.engines.torch_forward`."""
        return packed_sequences(examples, min(self.batch_tokens, self._line), share)

    def _loss(self, examples: Sequence[Tokens]) -> float:
        total = sum(float(loss) for loss in self.losses(examples))
        return total / sum(len(output) for _, output in examples)

    # --- answers ---

    def _answers(self, rows: Sequence[Row], shots: Sequence[Row], first_line: bool) -> list[str]:
        room = self.max_length - self.max_new_tokens
        prompts = [self._encode(row, shots).cut(room, self._start) for row in rows]
        answers = [""] * len(prompts)
        lengths = [len(prompt) + self.max_new_tokens for prompt in prompts]
        for batch in _batches(lengths, self.batch_tokens):
            found = self._greedy([prompts[index] for index in batch], first_line)
            for index, tokens in zip(batch, found, strict=True):
                text = self._text(tokens)
                answers[index] = text.split("\n")[0].strip() if first_line else text
        return answers

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def _greedy(self, prompts: Sequence[list[int]], first_line: bool) -> list[list[int]]:
        """The likeliest token again and again; end tokens may follow an answer."""
        from transformers import StoppingCriteriaList

        ids, mask = _left_padded(prompts, self._end)
        width = ids.shape[1]
        tokens = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            stopping_criteria=StoppingCriteriaList([self._line_ended(width)] if first_line else []),
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
        modules = dict(self.model.named_modules())
        attributes = set(vars(self.model))
        try:
            _attach(self.model, adapter, names)
            yield
        finally:
            for name, module in modules.items():
                if name and self.model.get_submodule(name) is not module:
                    self.model.set_submodule(name, module)
            for added in set(vars(self.model)) - attributes:
                delattr(self.model, added)


def _left_padded(prompts: Sequence[list[int]], pad: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Token ids and mask, both (B, T) int64."""
    import torch

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    return ids, mask


def suited_dtype(folder: Path) -> str:
    """The dtype that suits this machine: bfloat16 where the CPU multiplies matrices of it.

    Elsewhere bfloat16 only saves memory, at a price: two AVX2 cores were measured to multiply 18
    GFLOPS in bfloat16 and 155 in float32, two with AVX512's bfloat16 but no AMX 165 and 300. So
    there it is float32, unless the weights would then take more than half of the memory that is
    available now.

    Args:
        folder: of the model; only the headers of its safetensors files are read.
    """
    if _multiplies_bfloat16():
        return "bfloat16"
    needed = 4 * sum(map(_parameters, folder.glob("model*.safetensors")))
    return "float32" if 0 < needed <= _available_memory() / 2 else "bfloat16"


def _multiplies_bfloat16() -> bool:
    """Whether torch uses matrix instructions of the CPU for bfloat16; no, where it cannot say."""
    import torch

    ask: Any = getattr(torch.cpu, "get_capabilities", dict)
    onednn: Any = torch.backends.mkldnn
    names = ("amx_bf16", "bf16")  # Intel's and ARM's
    return bool(onednn.is_available() and any(ask().get(name) for name in names))


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file; none in a broken one, whose loading will say what is wrong."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError:
        return 0


def _available_memory() -> int:
    """Bytes that programs can still take here, within a container's limit (cgroup v2)."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        return min(available, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return available


def _load(folder: Path, dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UsageError(f"dtype is {dtype!r}, expected auto, bfloat16, float16 or float32")
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder} is no folder", hint="hf_lorameta.hub.base_model.locate gives one"
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
