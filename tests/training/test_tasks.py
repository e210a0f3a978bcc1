"""Which tasks the arguments of ``bank train`` name."""

import json
import shlex
from pathlib import Path

import pytest

import hf_lorameta.bank
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.errors import ManifestError, UsageError
from hf_lorameta.hub.client import Hub
from hf_lorameta.training.bank.tasks import Task, read_tasks, with_chat_template
from tests.conftest import Shell
from tests.data.test_chat_template import base
from tests.support.codes import raises_code
from tests.training.tiny import rows, write_task


def manifest_of(folder: Path, *entries: dict[str, str], **more: object) -> str:
    """Write a manifest and return its path."""
    path = folder / "m.yaml"
    path.write_text(json.dumps({"version": 1, "base_model": "o/m", "entries": entries, **more}))
    return str(path)


def test_a_folder_has_tasks_with_their_provenance(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_task(tmp_path, name, rows(0))
        write_task(tmp_path, name, rows(0), "test")
    write_task(tmp_path, "a", rows(0), "validation")
    facts = {"license": "MIT", "source_repo": "https://x/y", "commit": "c", "kind": "k"}
    (tmp_path / "meta.json").write_text(json.dumps({"a": facts, "b": "not facts"}))
    a, b = read_tasks([str(tmp_path)])
    assert (a.name, a.license, a.source, a.source_revision) == ("a", "MIT", "https://x/y", "c")
    assert (b.name, b.license, b.source) == ("b", None, None)
    assert a.validation == tmp_path / "a.validation.jsonl"
    assert b.validation is None
    assert (a.adapter, a.entry_name, a.public_id) == ("local/a", "local--a", "local/a")


def test_files_manifests_and_hub_ids_can_be_combined(tmp_path: Path) -> None:
    entry = {"adapter": "org/lora", "dataset": "org/data", "dataset_revision": "v1", "config": "c"}
    manifest = manifest_of(tmp_path, entry, defaults={"split": "test"})
    file = write_task(tmp_path / "files", "words", rows(0))
    tasks = read_tasks([manifest, str(file), "google/boolq", "google/boolq"])
    assert [task.name for task in tasks] == ["data", "words", "boolq"]
    assert (tasks[0].config, tasks[0].split, tasks[0].revision) == ("c", "test", "v1")
    assert [task.is_local for task in tasks] == [False, True, False]
    assert tasks[2].public_id == "google/boolq"


def test_the_template_chat_of_a_manifest_is_that_of_the_base_model(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path,
        {"adapter": "o/a", "dataset": "o/d", "template": "chat"},
        {"adapter": "o/b", "dataset": "o/e"},
    )
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<model>"
    folder = base(tmp_path / "base", source, starts=False)
    tasks, form = with_chat_template(read_tasks([manifest]), folder, folder / "tokenizer.json")
    assert form == "<user>{prompt}<model>"
    assert [task.template for task in tasks] == [form, None]


def test_a_template_is_that_of_all_tasks_without_their_own(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path,
        {"adapter": "o/a", "dataset": "o/d", "template": "Q: {input}"},
        {"adapter": "o/b", "dataset": "./rows.jsonl"},
    )
    file = write_task(tmp_path / "files", "words", rows(0))
    write_task(tmp_path / "files", "words", rows(1), "validation")
    names = [manifest, str(tmp_path / "files")]
    tasks = read_tasks(names, "<{input}>")
    assert [task.template for task in tasks] == ["Q: {input}", "<{input}>", "<{input}>"]
    assert tasks[1].dataset == str(tmp_path / "rows.jsonl")
    assert {task.template for task in read_tasks([str(file)], "chat")} == {"chat"}
    asked = read_tasks(names[1:], "{instruction}: {input}", "Say more")[0].open(Hub())
    assert asked.head(1)[0][0] == "Say more: " + tasks[2].open(Hub()).head(1)[0][0].strip("<>")
    opened = tasks[2].open(Hub())
    held_out = tasks[2].open_validation(opened, Hub())
    assert held_out
    for row in (*opened.head(1), *held_out.head(1)):
        assert row[0].startswith("<")
    with pytest.raises(UsageError, match=r"has no \{input\}"):
        read_tasks(names, "no field")


def test_the_validation_split_of_a_local_folder_is_held_out(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("validation", 2)):
        lines = "".join(json.dumps({"input": "q", "output": f"{i}"}) + "\n" for i in range(count))
        (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    task = Task(name="folder", dataset=str(tmp_path))
    held_out = task.open_validation(task.open(Hub()), Hub())
    assert held_out
    assert len(list(held_out.rows())) == 2
    (tmp_path / "validation.jsonl").unlink()
    assert task.open_validation(task.open(Hub()), Hub()) is None
    alone = Task(name="file", dataset=str(tmp_path / "train.jsonl"))
    assert alone.open_validation(alone.open(Hub()), Hub()) is None


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["no-such-thing"], "tasks.unknown-source"),
        (["missing.jsonl"], "file.not-found"),
        ([""], "tasks.none"),
        (["tasks/same.jsonl", "same.csv"], "tasks.same-name"),
    ],
)
def test_what_names_no_tasks_is_refused(
    names: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    for file in ("tasks/same.jsonl", "same.csv"):
        (tmp_path / file).touch()
    with raises_code(code):
        read_tasks(names)


def test_a_broken_manifest_or_meta_file_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1")
    with pytest.raises(ManifestError, match=r"m\.yaml: base_model: is missing"):
        read_tasks([str(manifest)])
    write_task(tmp_path / "tasks", "a", rows(0))
    (tmp_path / "tasks" / "meta.json").write_text("[]")
    with raises_code("tasks.not-an-object"):
        read_tasks([str(tmp_path / "tasks")])


def test_datasets_with_the_same_name_are_told_apart(tmp_path: Path) -> None:
    configs = [
        {"adapter": f"user/{config}", "dataset": "nyu-mll/glue", "config": config}
        for config in ("sst2", "mnli")
    ]
    owners = [{"adapter": f"user/{o}", "dataset": f"{o}/alpaca"} for o in ("a", "b")]
    boolq = {"adapter": "user/c", "dataset": "google/boolq"}
    manifest = manifest_of(tmp_path, *configs, *owners, boolq)
    found = {task.name: task.dataset for task in read_tasks([manifest])}
    assert found == {
        "glue-sst2": "nyu-mll/glue",
        "glue-mnli": "nyu-mll/glue",
        "a-alpaca": "a/alpaca",
        "b-alpaca": "b/alpaca",
        "boolq": "google/boolq",
    }


def test_a_dataset_of_several_adapters_is_one_task(tmp_path: Path) -> None:
    named = [("a", "one", "mit"), ("b", "one", "bsd"), ("c", "two", "mit"), ("d", "two", "mit")]
    entries = [{"adapter": f"o/{a}", "dataset": f"o/{d}", "license": x} for a, d, x in named]
    tasks = read_tasks([manifest_of(tmp_path, *entries)])
    assert [(task.dataset, task.license) for task in tasks] == [("o/one", None), ("o/two", "mit")]


def test_a_dry_run_says_what_would_be_trained(cli: Shell) -> None:
    options = ("-o", "bank", "--base", "org/base", "--steps", 5, "--dry-run", "--json")
    assert cli("bank", "train", "org/one", "org/two", *options).json == {
        "tasks": 2, "base_model": "org/base", "folder": "bank", "steps": 5, "general_steps": 10,
    }  # fmt: skip


def test_the_example_of_the_guide_writes_tasks_and_a_dataset(
    cli: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training itself takes minutes: of its command only the options are checked."""
    guide = Path(hf_lorameta.bank.__file__).with_name("README.md").read_text("utf-8")
    block = guide.split("## Try it in five minutes")[1].split("```bash\n")[1].split("```")[0]
    python, commands = block.split("<<'END'\n")[1].split("END\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "README.md", "exec"), {})
    assert [task.name for task in read_tasks(["tasks"])] == ["capitals", "first", "plural"]
    assert len(open_dataset("new.jsonl").head(99)) == 24
    train, list_, plan, _ = (shlex.split(line)[1:] for line in commands.splitlines())
    assert "3 adapters, at most 6 steps" in cli(*train, "--dry-run").out
    assert list_[:2] == ["bank", "list"]
    cli(*plan[:2])
