"""``bank train``: what it writes, resuming, skipping, errors before work starts."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import WORK_FOLDER, adapter_path
from hf_lorameta.bank.maintain import verify
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from tests.cli.conftest import EVERY_LINE
from tests.conftest import Account, Built, Shell, tree
from tests.support.codes import raises_code
from tests.training import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.transformers import dtype  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import (  # noqa: E402 - it imports torch
    TorchEvaluator,
)
from hf_lorameta.training import checkpoint, device  # noqa: E402
from hf_lorameta.training.bank import train_bank  # noqa: E402
from hf_lorameta.training.bank.base import TrainingBase  # noqa: E402
from hf_lorameta.training.bank.measure_prior import measure_prior  # noqa: E402
from hf_lorameta.training.bank.tasks import Task, read_tasks  # noqa: E402
from hf_lorameta.training.settings import BankSettings  # noqa: E402
from hf_lorameta.training.trainer import HeldOutLosses, Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = BankSettings(
    rank=4, steps=8, lr=0.02, warmup=2, measurements=2, general_steps=0, forms=False
)
OPTIONS = ("--rank", 4, "--steps", 12, "--lr", 0.02, "--dtype", "float32", "--no-forms")
COMMAND_SETTINGS = replace(SETTINGS, steps=12, warmup=8, measurements=4)
"""What the command makes of `OPTIONS` and ``--general-steps 0``."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("base"))


def train(base: Path, tasks: Path, folder: Path, **options: Any) -> Bank:
    return tiny.train_bank(tasks, folder, base, options.pop("settings", SETTINGS), **options)


