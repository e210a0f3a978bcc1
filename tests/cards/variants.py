"""Cards of all kinds of adapters, as one text: a change of wording rewrites it.

python -m tests.cards.variants --write
"""

import difflib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_lorameta.bank.index import NO_BANK
from hf_lorameta.cards.results import Drawn, Outcome, StageRecord, Training
from hf_lorameta.data.chat_form import ChatMode
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.recipe import Recipe
from tests.cards.examples import RIGHT, checked, command_of, many, neighbor, of_dataset, rendered

CARDS = Path(__file__).parent / "cards.txt"  # not .md: ruff formats the code in those
SHORT = Training(rows=16, steps=30, seen=16, labeled=16, layers=6)
CHECK = checked(RIGHT, rows=8)
PROMPTED = checked(RIGHT | {"3-shot": 9}, rows=8)
SCORES = {"generated": 0.5, "base": 0.25, "3-shot": 0.375}
ALL_ANSWERS = checked(PROMPTED.right, None, SCORES, rows=8, measure="rouge_l")
GENERAL: dict[str, Any] = {"general": 0.8, "scale": 0.8, "general_licenses": ("mit", None)}


def alone(**changes: Any) -> dict[str, Any]:
    """Return values of an adapter that was trained without a bank."""
    values = {"bank_id": NO_BANK, "bank_revision": None, "bank_size": 0, "bank_published": False,
              "neighbors": (), "nearest_in_bank": math.nan,
              "outcome": Outcome(training=SHORT)}  # fmt: skip
    return values | changes


def near(distance: float, typical: float) -> dict[str, Any]:
    """Return values of a card, with the distance to the nearest dataset of the bank."""
    used = (neighbor(0, 0.9, distance=5.0), neighbor(1, 0.1, distance=distance))
    return {"neighbors": used, "nearest_in_bank": typical}


def chat(**mode: Any) -> dict[str, Any]:
    """Return values of a card of prompts in a chat template."""
    return of_dataset(
        columns=Columns(input="text", template="<u>{prompt}<b>", chat=ChatMode(**mode))
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "trained": {"outcome": Outcome(SHORT), "command": command_of(train=16, budget=None)},
    "trained, checked in folds": {
        "outcome": Outcome(replace(SHORT, folds=4), CHECK, Drawn(16, 12, 4, 0))
    },
    "trained, checked on other rows": {"outcome": Outcome(SHORT, CHECK, Drawn(20, 16, 4, 0))},
    "trained, checked, rows held out": {"outcome": Outcome(SHORT, CHECK, Drawn(28, 16, 4, 8))},
    "checked": {"outcome": Outcome(check=CHECK)},
    "checked, with examples": {"outcome": Outcome(check=PROMPTED)},
    "all answers graded": {"outcome": Outcome(check=ALL_ANSWERS)},
    "several labels graded": {"outcome": Outcome(check=replace(ALL_ANSWERS, measure="label_f1"))},
    "a stage of its own": {
        "outcome": Outcome(SHORT, CHECK, records=(StageRecord("x", {}, "Halved", "By 2."),))
    },
    "no bank": alone(),
    "a bank that is not published": {"bank_published": False},
    "one adapter with a title": {
        "neighbors": (neighbor(0, 1.0, title="Requests | their intent"),), "bank_published": False
    },
    "many adapters": {"neighbors": many(25)},
    "a general adapter": GENERAL | {"neighbors": ()},
    "a general adapter, not scaled": GENERAL | {"neighbors": (), "general": 0.5, "scale": 1.0},
    "a general adapter among others": {
        "general": 0.25, "general_licenses": ("mit",), "output_prior": 0.5, "scale": 0.5
    },
    "a dataset in two languages": of_dataset(
        languages=("en", "de"), columns=Columns(input="a", instruction_text="Sort")
    ),
    "a local dataset": of_dataset(id=None, revision="sha256:77", private=True) | {"command": []},
    "a private dataset": of_dataset(private=True) | {"outcome": Outcome(SHORT), "command": []},
    "no configuration": of_dataset(config=None, revision="", split=""),
    "a chat template": chat(),
    "a chat template with a system text": chat(system="/no_think"),
    "a chat template with arguments": chat(
        chat_template_kwargs={"think": False}, system="/no_think"
    ),
    "turns": of_dataset(columns=Columns(messages="messages")),
    "no inputs": of_dataset(columns=Columns(output="text")),
    "a template": of_dataset(
        columns=Columns(input="question", output="answer", template="Q: {input}\n")
    ),
    "a base model without a revision": {"base_revision": None},
    "an export": {"gguf": True},
    "other settings": {"recipe": Recipe(metric="wd", top_k=2, coefficients="neural", seed=7)},
    "as near as others": near(0.2, 0.2),
    "hardly farther": near(0.209, 0.2),
    "loosely related": near(0.3, 0.2),
    "far": near(0.32, 0.2),
    "far, but checked": near(0.32, 0.2) | {"outcome": Outcome(check=CHECK)},
    "the same dataset": near(0.0, 0.2),
    "a bank of equal datasets": near(0.6, 0.0),
    "a bank of one dataset": near(0.6, math.nan),
}  # fmt: skip


def cards() -> str:
    """Return the card of a published adapter, and the lines that only those of variants have.

    Of a line that stands above, only the beginning is repeated.
    """
    text, plain = rendered("me/questions-lora"), rendered()
    shown = set(plain.split("\n"))
    for name, values in VARIANTS.items():
        lines = difflib.ndiff(plain.split("\n"), rendered(None, **values).split("\n"))
        new = [line[2:] for line in lines if line.startswith("+ ") and line[2:]]
        text += "\n".join([f"\n=== {name}", *(_short(line, shown) for line in new), ""])
        shown.update(new)
    return text


def _short(line: str, shown: set[str]) -> str:
    return f"{line[:30]}…" if line in shown and len(line) > 30 else line


if __name__ == "__main__":
    if "--write" in sys.argv:
        CARDS.write_text(cards(), "utf-8")
    else:
        sys.stdout.write(cards())
