"""A command warns of each fact once."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Published, fake_evaluator, fake_runner, trained
from tests.conftest import Account, Built, Shell, rows
from tests.support.fault_hub import Fault


def warned(messages: str) -> list[str]:
    """Return the facts that are warned of: warnings without the advice after the first part."""
    lines = re.findall(r"^Warning: (.*)$", messages, re.MULTILINE)
    return [re.split(r"[.:] ", line)[0] for line in lines]


@pytest.fixture
def far(user: Account) -> str:
    """A few rows, some without an output, with words that no dataset of the bank has."""
    outputs = ["" if i % 5 == 4 else f"{i}" for i in range(18)]
    lines = [{"input": f"of {i} and {i % 3}", "output": output} for i, output in enumerate(outputs)]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return user.dataset("far", {"train.jsonl": content})


@pytest.mark.parametrize(
    ("command", "before"),
    [
        ("plan", ""),
        ("generate -o a", ""),
        ("generate -o a --train 8", fake_runner(0.5) + trained()),
        ("generate -o a --check 4", fake_runner(0.5)),
        ("push --check 4 --repo-id {user}/far", fake_runner(0.5)),
    ],
)
def test_a_plan_and_its_adapter_are_warned_of_once(
    cli: Shell, bank: Built, user: Account, far: str, command: str, before: str
) -> None:
    words = command.format(user=user.name).split()
    shown = cli(*words, "-d", far, "--bank", bank.folder, token=user.token, before=before)
    facts = warned(shown.err)
    assert len(facts) >= 3
    assert [fact for fact, times in Counter(facts).items() if times > 1] == []


def test_an_evaluation_warns_once(
    cli: Shell, bank: Built, published: Published, tmp_path: Path
) -> None:
    cli("generate", published.dataset, "--bank", bank.folder, "-o", "other")
    logs = "__import__('logging').getLogger('hf_lorameta.hub').warning('dequantized')"
    evaluate = ("evaluate", published.repo, "other", "-d", published.dataset, "--split", "train")
    messages = cli(*evaluate, before=fake_evaluator(logs)).err
    assert messages.count("for split train") == 1
    assert messages.count("dequantized") == 1


def test_quiet_hides_waits(cli: Shell, bank: Built, user: Account) -> None:
    dataset = user.dataset("d", {"train.jsonl": rows(1)})
    busy = Fault("status", path=f"/api/datasets/{dataset}", times=1, retry_after=0)
    for options in ((), ("-q",)):
        cli.hub.add_fault(busy)
        shown = cli("plan", "--bank", bank.folder, *options, "-d", dataset).err
        assert ("attempt 2 in" in shown) == (not options)