def lines(bank: Bank) -> list[dict[str, Any]]:
    return train_bank.training_log(bank)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_a_trained_bank_is_complete_and_its_adapters_load_in_peft(
    base: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    tasks = tiny.write_tasks(tmp_path / "tasks")
    meta = {"topic1": {"license": "CC-BY-4.0", "source_repo": "https://x/y", "commit": "abc"}}
    (tasks / "meta.json").write_text(json.dumps(meta))
    bank = train(base, tasks, tmp_path / "bank")
    assert verify(bank) == []
    assert [entry.adapter for entry in bank.index.entries] == [f"local/topic{i}" for i in range(3)]
    entry = bank.index.entries[1]
    assert (entry.license, entry.source, entry.source_revision) == (
        "CC-BY-4.0",
        "https://x/y",
        "abc",
    )
    assert (entry.private, bank.index.entries[0].private) == (False, True)
    assert (entry.rows, entry.rank, entry.scaling) == (48, 4, 1.0)
    assert not bank.index.published
    assert str(tmp_path) not in bank.index.to_bytes().decode().replace(str(base), "")
    log = lines(bank)
    assert all(line["loss"] < line["base_loss"] and line["steps"] == 8 for line in log)
    for entry, line in zip(bank.index.entries, log, strict=True):
        folder = tmp_path / entry.name
        folder.mkdir()
        weights = bank.adapter(entry)
        (folder / CONFIG_FILE).write_bytes(write_config(str(base), weights.layout, 4))
        (folder / WEIGHTS_FILE).write_bytes((bank.folder / adapter_path(entry.name)).read_bytes())
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        wrapped = peft.PeftModel.from_pretrained(model, folder)
        loss = held_out_loss(wrapped, tasks, line["task"], base)
        assert loss == pytest.approx(line["loss"], abs=0.02)  # the file is in bfloat16


def held_out_loss(model: Any, tasks: Path, name: str, base: Path) -> float:
    """Loss on the rows that training holds out, computed row by row."""
    import random

    task = next(t for t in read_tasks([str(tasks)]) if t.name == name)
    read = map(json.loads, Path(task.dataset).read_text().splitlines())
    rows = list(dict.fromkeys((line["input"], line["output"]) for line in read))
    random.Random(f"0 {name} held out").shuffle(rows)
    evaluator = TorchEvaluator.from_folder(base, "float32")
    total, count = 0.0, 0
    for prompt, output in evaluator.encode(rows[: len(rows) // 4]):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(
            logits, torch.tensor(output), reduction="sum"
        ))  # fmt: skip
        count += len(output)
    return total / count


def test_the_same_command_trains_nothing_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    first = tree(train(base, tasks, tmp_path / "bank").folder)
    steps = count_steps(monkeypatch)
    assert tree(train(base, tasks, tmp_path / "bank").folder) == first
    assert steps == []
    tiny.write_task(tasks, "topic1", tiny.rows(3))  # other rows
    tiny.write_task(tasks, "topic3", tiny.rows(3))  # a new task
    bank = train(base, tasks, tmp_path / "bank")
    assert len(bank) == 4
    assert len(steps) == 2 * SETTINGS.steps
    assert bank.index == train(base, tasks, tmp_path / "new").index


def test_a_license_stated_or_withdrawn_later_does_not_train_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 2)
    train(base, tasks, tmp_path / "bank")
    steps = count_steps(monkeypatch)
    (tasks / "meta.json").write_text('{"topic0": {"license": "MIT", "source": "here"}}')
    first, second = train(base, tasks, tmp_path / "bank").index.entries
    assert steps == []
    assert (first.license, first.source, first.private) == ("MIT", "here", False)
    assert (second.license, second.source, second.private) == (None, None, True)
    (tasks / "meta.json").write_text('{"topic1": {"license": "CC0", "title": "Second"}}')
    first, second = train(base, tasks, tmp_path / "bank").index.entries
    assert steps == []
    assert (first.license, first.source, first.private) == (None, None, True)
    assert (second.license, second.title, second.private) == ("CC0", "Second", False)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the numbers of rows of the steps that are taken."""
    steps: list[int] = []
    step = Trainer.step

    def counted(self: Any, batch: Any, lr: float) -> None:
        steps.append(len(batch))
        step(self, batch, lr)

    monkeypatch.setattr(Trainer, "step", counted)
    return steps


def test_unusable_tasks_are_skipped_with_their_reasons(base: Path, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 1)
    tiny.write_task(tasks, "empty", [])
    tiny.write_task(tasks, "few", tiny.rows(0, 4))
    tiny.write_task(tasks, "unlabeled", [row | {"output": ""} for row in tiny.rows(0)])
    (tasks / "broken.train.jsonl").write_text("{")
    bank = train(base, tasks, tmp_path / "bank")
    reasons = {skip.adapter: skip.reason for skip in bank.index.skipped}
    assert set(reasons) == {f"local/{n}" for n in ("broken", "empty", "few", "unlabeled")}
    assert "line 1" in reasons["local/broken"]
    assert "4 different rows" in reasons["local/few"]
    assert "has an output" in reasons["local/unlabeled"]
    assert str(tmp_path) not in json.dumps(reasons)
    skipped = [line["task"] for line in lines(bank) if "skipped" in line]
    assert sorted(skipped) == ["broken", "empty", "few", "unlabeled"]


def test_skipped_local_tasks_show_no_path(base: Path, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 2)
    (tasks / "topic1.validation.jsonl").write_text("{")
    sources = ["./tasks/topic0.train.jsonl", "./no-folder", "./notes.unread"]
    entries = [{"adapter": f"o/{i}", "dataset": source} for i, source in enumerate(sources)]
    manifest = {"version": 1, "base_model": "o/m", "entries": entries}
    (tmp_path / "m.yaml").write_text(json.dumps(manifest))
    (tmp_path / "notes.unread").write_bytes(b"\0")
    skipped = [
        one
        for number, named in enumerate((tasks, tmp_path / "m.yaml"))
        for one in train(base, named, tmp_path / f"{number}").index.skipped
    ]
    starts = {
        "local/topic1": "topic1.validation.jsonl cannot be read: line 1",
        "local/no-folder": "no-folder: No such file or directory",
        "local/notes": "notes.unread does not end in .jsonl",
    }
    reasons = {one.dataset: one.reason for one in skipped}
    assert reasons.keys() == starts.keys()
    for name, reason in reasons.items():
        assert reason.startswith(starts[name])


def test_an_unexpected_error_of_a_task_does_not_end_the_general_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 3)
    open_rows = Task.open

    def opened(self: Task, *arguments: Any) -> Any:
        if self.name == "topic1":
            raise ValueError("unforeseen")
        return open_rows(self, *arguments)

    monkeypatch.setattr(Task, "open", opened)
    settings = BankSettings(**SETTINGS.to_dict() | {"general_steps": 3})
    index = train(base, tasks, tmp_path / "bank", settings=settings).index
    assert index.general is not None
    assert [task.name for task in index.general.tasks] == ["local--topic0", "local--topic2"]
    assert [skip.reason for skip in index.skipped] == ["unexpected ValueError"]


def test_a_task_without_improvement_is_skipped(base: Path, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 1)
    settings = BankSettings(**SETTINGS.to_dict() | {"lr": 1e-30})
    with raises_code("bank.no-usable-entry"):
        train(base, tasks, tmp_path / "bank", settings=settings)


def test_a_validation_split_is_held_out(base: Path, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 1)
    tiny.write_task(tasks, "topic0", tiny.rows(0, 6), "validation")
    [line] = lines(train(base, tasks, tmp_path / "bank"))
    assert (line["held_out"], line["rows"]) == (6, 40)


# --- errors -------------------------------------------------------------------------------------


def test_a_training_beyond_memory_is_an_error_as_is_a_base_model_before_it_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    monkeypatch.setattr(device, "available_memory", lambda: 100_000)
    with raises_code("memory.too-little"):
        train(base, tasks, tmp_path / "bank")
    monkeypatch.setattr(dtype, "available_memory", lambda: 10_000)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    with raises_code("memory.too-little"):
        train(base, tasks, tmp_path / "bank")


def test_no_adapter_that_was_built_is_dropped(base: Path, bank: Built, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 2)
    built = shutil.copytree(bank.folder, tmp_path / "built")
    before = tree(built)
    with raises_code("bank.would-lose-adapters", match="4 adapters"):
        train(base, tasks, built)
    assert tree(built) == before


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"rank": 0}, "training.setting-invalid"),
        ({"lr": 0.0}, "training.setting-invalid"),
        ({"targets": ()}, "targets.unnamed"),
        ({"general_only": True, "general_steps": 0}, "training.nothing-to-train"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any], code: str) -> None:
    with raises_code(code):
        BankSettings(**settings)


def test_a_folder_without_a_base_model_is_refused(tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 1)
    with raises_code("bank.no-tokenizer"):
        train(tasks, tasks, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- the command --------------------------------------------------------------------------------


@pytest.mark.usefixtures("model_commands")
def test_the_command_trains_a_bank_that_plan_and_generate_use(
    base: Path, cli: Shell, tmp_path: Path
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    train_bank = ("bank", "train", tasks, "-o", "bank", "--base", base, *OPTIONS)
    done = cli(*train_bank, "--json", before=EVERY_LINE)
    assert done.json["adapters"] == 3
    assert [task["task"] for task in done.json["tasks"]] == ["topic0", "topic1", "topic2"]
    assert "general adapter: loss" in done.err
    assert "  Training the adapters: 36 of 36\n" in done.err
    again = cli(*train_bank)
    assert "3 of 3 tasks" in again.err
    assert "topic2" in again.out
    assert cli(*train_bank, "-q").err == ""
    cli("bank", "verify", "bank")
    new = tiny.write_task(tmp_path, "new", tiny.rows(1))
    plan = cli("plan", "--dataset", new, "--bank", "bank", "--json").json
    assert {n["adapter"] for n in plan["neighbors"]} <= {f"local/topic{i}" for i in range(3)}
    cli("generate", "--dataset", new, "--bank", "bank", "-o", "adapter")
    assert (tmp_path / "adapter" / WEIGHTS_FILE).exists()


@pytest.mark.usefixtures("model_commands")
def test_a_bank_of_the_general_adapter_is_trained_published_and_extended(
    base: Path, cli: Shell, user: Account, tmp_path: Path
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    command = ("bank", "train", tasks, "-o", "bank", "--base", base, *OPTIONS, "--general-steps", 6)
    alone = (*command, "--general-only")
    lines = cli(*alone, "--dry-run").out.splitlines()
    assert [line for line in lines if "adapter" in line] == [
        "  a general adapter, 6 steps of 16 rows"
    ]
    assert cli(*alone, "--json").json["adapters"] == 0
    shown = cli("bank", "list", "bank").out
    assert "a general adapter for" in shown
    assert "trained on 3 tasks" in shown
    cli("bank", "verify", "bank")
    new = tiny.write_task(tmp_path, "new", tiny.rows(1))
    planned = cli("plan", "--dataset", new, "--bank", "bank")
    assert "general adapter of the bank: 100.0%\n" in planned.out
    assert "a general adapter for" in planned.err
    cli("generate", "--dataset", new, "--bank", "bank", "-o", "adapter", "--budget", 0)
    assert (tmp_path / "adapter" / WEIGHTS_FILE).exists()
    cli("bank", "push", "bank", f"{user.name}/lone", "--private", token=user.token)
    cli("plan", "--dataset", new, "--bank", f"{user.name}/lone", token=user.token)
    general = Bank(tmp_path / "bank").index.general
    assert cli(*command, "--json").json["adapters"] == 3
    assert Bank(tmp_path / "bank").index.general == general


@pytest.mark.usefixtures("model_commands")
def test_hub_datasets_and_manifests_are_tasks(
    base: Path, cli: Shell, user: Account, tmp_path: Path
) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in tiny.rows(0)).encode()
    held = "".join(json.dumps(row) + "\n" for row in tiny.rows(0, 9)).encode()
    card = b"---\nlicense: mit\n---\n"
    files = {"train.jsonl": rows, "validation.jsonl": held, "README.md": card}
    hub_id = user.dataset("words", files)
    done = cli("bank", "train", hub_id, "-o", "bank", "--base", base, *OPTIONS, "--json")
    assert done.json["tasks"][0]["held_out"] == 9
    entry = Bank(tmp_path / "bank").index.entries[0]
    assert (entry.dataset, entry.license, entry.private) == (hub_id, "mit", False)
    assert len(entry.dataset_revision) == 40
    other = user.dataset("other", files | {"README.md": b"---\nlicense: bsd\n---\n"})
    command = ("bank", "train", hub_id, other, "-o", "of-two", "--base", base, *OPTIONS)
    cli(*command, "--general-steps", 2)
    general = Bank(tmp_path / "of-two").index.general
    assert general is not None
    assert [task.license for task in general.tasks] == ["mit", "bsd"]
    manifest = user.manifest(
        tmp_path / "m.yaml",
        [{"adapter": "org/unused", "dataset": hub_id, "license": "apache-2.0"},
         {"adapter": "org/missing", "dataset": f"{user.name}/missing"}],
    )  # fmt: skip
    done = cli("bank", "train", manifest, "-o", "two", "--base", base, *OPTIONS, "--json")
    assert [task["task"] for task in done.json["tasks"]] == ["words", "missing"]
    assert "not found" in done.json["tasks"][1]["skipped"]
    assert Bank(tmp_path / "two").index.entries[0].license == "apache-2.0"


KILLED = """
import os, signal, threading, time
from pathlib import Path
from hf_lorameta.training import checkpoint
from hf_lorameta.training.trainer import Trainer
checkpoint.SECONDS_BETWEEN = 0.2; step = Trainer.step
def slow(*arguments): time.sleep(0.1); step(*arguments)
Trainer.step = slow
def kill():
    while not Path("bank/.build/topic2.unfinished.safetensors").exists(): time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
