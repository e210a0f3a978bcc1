"""``plan``, ``generate`` and ``push`` in child processes, against the loopback Hub."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.pipeline.adapter_folder import FILES
from tests.cards.examples import metadata_fields
from tests.cli.conftest import Published, fake_runner, trained
from tests.conftest import BASE, LAYOUT, Account, Built, Shell, rows, touched, tree

PlanArgs = tuple[object, ...]


@pytest.fixture
def plan_args(bank: Built, data: Path) -> PlanArgs:
    """Options that name the local rows and the bank folder."""
    return ("-d", data, "--bank", bank.folder)


# --- plan ---------------------------------------------------------------------------------------


def test_quiet_prints_the_result_and_warnings_only(
    cli: Shell, bank: Built, plan_args: PlanArgs, tmp_path: Path
) -> None:
    shown, quiet = cli("plan", *plan_args), cli("plan", *plan_args, "-q")
    assert shown.err
    assert (quiet.err, quiet.out) == ("", shown.out)
    (tmp_path / "few.jsonl").write_text('{"input": "say sun", "output": "rain"}\n')
    messages = cli("plan", "-d", "few.jsonl", "--bank", bank.folder, "-q").err
    assert "Warning: Only 1 row was read" in messages
    assert all(line.startswith("Warning: ") for line in messages.splitlines())


def test_a_bank_of_one_adapter_gives_valid_json(cli: Shell, user: Account, data: Path) -> None:
    user.entry("only")
    cli("bank", "build", user.manifest(data.with_name("m")), "-o", "one")
    plan = cli("plan", "-d", data, "--bank", "one", "--json").json
    assert plan["nearest_in_bank"] is None
    assert plan["neighbors"][0]["coefficient"] == 1
    cli("plan", "-d", data, "--bank", "one")
    cli("generate", "-d", data, "--bank", "one", "-o", "a", "--json")


# --- generate -----------------------------------------------------------------------------------


def test_generate_writes_the_same_peft_folder_each_time(
    cli: Shell, plan_args: PlanArgs, tmp_path: Path
) -> None:
    assert cli("generate", *plan_args, "-o", "a").out == "a\n"
    result = cli("generate", *plan_args, "-o", tmp_path / "b", "--json").json
    assert result["folder"] == str(tmp_path / "b")
    assert result["rank"] == 8  # that of a sum of four adapters of rank 2
    assert not result["interrupted"]
    assert set(tree(tmp_path / "a")) == set(FILES)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    config, weights = check_adapter(tmp_path / "a")
    assert (config.base_model, config.rank, config.scaling) == (BASE, 8, 1.0)
    assert (weights.layout, weights.dtypes) == (LAYOUT, {"BF16"})
    settings = json.loads((tmp_path / "a" / CONFIG_FILE).read_bytes())
    assert settings["peft_type"] == "LORA"
    assert sorted(settings["target_modules"]) == ["q_proj", "v_proj"]
    commit = cli.hub.commits(BASE)[0].sha
    assert (settings["base_model_name_or_path"], settings["revision"]) == (BASE, commit)
    provenance = json.loads((tmp_path / "a" / RECIPE_FILE).read_bytes())
    assert provenance["base_model"] == {"id": BASE, "revision": commit, "four_bit": False}


@pytest.mark.parametrize(
    ("folder", "word", "value"),
    [("my adapter", "'my adapter'", "'my adapter'"), ("-x", "./-x", "-x")],
)
def test_generate_names_the_commands_that_try_and_publish_the_adapter(
    cli: Shell, plan_args: PlanArgs, folder: str, word: str, value: str
) -> None:
    made = cli("generate", *plan_args, "-o", folder, "--json")
    assert made.json["folder"] == folder
    assert made.err.splitlines()[-2:] == [
        f"To try it: hf-lorameta try {word}",
        f"To publish: hf-lorameta push --from {value} --repo-id user/name",
    ]


def test_exact_writes_the_weighted_sum_of_the_updates(
    cli: Shell, bank: Built, plan_args: PlanArgs, tmp_path: Path
) -> None:
    cli("generate", *plan_args, "--dtype", "float32", "-o", "a")
    listed = json.loads((tmp_path / "a/coefficients.json").read_bytes())
    coefficients = {row["adapter"]: row["coefficient"] for row in listed}
    opened = Bank(bank.folder)
    weights = AdapterFile(tmp_path / "a" / WEIGHTS_FILE)
    assert weights.dtypes == {"F32"}
    for module in LAYOUT:
        expected = np.zeros((module.out_features, module.in_features))
        for entry in opened.index.entries:
            adapter = opened.adapter(entry)
            B, A = adapter.tensor(module.name, "B"), adapter.tensor(module.name, "A")
            expected += coefficients[entry.adapter] * entry.scaling * B @ A
        actual = weights.tensor(module.name, "B") @ weights.tensor(module.name, "A")
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_settings_determine_rank_dtype_and_number_of_adapters(
    cli: Shell, plan_args: PlanArgs, tmp_path: Path
) -> None:
    options = ("--recipe", "paper", "--metric", "mmd", "--combine", "exact", "--top-k", 2,
               "--rank", 3, "--dtype", "float16", "--seed", 7)  # fmt: skip
    cli("generate", *plan_args, "-o", "a", *options)
    config, weights = check_adapter(tmp_path / "a")
    assert (config.rank, weights.dtypes) == (3, {"F16"})
    assert len(json.loads((tmp_path / "a/coefficients.json").read_bytes())) == 2
    recipe = json.loads((tmp_path / "a" / RECIPE_FILE).read_bytes())["recipe"]
    named = {"coefficients": "normalized", "metric": "mmd", "combine": "exact", "seed": 7}
    assert named.items() <= recipe.items()


def test_an_adapter_is_replaced_only_with_overwrite_and_other_files_never(
    cli: Shell, plan_args: PlanArgs, data: Path, tmp_path: Path
) -> None:
    generate = ("generate", *plan_args, "-o", "a")
    cli(*generate)
    before = tree(tmp_path / "a")
    assert "--overwrite" in cli(*generate, "--rank", 1, code=2).err
    assert tree(tmp_path / "a") == before
    cli("generate", "-d", "missing.jsonl", "-o", "a", code=2)  # the dataset is not read
    cli(*generate, "--rank", 1, "--overwrite")
    assert check_adapter(tmp_path / "a")[0].rank == 1
    (tmp_path / "a/thesis.txt").write_text("mine")
    assert "thesis.txt" in cli(*generate, "--overwrite", code=2).err
    cli("generate", *plan_args, "-o", data, code=2)
    (tmp_path / "empty").mkdir()
    cli("generate", *plan_args, "-o", "empty")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


# --- push ---------------------------------------------------------------------------------------


def test_a_checked_adapter_that_is_unlikely_to_help_is_not_published(
    cli: Shell, plan_args: PlanArgs, user: Account
) -> None:
    push = ("push", *plan_args, "--repo-id", f"{user.name}/harm", "--overwrite")
    before = fake_runner(best=1e-6)
    assert (
        "leave out --check" in cli(*push, "--check", 8, token=user.token, code=5, before=before).err
    )
    assert touched(cli.hub, "create") == touched(cli.hub, "commit") == []
    cli(*push, token=user.token)


def test_push_publishes_one_commit_and_prints_only_the_url(
    cli: Shell, bank: Built, user: Account
) -> None:
    dataset = user.dataset("d", {"train.jsonl": rows(1)})
    repo = f"{user.name}/d-tiny-lorameta"
    pushed = cli("push", "-d", dataset, "--bank", bank.repo, token=user.token)
    assert pushed.out == f"{cli.hub.url}/{repo}\n"
    assert set(cli.hub.files(repo)) == {*FILES, ".gitattributes"}
    assert not cli.hub.repo(repo).private  # type: ignore[union-attr]
    assert len(cli.hub.commits(repo)) == 2  # the Hub's initial commit and ours
    card = cli.hub.read(repo, "README.md").decode()
    assert f"base_model: {BASE}" in card
    assert set(metadata_fields(card)["datasets"]) == {f"{bank.owner.name}/e{i}" for i in range(4)}
    provenance = json.loads(cli.hub.read(repo, RECIPE_FILE))
    assert provenance["dataset"]["id"] == dataset
    commit = cli.hub.commits(dataset, repo_type="dataset")[0].sha
    assert provenance["dataset"]["revision"] == commit
    assert bank.repo in cli("inspect", repo).out

    generated = cli("generate", "-d", dataset, "--bank", bank.repo, "-o", "a", "-q")
    assert generated.out == "a\n"
    assert (cli.cwd / "a" / WEIGHTS_FILE).read_bytes() == cli.hub.read(repo, WEIGHTS_FILE)


Push = Callable[..., bool | None]


@pytest.fixture
def push(cli: Shell, bank: Built, user: Account) -> Push:
    """Function that pushes for a dataset and returns whether the repo is private, if it exists."""

    def run(dataset: object, name: str, *flags: str, code: int = 0) -> bool | None:
        repo = f"{user.name}/{name}"
        command = ("push", "-d", dataset, "--bank", bank.folder, "--repo-id", repo, *flags)
        cli(*command, token=user.token, code=code)
        view = cli.hub.repo(repo)
        return None if view is None else view.private

    return run


def test_a_new_repo_is_private_if_the_dataset_is(
    cli: Shell, user: Account, data: Path, push: Push
) -> None:
    public = user.dataset("public", {"train.jsonl": rows(1)})
    private = user.dataset("private", {"train.jsonl": rows(1)}, private=True)
    assert push(public, "a") is False
    assert push(public, "b", "--private") is True
    assert push(private, "c") is True
    assert push(private, "d", "--public") is False
    assert push(data, "e") is True
    assert push(data, "f", "--public") is False
    for name in ("c", "d", "e", "f"):
        for path in FILES:
            content = cli.hub.read(f"{user.name}/{name}", path)
            assert private.encode() not in content
            assert b"rows.jsonl" not in content
            assert str(data.parent).encode() not in content


def test_an_existing_repo_keeps_its_visibility(cli: Shell, user: Account, push: Push) -> None:
    public = user.dataset("public", {"train.jsonl": rows(1)})
    private = user.dataset("private", {"train.jsonl": rows(1)}, private=True)
    for name, is_private in (("public", False), ("private", True)):
        cli.hub.create_repo(f"{user.name}/{name}", private=is_private)
    assert push(private, "public", code=6) is False  # needs consent
    assert push(public, "public", "--private", code=6) is False
    assert push(public, "private", "--public", code=6) is True
    assert len(cli.hub.commits(f"{user.name}/public")) == 1
    assert push(public, "private") is True
    assert push(private, "public", "--public") is False


def test_a_public_repo_is_not_named_after_a_private_dataset(
    cli: Shell, bank: Built, user: Account
) -> None:
    private = user.dataset("private", {"train.jsonl": rows(1)}, private=True)
    command = ("push", "-d", private, "--bank", bank.folder, "--public")
    assert "would reveal its name" in cli(*command, token=user.token, code=2).err
    assert touched(cli.hub, "create") == []


def test_files_are_replaced_only_with_consent(
    cli: Shell, plan_args: PlanArgs, user: Account
) -> None:
    repo = f"{user.name}/a"
    push = ("push", *plan_args, "--repo-id", repo)
    cli(*push, token=user.token)
    cli.hub.commit(repo, {"notes.txt": b"keep me"})
    before = cli.hub.commits(repo)
    cli(*push[:-1], f"{user.name}/none", "--create-pr", token=user.token, code=2)
    assert cli.hub.repo(f"{user.name}/none") is None
    refused = cli(*push, "--rank", 1, token=user.token, code=6).err
    assert "add --overwrite, or add --create-pr" in refused
    assert cli.hub.commits(repo) == before
    url = cli(*push, "--rank", 2, "--create-pr", token=user.token).out
    assert url == f"{cli.hub.url}/{repo}/discussions/1\n"
    assert cli.hub.commits(repo) == before
    assert list(cli.hub.repo(repo).refs) == ["main", "refs/pr/1"]  # type: ignore[union-attr]
    cli(*push, "--rank", 1, "--overwrite", token=user.token)
    assert cli("inspect", repo, "--json", token=user.token).json["rank"] == 1
    assert cli.hub.read(repo, "notes.txt") == b"keep me"


def test_dry_run_publishes_nothing_and_its_folder_can_be_pushed(
    cli: Shell, plan_args: PlanArgs, user: Account
) -> None:
    repo = f"{user.name}/a"
    command = ("push", *plan_args, "--repo-id", repo, "--dry-run")
    result = cli(*command, token=user.token)
    folder = Path(result.out.strip())
    assert set(tree(folder)) == set(FILES)
    assert "private" in result.err
    assert cli.hub.repo(repo) is None
    assert all(request.method in ("GET", "HEAD") for request in cli.hub.requests)
    assert cli(*command, "--json", token=user.token).json["url"] is None
    url = cli("push", "--from", folder, "--repo-id", repo, token=user.token).out
    assert url == f"{cli.hub.url}/{repo}\n"
    assert cli.hub.repo(repo).private  # type: ignore[union-attr]  # as the dataset is


def test_a_repo_is_named_after_the_first_of_several_files(
    cli: Shell, bank: Built, user: Account, data: Path
) -> None:
    (cli.cwd / "more.jsonl").write_bytes(data.read_bytes())
    command = ("push", "more.jsonl", data, "--bank", bank.folder, "--dry-run", "--json")
    repo = cli(*command, token=user.token).json["repo_id"]
    assert repo == f"{user.name}/more-{BASE.rpartition('/')[2]}-lorameta"


@pytest.mark.parametrize("output", ["file/a", "file/a/b", "/proc/a"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    cli: Shell, tmp_path: Path, output: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused = cli("generate", "-d", "no-such.jsonl", "-o", output, code=5).err
    assert f"{output} could not be written" in refused
    assert "name another folder" in refused


def test_an_interrupted_training_is_kept_but_neither_done_nor_published(
    cli: Shell, plan_args: PlanArgs, user: Account, tmp_path: Path
) -> None:
    before, repo = fake_runner(0.5) + trained(interrupted=True), f"{user.name}/stopped"
    asked = (*plan_args, "--train", 8)
    generated = cli("generate", *asked, "-o", "a", code=130, before=before)
    assert generated.out == "a\n"
    assert "kept in a," in generated.err
    assert "hf-lorameta push --from a --repo-id user/name" in generated.err
    card = (tmp_path / "a" / "README.md").read_text()
    assert "was interrupted" in card.split("## Warnings")[1]
    pushed = ("push", *asked, "--repo-id", repo)
    stopped = cli(*pushed, "--json", token=user.token, code=130, before=before)
    assert stopped.json["interrupted"] == "training"
    assert Path(stopped.json["folder"]).is_dir()
    assert cli.hub.repo(repo) is None
    assert "Nothing was published" in stopped.err
    (command,) = re.findall(r"to publish it: hf-lorameta (.*)", stopped.err)
    assert cli(*shlex.split(command), token=user.token).out == f"{cli.hub.url}/{repo}\n"


@pytest.mark.parametrize(
    ("meanwhile", "code", "message"),
    [
        ("pathlib.Path('a').write_text('x')", 2, "a is a file"),
        ("os.rmdir(os.getcwd())", 2, "the working directory was deleted"),
    ],
)
def test_a_trained_adapter_that_cannot_be_saved_is_kept(
    cli: Shell, plan_args: PlanArgs, tmp_path: Path, meanwhile: str, code: int, message: str
) -> None:
    cli.cwd = tmp_path / "here"
    cli.cwd.mkdir()
    train = f"""{fake_runner(0.5)}{trained()}
