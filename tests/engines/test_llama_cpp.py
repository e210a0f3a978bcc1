"""llama.cpp with the real 4-bit base model: numbers, adapters and failures."""

import math
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from hf_lorameta.bank.bank import EMBEDDED_FOLDER
from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator, base_gguf
from hf_lorameta.engines.scoring import compare
from hf_lorameta.environment import install_hint
from hf_lorameta.errors import (
    AdapterError,
    LoraMetaError,
    MissingExtraError,
    NotFoundError,
    UsageError,
)
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.formats.lora_layout import Module
from tests.support.engine_fixtures import needs_engine

pytestmark = [pytest.mark.slow, needs_engine]
ROWS = [("The capital of France is", "Paris."), ("2 + 2 =", "4"), ("", "So it began.")]


@pytest.fixture(scope="module")
def base() -> Path:
    from tests.support.engine_fixtures import packaged

    return packaged()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from tests.support.engine_fixtures import embedded_adapter

    scratch = tmp_path_factory.mktemp("adapters")
    return [embedded_adapter(index, scratch / str(index)) for index in (0, 20)]


@pytest.fixture(scope="module")
def files(folders: list[Path], base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    scratch, config = tmp_path_factory.mktemp("gguf"), base_config(read_metadata(base))
    return [gguf_adapter.export(f, scratch / f"{f.name}.gguf", config) for f in folders]


@pytest.fixture(scope="module")
def engine(base: Path, files: list[Path]) -> Iterator[LlamaCppEvaluator]:
    with LlamaCppEvaluator(base, files, max_length=256) as running:
        yield running


# --- numbers ------------------------------------------------------------------------------------


def test_tokenizes_like_the_bank(engine: LlamaCppEvaluator) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))
    for text in (
        "The capital of France is",
        "Zürich, 12.5 °C\n\n",
        "  two  spaces",
        "a<|im_end|>",
        "",
    ):
        assert engine.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert engine.start == []
    assert tokenizer.id_to_token(engine.end) == "<|im_end|>"


def test_probabilities_of_next_tokens_sum_to_at_most_one(engine: LlamaCppEvaluator) -> None:
    prompt = engine.tokenize("The capital of France is")
    (likely,) = engine.logprobs(prompt, engine.tokenize(" Paris"))
    others = [engine.logprobs(prompt, [token])[0] for token in (*range(300, 308), engine.end)]
    assert math.log(0.5) < likely < 0
    assert max(others) < likely
    assert sum(map(math.exp, [likely, *others])) <= 1


def test_tokens_that_end_within_a_character_have_log_probabilities(
    engine: LlamaCppEvaluator,
) -> None:
    prompt, output = engine.tokenize("A smile:"), engine.tokenize(" 🙂 and ☃")
    assert len(output) == 5  # the snowman is three tokens
    found = engine.logprobs(prompt, output)
    assert len(found) == len(output)
    assert all(-60 < score <= 0 for score in found)


def test_log_probabilities_do_not_depend_on_the_split_of_a_text(
    engine: LlamaCppEvaluator, files: list[Path]
) -> None:
    text = engine.tokenize("The quick brown fox jumps over the lazy dog")
    whole = engine.logprobs(text[:2], text[2:], files[0])
    parts = engine.logprobs(text[:2], text[2:5], files[0])
    parts += engine.logprobs(text[:5], text[5:], files[0])
    assert whole == pytest.approx(parts, abs=0.02)
    assert len(whole) == len(text) - 2


def test_answers_are_greedy(engine: LlamaCppEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "max_new_tokens", 2)
    prompt = engine.tokenize("The capital of France is")
    answer = engine.tokenize("".join(engine.continued(prompt)))
    assert len(answer) == 2
    before = list(prompt)
    for token in answer:
        rivals = {t for t in (answer[0], token, 28, 30, 198, 504) if t != token}
        (score,) = engine.logprobs(before, [token])
        assert all(score >= engine.logprobs(before, [rival])[0] for rival in rivals)
        before.append(token)


def test_each_call_activates_its_own_adapter(engine: LlamaCppEvaluator, files: list[Path]) -> None:
    prompt, output = engine.tokenize("Input: it rained.\nOutput:"), engine.tokenize(" yes it did")
    plain, first, second = (engine.logprobs(prompt, output, path) for path in (None, *files))
    assert plain != pytest.approx(first, abs=0.05)
    assert first != pytest.approx(second, abs=0.05)
    assert engine.logprobs(prompt, output) == pytest.approx(plain, abs=1e-3)
    with pytest.raises(ValueError, match="is not in list"):
        engine.logprobs(prompt, output, files[0] / "other")