"""
"""Code to run before a training of four tasks: it is killed in the third."""


@pytest.mark.usefixtures("model_commands")
def test_a_killed_training_resumes(
    base: Path, cli: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, folder = tiny.write_tasks(tmp_path / "tasks", 4), tmp_path / "bank"
    command = ("bank", "train", tasks, "-o", "bank", "--base", base, *OPTIONS)
    cli(*command, "--general-steps", 0, before=KILLED, code=-signal.SIGKILL)
    finished = sorted(path.stem for path in (folder / "adapters").glob("*.safetensors"))
    assert len(finished) == 2
    modified = {name: (folder / adapter_path(name)).stat().st_mtime_ns for name in finished}
    steps = count_steps(monkeypatch)
    resumed = train(base, tasks, folder, settings=COMMAND_SETTINGS)
    assert 0 < len(steps) - COMMAND_SETTINGS.steps < COMMAND_SETTINGS.steps  # of the last two tasks
    assert {n: (folder / adapter_path(n)).stat().st_mtime_ns for n in finished} == modified
    assert not list((folder / WORK_FOLDER).glob("*unfinished*"))
    whole = train(base, tasks, tmp_path / "whole", settings=COMMAND_SETTINGS)
    assert len(resumed) == 4
    for ours, theirs in zip(resumed.index.entries, whole.index.entries, strict=True):
        assert ours.sha256 == theirs.sha256


INTERRUPTED = """
from hf_lorameta.training.trainer import Trainer
def step(*arguments): raise KeyboardInterrupt
Trainer.step = step
"""


@pytest.mark.usefixtures("model_commands")
def test_an_interrupted_training_says_how_to_go_on(base: Path, cli: Shell, tmp_path: Path) -> None:
    command = ("bank", "train", tiny.write_tasks(tmp_path / "tasks"), "-o", "bank", "--base", base)
    stopped = cli(*command, *OPTIONS, before=INTERRUPTED, code=130)
    assert "finished tasks are kept" in stopped.err


def test_adapters_start_from_a_general_one_that_later_runs_keep(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 3)
    changes: dict[str, Any] = {"general_steps": 6, "general_rows": 3}
    settings = BankSettings(**SETTINGS.to_dict() | changes)
    train(base, tasks, tmp_path / "bank", settings=replace(settings, general_only=True))
    tiny.write_task(tasks, "topic3", tiny.rows(3))  # not one of the general adapter's tasks
    measured: list[int] = []

    def recorded(model: Any, general: Any, rows: Any, *others: Any) -> Any:
        measured.append(len(rows))
        return measure_prior(model, general, rows, *others)

    monkeypatch.setattr("hf_lorameta.training.bank.general.measure_prior", recorded)
    bank = train(base, tasks, tmp_path / "bank", settings=settings)
    general, prior = bank.index.general, bank.index.output_prior
    assert general is not None
    assert measured == [3]
    assert [task.name for task in general.tasks] == [f"local--topic{i}" for i in range(3)]
    assert verify(bank) == []
    assert len(bank) == 4  # the general adapter is no entry
    start = bank.adapter(general)
    for entry in bank.index.entries:
        difference = bank.adapter(entry).tensor(start.layout[0].name, "A") - start.tensor(
            start.layout[0].name, "A"
        )
        assert 0 < abs(difference).max() < 0.5
    assert prior is not None
    assert prior.module == ("model.layers.1.mlp.down_proj", 48, 32)
    assert bank.output_prior is not None
    assert bank.output_prior.backgrounds.sum(1) == pytest.approx([1, 1])
    before = tree(bank.folder)
    steps = count_steps(monkeypatch)
    assert tree(train(base, tasks, tmp_path / "bank", settings=settings).folder) == before
    (tasks / "meta.json").write_text('{"topic1": {"license": "MIT"}}')
    licensed = train(base, tasks, tmp_path / "bank", settings=settings).index.general
    assert licensed is not None
    assert [task.license for task in licensed.tasks] == [None, "MIT", None]
    (tasks / "meta.json").unlink()
    tiny.write_task(tasks, "topic9", tiny.rows(2))
    extended = train(base, tasks, tmp_path / "bank", settings=settings)
    assert extended.index.general == general
    assert len(steps) == settings.steps  # of the new task alone


def test_a_finished_bank_of_a_base_model_without_an_output_prior_is_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tasks = tiny.write_base(tmp_path / "base", "Gemma3"), tiny.write_tasks(tmp_path / "tasks")
    settings = replace(SETTINGS, general_steps=3)
    first = train(base, tasks, tmp_path / "bank", settings=settings)
    assert first.index.output_prior is None
    monkeypatch.setattr(TrainingBase, "load", None)
    assert train(base, tasks, tmp_path / "bank", settings=settings).index == first.index


def test_the_output_prior_is_measured_on_other_tasks_if_those_of_the_general_adapter_are_gone(
    base: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, general_steps=3)
    tasks = tiny.write_tasks(tmp_path / "tasks", 4)
    others = [tasks.joinpath(f"topic{i}.train.jsonl").rename(tmp_path / f"topic{i}.train.jsonl")
              for i in (2, 3)]  # fmt: skip
    folder = tmp_path / "bank"
    first = train(base, tasks, folder, settings=replace(settings, general_only=True))
    shutil.rmtree(tasks)
    tasks.mkdir()
    for path in others:
        path.rename(tasks / path.name)
    bank = train(base, tasks, folder, settings=settings)
    assert bank.index.general == first.index.general
    assert bank.index.output_prior is not None


def test_a_base_model_that_cannot_be_loaded_leaves_the_bank_of_another_as_it_is(
    base: Path, tmp_path: Path
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    bank = train(base, tasks, tmp_path / "bank", settings=SETTINGS)
    other = shutil.copytree(base, tmp_path / "other")
    (other / "config.json").unlink()
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"say"', '"tell"'))
    with raises_code("base.not-loadable"):
        train(other, tasks, tmp_path / "bank", settings=SETTINGS)
    assert verify(bank) == []


def test_a_private_task_of_the_general_adapter_alone_keeps_a_bank_private(
    base: Path, tmp_path: Path
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 2)
    secret = tiny.write_task(tasks, "secret", tiny.rows(2))
    meta = {f"topic{i}": {"license": "MIT"} for i in range(2)}
    (tasks / "meta.json").write_text(json.dumps(meta))
    settings = BankSettings(**SETTINGS.to_dict() | {"general_steps": 3})
    assert train(base, tasks, tmp_path / "bank", settings=settings).index.private_parts == 1
    secret.unlink()  # the general adapter is kept
    index = train(base, tasks, tmp_path / "bank", settings=settings).index
    assert not any(entry.private for entry in index.entries)
    assert index.private_parts == 1
    licensed = train(base, tasks, tmp_path / "other", settings=settings).index
    assert licensed.private_parts == 0


def test_a_general_adapter_that_learns_nothing_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldOutLosses, "by_row", property(lambda scores: np.ones(4)))
    tasks = tiny.write_tasks(tmp_path / "tasks", 2)
    settings = BankSettings(**SETTINGS.to_dict() | {"general_steps": 3})
    with raises_code("training.general-not-learned"):
        train(base, tasks, tmp_path / "bank", settings=settings)


def test_an_interrupted_general_training_continues_exactly(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks", 3)
    settings = BankSettings(**SETTINGS.to_dict() | {"general_steps": 9, "general_rows": 3})
    whole = train(base, tasks, tmp_path / "whole", settings=settings)
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)

    def stop(stage: str, step: int, steps: int) -> None:
        if (stage, step, steps) == ("Training the general adapter", 5, 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, tasks, tmp_path / "bank", settings=settings, progress=stop)
    steps = count_steps(monkeypatch)
    resumed = train(base, tasks, tmp_path / "bank", settings=settings)
    assert len(steps) == 9 - 4 + 3 * settings.steps  # the fifth was reported before it was saved
    assert resumed.index.general == whole.index.general
    assert resumed.index == whole.index


STAND_IN_FOR_DASK = """
import functools, pickle
import hf_lorameta.bank.executors as executors
from concurrent.futures import ThreadPoolExecutor

class Remote(ThreadPoolExecutor):
    def submit(self, job, /, *given, **named):  # pickled, as for processes on other machines
        return super().submit(pickle.loads(pickle.dumps(functools.partial(job, *given, **named))))

executors.dask_executor = lambda address: Remote(1)
"""


@pytest.mark.usefixtures("model_commands")
def test_dask_workers_train_the_same_bank(base: Path, cli: Shell, tmp_path: Path) -> None:
    tasks = tiny.write_tasks(tmp_path / "tasks")
    command = ("bank", "train", tasks, "--base", base, *OPTIONS, "--general-steps", 0)
    done = cli(*command, "-o", "remote", "--dask", "tcp://x:1", "--json", before=STAND_IN_FOR_DASK)
    assert done.json["adapters"] == 3
    local = train(base, tasks, tmp_path / "local", settings=COMMAND_SETTINGS)
    assert Bank(tmp_path / "remote").index == local.index
