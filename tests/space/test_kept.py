"""How much memory the plans of visits keep."""

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hf_lorameta import Plan
from hf_lorameta.data.chat_form import ChatForm, ChatPrompt
from tests.support.running_space import missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

from visitors import kept
from visitors.kept import IN_ALL, OF_ADDRESS, PLAN_BYTES, Kept, StoredRows
from work.planning import LIMITS, SAMPLES, PageRequest, PlanResult
from work.visit import Visit


def planned(address: str) -> Visit:
    """Return a visit with a plan of as many and as long rows as are kept, an emoji in each."""
    length = LIMITS.characters // SAMPLES // 2
    texts = [f"{number} 😀".ljust(length, "x") for number in range(SAMPLES)]
    visit, plan = Visit(), cast(Plan, SimpleNamespace())
    samples = StoredRows([(text, f"{text}.") for text in texts])
    visit.plan_result = PlanResult(plan, samples, PageRequest(file="x"))
    visit.keep(address)
    return visit


def test_many_plans_of_an_address_take_little_memory_and_not_that_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("work.visit.KEPT", Kept())
    other = planned("b")
    tracemalloc.start()
    try:
        visits = [planned("a") for _ in range(12)]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    left = [visit.plan_result is not None for visit in visits]
    assert left == [False] * (12 - sum(left)) + [True] * sum(left), "the oldest go first"
    assert 3 < sum(left) <= OF_ADDRESS / (PLAN_BYTES + LIMITS.characters)
    assert used < OF_ADDRESS
    assert other.plan_result is not None
    rows = visits[-1].plan_result.samples  # type: ignore[union-attr]
    assert rows[3][0].startswith("3 😀x")
    assert len(rows) == len(list(rows)) == SAMPLES


def test_rows_that_are_kept_keep_the_turns_of_chats() -> None:
    prompt = ChatForm("<user>{prompt}<bot>", None).prompt([("user", "hi 😀")])
    [(kept_prompt, _)] = StoredRows([(prompt, "hello")])
    assert isinstance(kept_prompt, ChatPrompt)
    assert (kept_prompt, kept_prompt.turns) == (prompt, prompt.turns)


def test_all_addresses_together_keep_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    all_kept, size = Kept(), OF_ADDRESS // 2
    visits: list[Any] = [Visit() for _ in range(2 * IN_ALL // size)]
    for number, visit in enumerate(visits):
        visit.plan_result = "plan"
        if number == 1:
            visit.forget_plan = pytest.fail
            visit.lock = SimpleNamespace(acquire=lambda blocking: False)  # busy at the moment
        all_kept.keep(visit, f"address {number}", size)
        all_kept.keep(visit, f"address {number}", size)  # planned once more
    left = [number for number, visit in enumerate(visits) if visit.plan_result]
    assert left == [1, *range(len(visits) - IN_ALL // size + 1, len(visits))]


def test_visits_that_have_ended_do_not_count() -> None:
    all_kept, first = Kept(), Visit()
    first.plan_result = "plan"  # type: ignore[assignment]
    all_kept.keep(first, "a", OF_ADDRESS)
    ended = Visit()
    all_kept.keep(ended, "b", kept.IN_ALL - OF_ADDRESS)
    del ended
    last = Visit()
    all_kept.keep(last, "c", OF_ADDRESS)
    assert first.plan_result