def test_answers_can_be_abandoned(
    engine: LlamaCppEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = engine.tokenize("one, two, three,")
    early = next(piece for piece in engine.continued(prompt) if piece)
    monkeypatch.setattr(engine, "max_new_tokens", 5)
    again = "".join(engine.continued(prompt))
    assert again.startswith(early)


# --- as an evaluator ----------------------------------------------------------------------------


def test_evaluator_scores_equal_the_engines_log_probabilities(
    base: Path, folders: list[Path], engine: LlamaCppEvaluator, files: list[Path]
) -> None:
    with LlamaCppEvaluator(base, folders[:1], max_new_tokens=4) as evaluator:
        report = compare(evaluator, ROWS, {"base": None, "generated": folders[0]}, shots=ROWS[:1])
        assert list(report.scores) == ["base", "generated", "1-shot", "base-chat"]
        steps: list[int] = []
        bare, outputs = evaluator.evaluate(ROWS, folders[0], generate=False, done=steps.append)
        assert steps == [1, 1, 1]
    assert outputs == []
    assert bare.rouge_l is None
    assert bare.loss == pytest.approx(report.scores["generated"].loss, abs=0.02)
    found: list[float] = []
    for text, output in ROWS:
        prompt = engine.tokenize(text) or engine.first
        answer = engine.tokenize(f" {output}" if text else output)
        found += engine.logprobs(prompt, [*answer, engine.end], files[0])
    assert bare.loss == pytest.approx(-sum(found) / len(found), abs=0.02)
    assert report.samples[0].outputs["base"].startswith("Paris")


def test_adapters_and_files_that_do_not_fit_the_base_model_raise(
    base: Path, folders: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="needs a GGUF of org/other") as caught:
        base_gguf("org/other")
    assert "--base FILE" in caught.value.hint
    with pytest.raises(UsageError, match="no such file"):
        base_gguf("org/other", tmp_path / "none.gguf")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
            LlamaCppEvaluator(base, [folder])


# --- failures -----------------------------------------------------------------------------------


def test_requests_without_the_key_are_rejected(engine: LlamaCppEvaluator) -> None:
    asked = {"prompt": "x", "n_predict": 1}
    answer = httpx2.post(f"{engine._client.base_url}/completion", json=asked, trust_env=False)
    assert answer.status_code == 401
    assert str(engine._client.base_url).startswith("http://127.0.0.1:")


def test_prompt_longer_than_the_context_raises(engine: LlamaCppEvaluator) -> None:
    with pytest.raises(LoraMetaError, match=r"llama\.cpp answered 400"):
        engine.logprobs([28] * 300, [28])
    with pytest.raises(LoraMetaError, match=r"llama\.cpp answered 400"):
        list(engine.continued([28] * 300))


def test_files_that_cannot_be_loaded_raise(base: Path, files: list[Path], tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(base.read_bytes()[: 20 << 20])
    with pytest.raises(UsageError, match=r"cannot load .*half.gguf"):
        LlamaCppEvaluator(half)
    with pytest.raises(NotFoundError, match="No such file"):
        LlamaCppEvaluator(tmp_path / "none.gguf")
    half.write_bytes(b"no model at all")
    with pytest.raises(NotFoundError, match="is not a GGUF"):
        LlamaCppEvaluator(half)


def test_adapters_that_do_not_fit_raise(base: Path, tmp_path: Path) -> None:
    from tests.formats.test_gguf_adapter import config, save

    layout = (Module("model.layers.0.self_attn.q_proj", 8, 8),)
    other = save(tmp_path / "a", layout)
    narrow = gguf_adapter.export(other, tmp_path / "narrow.gguf", config())
    with pytest.raises(UsageError, match=r"cannot load .* with .*narrow\.gguf") as caught:
        LlamaCppEvaluator(base, [narrow])
    assert "check that adapters are for this base model" in caught.value.hint


def test_missing_llama_cpp_raises(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match="xllamacpp, rouge_score are not installed"
    ) as caught:
        LlamaCppEvaluator(base)
    assert caught.value.hint == install_hint("gguf")


def test_an_answer_without_probabilities_raises(
    engine: LlamaCppEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"content": " a", "completion_probabilities": [{"content": " a", "probs": []}]}
    monkeypatch.setattr(LlamaCppEvaluator, "_post", lambda *_: old)
    with pytest.raises(LoraMetaError, match="no log-probability of token 3"):
        engine.logprobs([28], [3])
