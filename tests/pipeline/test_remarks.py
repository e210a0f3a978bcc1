"""Remarks: which state of a plan gets which, where they are shown, and the verdict."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.results import (
    CheckResult,
    Drawn,
    Interruption,
    Outcome,
    Pace,
    Training,
)
from hf_lorameta.data.counts.row_counts import RowCounts
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.remarks import Remark, log_remarks
from tests.cards.examples import checked
from tests.pipeline.conftest import with_recipe
from tests.support.plain_bank import plain_bank

RIGHT = {"generated": 12, "base": 2, "base-chat": 3, "3-shot": 9, "most-frequent": 7}
SENTIMENTS = [
    {"text": f"The {thing} was {word}.", "label": label}
    for thing in ("room", "tea", "bed", "view", "host", "bath")
    for word, label in (("lovely", "good"), ("awful", "bad"))
]


def check(loss: float = 1.0, right: Mapping[str, int | None] = RIGHT) -> CheckResult:
    return checked({**RIGHT, **right}, {"generated": loss, "base": 2.0, "base-chat": 1.5})


@pytest.fixture(scope="module")
def planned() -> Plan:
    """A plan with more than 20 rows and an instruction, to which only licenses are remarked on."""
    recipe = Recipe(top_k=2, rank=2)
    found = plan(SENTIMENTS * 2, plain_bank(), recipe, instruction="Is the note good or bad?")
    return with_index(found, base_model="org/base")


# --- which state gets which remark ----------------------------------------------------------------

TRAINING = Training(75, steps=9, seen=72, labeled=75, outputs=2)


def with_index(of: Plan, **changes: Any) -> Plan:
    bank = copy(of.bank)
    bank.index = bank.index.model_copy(update=changes)
    return replace(of, bank=bank)


def with_profile(of: Plan, **changes: Any) -> Plan:
    return replace(of, profile=replace(of.profile, **changes))


def with_counts(of: Plan, **counts: int) -> Plan:
    return with_profile(of, row_counts=RowCounts(**counts))


def at(of: Plan, times: float, **changes: Any) -> Plan:
    """Put a dataset at a multiple of the distance that is typical within the bank."""
    ratio = of.distances.min() / of.nearest_in_bank
    return replace(of, distances=of.distances * times / ratio, **changes)


def packed(of: Plan, retained: float) -> Plan:
    packing = embedded_bank().index.packing
    assert packing
    return with_index(of, packing=packing.model_copy(update={"retained_whole": retained}))


def on_one(of: Plan) -> Plan:
    weights = np.where(of.coefficients == of.coefficients.max(), 0.99, of.coefficients / 100)
    return replace(of, coefficients=weights)


def unlicensed(of: Plan, license: str | None = None) -> Plan:
    entries = [e.model_copy(update={"license": license}) for e in of.bank.index.entries]
    return with_index(of, entries=tuple(entries))


def made(of: Plan, **results: Any) -> Generation:
    return Generation(of, (), 2, (), 0.0, outcome=Outcome(**results))


def trained(of: Plan, held_out: int = 25, **changes: Any) -> Generation:
    training = replace(TRAINING, **changes)
    drawn = Drawn(200, training.rows if not training.folds else 68, held_out, 0)
    return made(of, training=training, drawn=drawn, asked={"train": 100})


def with_check(of: Plan, drawn: int) -> Generation:
    counts = Drawn(200, 0, 0, drawn)
    return made(of, check=check(), drawn=counts, asked={"check": 20})


def stopped(of: Plan) -> Generation:
    ended = Interruption("training", "The training was interrupted.")
    return made(of, training=TRAINING, interrupted=ended)


def with_outlier(of: Plan, largest: float) -> Plan:
    """State norms in the index, of which those of an adapter that takes part are given."""
    entries = [e.model_copy(update={"norm": 1.0, "largest": 1.5}) for e in of.bank.index.entries]
    odd = of.active_indices[-1]
    entries[odd] = entries[odd].model_copy(update={"largest": largest})
    return with_index(of, entries=tuple(entries))


def read(rows: Any, bank: Callable[[], Bank] = plain_bank, **options: Any) -> Plan:
    return plan(rows, bank(), **options)


PROMPTS = [{"prompt": f"When does storm {n} last?"} for n in range(30)]
TEXTS = [{"text": f"The bridge {n} is still closed."} for n in range(30)]
BARE = [{"text": f"sun {n}", "next": f"a tree of kind {n}"} for n in range(30)]
STATES: dict[str, tuple[Callable[[Plan], Plan | Generation], str, str | None]] = {
    "few rows": (lambda p: with_profile(p, rows=3), "warning", "rows.few: 3"),
    "one row": (lambda p: with_profile(p, rows=1), "warning", "rows.few: 1"),
    "left out": (lambda p: with_profile(p, left_out=2), "warning", "outputs.some-missing: 2 of 26"),
    "imbalanced": (lambda p: with_counts(p, same=23), "warning", "outputs.mostly-same: 96%"),
    "repeated": (lambda p: with_counts(p, repeated=2), "note", "rows.repeated: 2 of 24"),
    "cut": (lambda p: with_counts(p, cut=1), "warning", "rows.beginning-counted: 1"),
    "bare": (
        lambda _: read(BARE, columns="input=text,output=next"),
        "warning", "instruction.unlike-bank: add instruction="
    ),
    "told": (lambda p: p, "warning", None),
    "prompts": (lambda _: read(PROMPTS), "warning", "outputs.none"),
    "texts": (lambda _: read(TEXTS), "warning", "inputs.none"),
    "near": (lambda p: at(p, 1.4), "warning", None),
    "far": (lambda p: at(p, 1.6), "warning", "bank.far"),
    "far, but measured": (lambda p: made(at(p, 1.6), check=check()), "warning", "bank.far"),
    "GGUF": (lambda p: with_index(p, base_model="a.gguf"), "warning", "base.dequantized"),
    "4-bit weights": (
        lambda p: trained(with_index(p, base_model=SMOLLM2)), "warning", "base.four-bit"
    ),
    "pack": (lambda p: packed(p, 0.8), "warning", "bank.lossy-pack: 80%"),
    "good pack": (lambda p: packed(p, 0.95), "warning", None),
    "an outlier": (lambda p: with_outlier(p, 9), "warning", "bank.odd-adapters"),
    "no outlier": (lambda p: with_outlier(p, 2), "warning", None),
    "one adapter": (on_one, "warning", "bank.one-adapter"),
    "unlicensed": (unlicensed, "warning", "license.some-unknown"),
    "trained": (trained, "note", "training.some-rows: 72 of 75 rows, in 9 steps."),
    "long rows": (lambda p: trained(p, cut=8), "warning", "rows.cut: 8 of 75"),
    "few long rows": (lambda p: trained(p, cut=7), "note", "rows.cut: 7 of 75"),
    "each row at least once": (
        lambda p: trained(p, steps=12, seen=75), "note", "training.all-rows: 75 rows, in 12 steps."
    ),
    "time for a part of the rows": (
        lambda p: made(p, budget=120.0,
                       training=replace(TRAINING, rows=1952, steps=4, seen=32, labeled=10_003)),
        "note", "training.some-rows: 32 of 10,003"
    ),
    "out of time": (
        lambda p: made(p, out_of_time=True, budget=9.0),
        "warning",
        'budget.short: add budget="2m"',
    ),
    "out of more time": (
        lambda p: made(p, out_of_time=True, budget=600.0),
        "warning", 'budget.short: add budget="20m"'
    ),
    "uncounted": (trained, "note", "check.none: add check=16"),
    "no time to count": (
        lambda p: made(p, training=TRAINING, to_count=16, budget=120.0), "note",
        "budget.none-counted: add budget="
    ),
    "slower than idle": (
        lambda p: made(p, training=TRAINING, pace=Pace(10.0, 48.0)), "note",
        "training.some-rows: 10 a minute; if idle, this machine would take about 48"
    ),
    "a sample": (
        lambda p: with_profile(p, ended_early=True, sampled=True, total=10**7), "note",
        "rows.sampled: of 10,000,000 rows, evenly spread"
    ),
    "stopped reading": (
        lambda p: with_profile(p, ended_early=True), "note", "rows.first: first 24 rows"
    ),
    "one output": (lambda p: trained(p, outputs=1), "warning", "outputs.all-same"),
    "fewer": (lambda p: trained(p, 20, rows=60), "warning", "rows.fewer-than-asked: 60"),
    "few, in folds": (
        lambda p: trained(p, 22, rows=90, folds=2), "warning", "rows.fewer-than-asked: 90"
    ),
    "fewer to check on": (lambda p: with_check(p, 16), "warning", "rows.fewer-than-asked: 16"),
    "enough to check on": (lambda p: with_check(p, 20), "warning", None),
    "enough": (trained, "warning", None),
    "stopped": (stopped, "warning", "stage.interrupted"),
    "checked": (
        lambda p: made(p, check=check()), "note", "check.losses: 2.000"
    ),
    "checked in folds": (
        lambda p: made(p, check=check(), training=replace(TRAINING, folds=4)),
        "note", "check.losses: each with an adapter"
    ),
    "time to count on some rows": (
        lambda p: made(p, check=check(), to_count=30, budget=120.0),
        "note", "budget.few-counted: 16 of 30"
    ),
    "no time to grade": (
        lambda p: made(p, check=check(), ungraded=True, budget=120.0),
        "note", "budget.ungraded: add budget="
    ),
    "time to count on all rows": (
        lambda p: made(p, check=check(), to_count=16), "note", "check.losses"
    ),
    "better": (lambda p: made(p, check=check(1.4)), "warning", None),
    "less likely, more right": (lambda p: made(p, check=check(2.5)), "warning", None),
}  # fmt: skip
"""How one gets there, and a remark's level, code and figures; None if there is none."""


