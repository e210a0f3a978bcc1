"""A request: its fields are options of the command line, and its command asks for the same."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from typer.testing import CliRunner

from hf_lorameta.cli import options
from hf_lorameta.cli.app import app
from hf_lorameta.data.reading import Reading
from hf_lorameta.pipeline import request as module
from hf_lorameta.pipeline.request import STAGES, Request
from hf_lorameta.pipeline.stages import Context, Stage, Work
from hf_lorameta.recipe import Recipe
from hf_lorameta.settings import Settings

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
NAME = st.none() | NAMES
TRAININGS: list[dict[str, int | None]] = [
    {"train": None, "steps": None, "schedule": None},
    {"train": 6, "steps": None, "schedule": None},
    {"train": 16, "steps": 3, "schedule": None},
    {"train": 16, "steps": 3, "schedule": 9},
]
"""Settings that exclude each other unless they are drawn together."""


def values(name: str) -> st.SearchStrategy[Any]:
    """Values of a field that is a choice or a number, within its bounds."""
    kind = Request.kind(name)
    if isinstance(kind, tuple):
        return st.sampled_from(kind)
    bounds = {b: v for one in Request._metadata(name) for b, v in vars_of(one).items()}
    low, high = bounds.get("ge", bounds.get("gt", 0)), bounds.get("le", 2**63)
    numbers: st.SearchStrategy[Any] = st.integers(int(low), int(high))
    if kind is float:
        numbers = st.floats(low, high, exclude_min="gt" in bounds)
    default = Request.model_fields[name].default
    off = st.just(False) if Request.can_be_off(name) else st.nothing()
    return st.booleans() if kind is bool else st.just(default) | numbers | off


def vars_of(bound: object) -> dict[str, float]:
    """Return the bounds of a number, by their names."""
    return {name: getattr(bound, name) for name in ("ge", "gt", "le") if hasattr(bound, name)}


OTHERS: dict[str, st.SearchStrategy[Any]] = {
    **{name: values(name) for name in Request.model_fields if Request.kind(name) is not str},
    "dataset": NAME | st.lists(NAMES, min_size=2, max_size=3).map(tuple),
    **dict.fromkeys(("config", "split", "revision", "instruction", "template"), NAME),
    **dict.fromkeys(("base", "base_revision", "bank", "bank_revision"), NAME),
    "columns": st.sampled_from([None, "input=q,output=a", {"messages": "turns"}]),
    "budget": st.none() | st.just("1.5m") | st.integers(0, 5000).map(lambda n: n / 8),
}


def parsed(request: Request) -> Request:
    """Return what the command line makes of a request's own command."""
    context = COMMANDS["plan"].make_context("plan", request.words())
    return options.make_request(dict(context.params))


@given(st.fixed_dictionaries({}, optional=OTHERS), st.sampled_from(TRAININGS))
def test_the_command_of_a_request_asks_for_the_same(
    settings: dict[str, Any], training: dict[str, int | None]
) -> None:
    request = Request.of(**settings | training)
    again = parsed(request)
    assert again.seconds == request.seconds
    assert again.but(budget=None) == request.but(budget=None)


def test_each_field_has_a_description_and_a_value_in_these_tests() -> None:
    assert all(field.description for field in Request.model_fields.values())
    assert OTHERS.keys() == Request.model_fields.keys()


def test_no_two_parts_of_a_request_have_a_field_of_the_same_name() -> None:
    parts: list[type[Settings]] = [Recipe, Reading, *(stage.Settings for stage in STAGES)]
    names = [name for part in parts for name in part.model_fields]
    assert sorted([*names, *Request.__annotations__]) == sorted(Request.model_fields)


class HalveSettings(Settings):
    """The setting of a stage that is not in this package."""

    halve: int | None = Field(default=None, ge=1, description="Halve the weights so many times.")


@dataclass(frozen=True)
class Halve(Stage[HalveSettings]):
    """A stage that is not in this package."""

    Settings = HalveSettings
    name: ClassVar[str] = "halved"
    stopped: ClassVar[str] = "Halving was interrupted"
    failed: ClassVar[str] = "Not halved"

    @staticmethod
    def wanted(settings: HalveSettings, seconds: float) -> bool:
        return settings.halve is not None

    def __str__(self) -> str:
        return f"halve {self.settings.halve} times"

    def run(self, work: Work, context: Context) -> Work:
        raise NotImplementedError


class Wider(HalveSettings, Request):
    """A request with that setting."""


def test_the_setting_of_a_new_stage_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STAGES", (*STAGES, Halve))
    monkeypatch.setattr(options, "Request", Wider)
    asked = list[Request]()
    commands = options.Commands()

    @commands.command()
    @options.with_request
    def plan(request: Request, token: str | None) -> None:
        asked.append(request)

    [halve] = [p for p in typer.main.get_command(commands).params if p.name == "halve"]
    assert getattr(halve, "help", "") == HalveSettings.model_fields["halve"].description
    words = ["rows.csv", "--no-check", "--halve", "2"]
    assert CliRunner().invoke(commands, words).exit_code == 0
    assert asked == [Wider(dataset="rows.csv", halve=2, check=False)]
    assert asked[0].stages() == (Halve(HalveSettings(halve=2)),)
    assert asked[0].words() == ["--dataset", *words]
    assert CliRunner().invoke(commands, ["rows.csv", "--halve", "0"]).exit_code != 0
