"""How many threads torch uses."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hf_lorameta.engines.transformers import threads  # noqa: E402 - it imports torch


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [2, 16])
def test_torch_uses_no_more_threads_than_there_are_cores_to_use(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    assert threads.cores() == min(cores, 8)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({8: 1.0, 4: 2.0, 2: 4.0, 1: 8.0}, 8),  # idle
        ({8: 1.9, 4: 1.0, 2: 1.0, 1: 1.0}, 8),  # a small model
        ({8: 9.0, 4: 9.0, 2: 0.5, 1: 1.0}, 2),  # six cores are busy
        ({8: 9.0, 4: 9.0, 2: 9.0, 1: 1.0}, 1),
    ],
)
def test_fewer_threads_are_used_if_all_are_much_slower(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    embeddings = SimpleNamespace(weight=torch.ones(3, 2))
    model: Any = SimpleNamespace(get_input_embeddings=lambda: embeddings)
    assert threads._product_seconds(embeddings.weight, 2) > 0
    torch.set_num_threads(8)
    monkeypatch.setattr(threads, "_product_seconds", lambda weight, count: seconds[count])
    with threads.fastest_threads(model):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 8


def test_threads_that_overlap_leave_the_number_as_it_was() -> None:
    began, ended = Event(), Event()

    def first() -> None:
        with threads.restoring_threads():
            torch.set_num_threads(1)
            later.submit(second)
            assert began.wait(120)
        ended.set()

    def second() -> None:
        with threads.restoring_threads():
            counts.append(torch.get_num_threads())
            torch.set_num_threads(2)
            began.set()
            assert ended.wait(120)

    counts = list[int]()
    with ThreadPoolExecutor(1) as later, ThreadPoolExecutor(1) as early:
        early.submit(first).result()
    with ThreadPoolExecutor(1) as new:
        counts.append(new.submit(torch.get_num_threads).result())
    assert counts == [8, 8]
    assert threads._before == []