@pytest.mark.parametrize("state", STATES)
def test_a_state_gets_its_remark_and_no_other_warning(planned: Plan, state: str) -> None:
    reach, level, expected = STATES[state]
    reached = reach(unlicensed(planned, "mit"))
    found = {remark.code: str(remark) for remark in reached.remarks if remark.level == level}
    code, _, figures = (expected or "").partition(": ")
    assert figures in found[code] if expected else not found
    assert reached.verdict == reached.remarks[-1]
    assert ("bank.expect-little" in found) == (state == "far")


def test_a_scale_is_advised_where_the_length_of_outputs_is_unknown() -> None:
    scaled, unscaled = read(PROMPTS, embedded_bank), read(PROMPTS)
    others = (Recipe(scale=0.7), Recipe(metric="js", coefficients="normalized"))
    advice = "For outputs of a sentence or more, add scale=0.5."
    plans = (scaled, unscaled, *(with_recipe(scaled, other) for other in others))
    advised = [any(str(r).endswith(advice) for r in p.remarks) for p in plans]
    assert advised == [True, False, False, False]


# --- where remarks are shown ----------------------------------------------------------------------


def test_a_new_remark_is_shown_by_python_notebook_json_and_card(
    planned: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = {
        level: Remark(level, f"A {level} <b>.", code="rows.few")
        for level in ("note", "warning", "doubt")
    }
    known = planned.remarks
    dataset = replace(planned.dataset, remarks=(*planned.dataset.remarks, *new.values()))
    planned = replace(planned, dataset=dataset)
    caplog.set_level("INFO", "hf_lorameta")
    log_remarks(planned.remarks, without=[*known, planned.verdict])
    assert caplog.messages == ["A note <b>.", "A warning <b>."]
    assert "A warning &lt;b&gt;." in planned._repr_html_()
    shown = {r["text"]: r["level"] for r in planned.to_dict()["remarks"]}
    assert {remark.text: level for level, remark in new.items()}.items() <= shown.items()
    folder = make_adapter(planned).save_pretrained(tmp_path / "a")
    card = (folder / CARD_FILE).read_text()
    assert "A warning &lt;b&gt;." in card.split("## Warnings")[1]
    assert "A doubt &lt;b&gt;." in card.split("## Usage")[0]
    assert "A note" not in card


def test_python_card_and_json_state_the_same_verdict(planned: Plan, tmp_path: Path) -> None:
    generation = make_adapter(planned)
    for found in (None, check(), check(right={"3-shot": 14})):
        adapter = replace(generation, outcome=Outcome(check=found))
        folder = adapter.save_pretrained(tmp_path / f"{found and found.right}")
        verdict = adapter.verdict
        card = (folder / CARD_FILE).read_text()
        assert card.count(f"**{verdict.title}.** {verdict.reason}") == 1
        assert adapter.record.to_dict()["remarks"][-1]["code"] == verdict.code
        shown = adapter.to_dict()
        assert shown["verdict"] == shown["remarks"][-1] == verdict.to_dict()
        assert (shown["check"] is None) == (found is None)
        assert (verdict.text in repr(adapter)) == (found is not None)
    for text in (str(planned), planned._repr_html_()):
        assert planned.verdict.text in text
    assert planned.to_dict()["remarks"][-1] == planned.verdict.to_dict()


def test_the_plan_of_an_adapter_does_not_say_that_nothing_was_counted(planned: Plan) -> None:
    generation = made(planned, check=check())
    assert generation.verdict == generation.remarks[-1]
    assert generation.plan.verdict.code == "verdict.uncounted"


# --- the verdict ----------------------------------------------------------------------------------


IMAGE = {"bytes": b"", "path": "a.png"}


@pytest.mark.parametrize(
    ("rows", "doubt"),
    [
        ([{"image": IMAGE, "text": f"a {n}", "label": "ab"[n % 2]} for n in range(9)], "images"),
        ([{"question": f"{n} + {n}", "answer": f"{2 * n}"} for n in range(9)], "numbers"),
        ([{"input": "a " * (n % 2), "output": "ab"[n % 2]} for n in range(12)], "Blank inputs"),
        (BARE, "what to do"),
    ],
)
def test_data_that_may_not_hold_what_an_answer_needs_is_never_promised_help(
    rows: Any, doubt: str
) -> None:
    columns = "input=text,output=next" if "next" in rows[0] else None
    for found in (None, check()):
        verdict = made(read(rows, columns=columns), check=found).verdict
        assert verdict.level == "unsure"
        assert doubt in verdict.reason
        assert ("the adapter 12" in verdict.reason) == (found is not None)


def test_rows_that_are_trained_on_show_what_to_do_if_no_instruction_does() -> None:
    bare = read(BARE, columns="input=text,output=next")
    [advice] = [r.option.value for r in bare.remarks if r.option and r.option.name == "instruction"]
    assert advice == "Write the next"
    generation = made(bare, training=TRAINING, check=check())
    assert generation.verdict.level == "likely"
    assert "what to do" not in " ".join(remark.text for remark in generation.remarks)


def test_where_no_answer_is_right_the_verdict_advises_more_time_than_was_given() -> None:
    none = check(right=dict.fromkeys(RIGHT, 0))
    for budget, longer in ((None, "10m"), (600.0, "20m")):
        option = made(read(SENTIMENTS), check=none, budget=budget).verdict.option
        assert option
        assert option.value == longer
