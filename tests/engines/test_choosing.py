"""Labels and greedy answers of many rows equal those of single rows, on a tiny random Llama."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.engines.label_tree import distinct_beginnings, label_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.adapter_weights import adapter_weights  # noqa: E402
from hf_lorameta.engines.scoring import LoraWeights  # noqa: E402
from hf_lorameta.engines.transformers import choosing, continuing  # noqa: E402
from hf_lorameta.engines.transformers.choosing import label_scores  # noqa: E402
from hf_lorameta.engines.transformers.continuing import continuations  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402
from hf_lorameta.engines.transformers.row_mode import RowMode  # noqa: E402
from hf_lorameta.errors import AdapterError  # noqa: E402
from tests.engines.test_torch_evaluator import save_adapter, save_base  # noqa: E402

LABELS = ("a rose", "a roseate", "no", "an answer", "none", "so none")
PROMPTS = (
    "Sort it.\n\nInput: what is red?\nOutput:",
    "Sort it.\n\nInput: say it\nOutput:",
    "Sort it.\n\nInput: a longer question that goes on\nOutput:",
    "another form ",
    "x",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TorchEvaluator:
    base = save_base(tmp_path_factory.mktemp("base"))
    return TorchEvaluator.from_folder(base, "float32", batch_tokens=64, max_new_tokens=6)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "a")


WORDS = st.lists(st.integers(2, 5), min_size=1, max_size=5)


@given(st.lists(WORDS, min_size=2, max_size=8, unique_by=tuple))
def test_a_tree_has_every_label_up_to_where_no_other_goes(words: list[list[int]]) -> None:
    labels = [[*word, 1] for word in words]
    beginnings = distinct_beginnings(labels)
    for label, beginning in zip(labels, beginnings, strict=True):
        size = len(beginning)
        assert beginning == label[:size]
        others = [other for other in labels if other != label]
        assert all(other[:size] != beginning for other in others)
        assert any(other[: size - 1] == beginning[:-1] for other in others)
    tree = label_tree(labels)
    for beginning, path in zip(beginnings, tree.paths, strict=True):
        assert [tree.edges[edge][1] for edge in path] == beginning
        assert tree.edges[path[0]][0] == 0
        for (place, _), parent in zip(map(tree.edges.__getitem__, path[1:]), path, strict=False):
            assert (tree.parents[place - 1], tree.read[place - 1]) == tree.edges[parent]
    prefixes = {tuple(b[:size]) for b in beginnings for size in range(1, len(b))}
    assert len(tree.read) == len(prefixes)


def test_labels_that_begin_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="beginning"):
        distinct_beginnings([[1, 2], [1, 2, 3]])


def _alone(evaluator: TorchEvaluator, prompt: str) -> np.ndarray[Any, Any]:
    """The log probabilities of labels, each in a pass of its own."""
    rows = evaluator.encode([(prompt, label) for label in LABELS])
    whole = [row.prompt + row.output for row in rows]
    shared = min(len(row.prompt) for row in rows)
    assert all(row.prompt[:shared] == rows[0].prompt[:shared] for row in rows)
    scores = []
    for beginning in distinct_beginnings([ids[shared:] for ids in whole]):
        ids = [*rows[0].prompt[:shared], *beginning]
        with torch.no_grad():
            logs = evaluator.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(shared - 1, len(ids) - 1)
        scores.append(sum(float(logs[i, ids[i + 1]]) for i in places))
    return np.array(scores)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_scores_are_those_of_single_rows(
    evaluator: TorchEvaluator, adapter: Path, with_adapter: bool
) -> None:
    with evaluator.attached(adapter if with_adapter else None):
        expected = np.array([_alone(evaluator, prompt) for prompt in PROMPTS])
    with evaluator.attached(adapter_weights(adapter) if with_adapter else None):
        found = label_scores(evaluator, PROMPTS, LABELS)
    assert np.allclose(found, expected, atol=1e-4)


def test_models_whose_rows_do_not_run_joined_have_the_same_scores(
    evaluator: TorchEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = label_scores(evaluator, PROMPTS, LABELS)
    monkeypatch.setattr(choosing, "row_mode", lambda _: RowMode.PADDED)
    assert np.allclose(label_scores(evaluator, PROMPTS, LABELS), joined, atol=1e-4)


def test_done_counts_each_row_once_and_one_label_needs_no_pass(evaluator: TorchEvaluator) -> None:
    done: list[int] = []
    label_scores(evaluator, PROMPTS, LABELS, done.append)
    assert sum(done) == len(PROMPTS)
    assert label_scores(evaluator, PROMPTS, ["one"]).tolist() == [[0.0]] * len(PROMPTS)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_greedy_answers_are_those_of_single_rows(
    evaluator: TorchEvaluator, adapter: Path, with_adapter: bool
) -> None:
    with evaluator.attached(adapter_weights(adapter) if with_adapter else None):
        found = continuations(evaluator, PROMPTS)
    with evaluator.attached(adapter if with_adapter else None):
        for prompt, (text, probability) in zip(PROMPTS, found, strict=True):
            assert text == evaluator.answer(prompt, adapter if with_adapter else None)
            assert probability == pytest.approx(_probability(evaluator, prompt), rel=1e-3)


def _probability(evaluator: TorchEvaluator, prompt: str) -> float:
    """The geometric mean of the probabilities of a greedy answer's tokens, one pass for each."""
    [row] = evaluator.encode([(prompt, "")])
    ids, logs = list(row.prompt), list[float]()
    while len(logs) < evaluator.max_new_tokens:
        with torch.no_grad():
            last = evaluator.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        logs.append(float(last.max()))
        ids.append(int(last.argmax()))
        if ids[-1] == evaluator.end_token:
            break
    return math.exp(sum(logs) / len(logs))


def test_models_whose_rows_do_not_run_joined_have_the_same_answers(
    evaluator: TorchEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = continuations(evaluator, PROMPTS)
    monkeypatch.setattr(continuing, "row_mode", lambda _: RowMode.SINGLE)
    found = continuations(evaluator, PROMPTS)
    assert [one.text for one in found] == [one.text for one in joined]


def test_weights_in_memory_are_those_of_the_folder(adapter: Path, tmp_path: Path) -> None:
    weights = adapter_weights(adapter)
    assert isinstance(weights, LoraWeights)
    with pytest.raises(AdapterError):
        adapter_weights(tmp_path)