import os, pathlib
def meddling(*given):
    {meanwhile}
    return run(*given)
train.Train.run = meddling
"""
    failed = cli("generate", *plan_args, "--train", 8, "-o", "a", code=code, before=train).err
    assert message in failed
    [folder] = re.findall(r"kept for a day, copy it with: cp -r (.*) FOLDER\n", failed)
    assert set(tree(Path(folder))) == set(FILES)


def test_an_interrupted_check_keeps_the_trained_adapter(
    cli: Shell, plan_args: PlanArgs, tmp_path: Path
) -> None:
    stop = """
import hf_lorameta.pipeline.check as check
def stop(*_): raise KeyboardInterrupt
check.Check.run = stop
"""
    command = ("generate", *plan_args, "--train", 8, "--check", 4, "-o", "a")
    stopped = cli(*command, code=130, before=fake_runner(0.5) + trained() + stop)
    assert stopped.out == "a\n"
    assert "kept in a," in stopped.err
    assert "- The check was interrupted." in (tmp_path / "a" / "README.md").read_text()
    assert "hf-lorameta push --from a --repo-id user/name" in stopped.err


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", ["in the check", "while it is saved"])
def test_a_signal_after_the_training_keeps_the_adapter(
    cli: Shell, plan_args: PlanArgs, tmp_path: Path, signal: str, when: str
) -> None:
    stop = (
        f"""
import os, signal, time
import hf_lorameta.pipeline.check as check, hf_lorameta.pipeline.save as save
def stop(*given):
    for _ in range(2):
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0.01)
    return write(*given)
write = save.write_tensors
"""
        + ("check.Check.run" if when == "in the check" else "save.write_tensors")
        + " = stop"
    )
    command = ("generate", *plan_args, "--train", 8, "--check", 4, "-o", "a")
    stopped = cli(*command, code=130, before=fake_runner(0.5) + trained() + stop)
    assert stopped.out == "a\n"
    kept = (
        "so far is kept in a, and its card says so"
        if when == "in the check"
        else "is complete in a"
    )
    assert f"The adapter {kept}; to publish it: hf-lorameta push --from a" in stopped.err
    assert set(tree(tmp_path / "a")) == set(FILES)


# --- push --from --------------------------------------------------------------------------------


def test_push_from_publishes_a_complete_adapter_alone(
    cli: Shell, plan_args: PlanArgs, data: Path, user: Account, tmp_path: Path
) -> None:
    push, repo = ("push", "--repo-id", f"{user.name}/a", "--from"), f"{user.name}/a"
    for name in ("a", "recipe", "weights"):
        cli("generate", *plan_args, "-o", name)
    with (tmp_path / "weights" / WEIGHTS_FILE).open("ab") as file:
        file.write(b"x")
    for words, code, message in (
        ((*push, "a", "-d", data), 2, "got both"),
        (("push",), 2, "got neither"),
        (("push", "--from", "a"), 2, "--repo-id"),
        ((*push, "missing"), 5, "missing"),
        (("push", "--repo-id", "a/b/c", "--from", "a"), 2, "Next:  name a repo: user/name"),
        ((*push, "weights"), 5, "the header describes"),
        (("inspect", "weights"), 5, "Next:  fetch or copy the file again"),
    ):
        assert message in cli(*words, token=user.token, code=code).err
    for content in ("{", "[]", "{}", '{"library": 1, "bank": 2}'):
        (tmp_path / "recipe" / RECIPE_FILE).write_text(content)
        assert "not generated by hf-lorameta" in cli(*push, "recipe", token=user.token, code=5).err
        assert "unknown: not made by hf-lorameta" in cli("inspect", "recipe").out
    assert cli.hub.repo(repo) is None
    before = tree(tmp_path / "a")
    cli(*push, "a", token=user.token)
    assert tree(tmp_path / "a") == before  # unlike a folder of the command's own


@pytest.mark.parametrize("kind", ["public", "gated", "private", "local"])
def test_only_the_card_of_a_public_dataset_shows_one_of_its_rows(
    cli: Shell, bank: Built, user: Account, data: Path, tmp_path: Path, kind: str
) -> None:
    flags = {"private": kind == "private", "gated": kind == "gated"}
    files = {"train.jsonl": data.read_bytes()}
    name = str(data) if kind == "local" else user.dataset("shown", files, **flags)
    if kind == "gated":
        cli.hub.grant_access(name, user.name, repo_type="dataset")
    cli("generate", "-d", name, "--bank", bank.folder, "-o", "a", token=user.token)
    texts = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    found = [path.name for path, content in texts.items() if b"say bread" in content]
    assert found == (["README.md"] if kind == "public" else [])


def test_a_pull_request_that_would_change_nothing_is_said_not_to_be_opened(
    cli: Shell, bank: Built, published: Published, user: Account
) -> None:
    push = ("push", "-d", published.dataset, "--bank", bank.folder, "--repo-id", published.repo)
    same = cli(*push, "--rank", 2, "--create-pr", "-q", token=user.token)
    assert same.err.splitlines()[-1] == (
        "Warning: the repo already has exactly these files: no pull request was opened"
    )
    other = cli(*push, "--rank", 3, "--create-pr", "-q", token=user.token)
    assert "no pull request" not in other.err
    assert other.out == f"{cli.hub.url}/{published.repo}/discussions/1\n"
