"""Publishing: to whom, what is committed, lost answers, and pull requests."""

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import huggingface_hub as hfh
import pytest
from huggingface_hub import HfApi

from hf_lorameta import Hub
from hf_lorameta.errors import HubError
from hf_lorameta.hub import retry
from hf_lorameta.hub.publish import Upload
from hf_lorameta.hub.repo import PinnedRepo, check_visibility
from tests.conftest import Account, Built, Shell, rows, touched, tree
from tests.hub.conftest import use_endpoint
from tests.support.codes import raises_code
from tests.support.fault_hub import Fault

COMMIT = "/api/.*/commit/"
PUBLIC, PRIVATE = (PinnedRepo("a/b", "model", "0" * 40, private=p) for p in (False, True))


@pytest.fixture
def push_args(bank: Built, user: Account, tmp_path: Path) -> tuple[object, ...]:
    """A push of a local file to a repo that does not exist."""
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    repo = f"{user.name}/a"
    return ("push", "-d", "rows.jsonl", "--bank", bank.folder, "--repo-id", repo, "--public")


@pytest.fixture
def publish(
    cli: Shell, user: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """A function that publishes two files to a repo with two others of their names and sizes."""
    use_endpoint(monkeypatch, cli.hub.url)
    hub, repo = Hub(user.token), f"{user.name}/files"
    cli.hub.create_repo(repo)
    cli.hub.commit(repo, {"a.txt": b"old", "b.safetensors": b"old"})
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.safetensors"):
        (folder / name).write_bytes(b"new")

    def publish(private: bool | None = None) -> str:
        seen = hub.resolve(repo, "model")
        return hub.publish(Upload(folder), repo, message="ours", parent=seen, private=private)

    return publish


# --- visibility ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "asked", "source_private", "code"),
    [
        (PUBLIC, True, False, "repo.other-visibility"),
        (PRIVATE, False, False, "repo.other-visibility"),
        (PUBLIC, None, True, "repo.is-public"),
        (PUBLIC, False, True, None),  # with consent
        (PRIVATE, None, True, None),
        (PUBLIC, None, False, None),
    ],
)
def test_an_existing_repo_has_the_visibility_that_is_needed(
    existing: PinnedRepo, asked: bool | None, source_private: bool, code: str | None
) -> None:
    with raises_code(code) if code else nullcontext():
        check_visibility(
            existing, asked, source_private=source_private, source="2 entries are private"
        )


def test_nothing_is_uploaded_to_a_repo_that_was_made_public_meanwhile(
    cli: Shell, user: Account, publish: Callable[..., str]
) -> None:
    with raises_code("repo.is-public"):
        publish(private=True)
    assert cli.hub.read(f"{user.name}/files", "a.txt") == b"old"


def test_nothing_is_uploaded_to_a_new_repo_that_is_not_private(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    repo, api = f"{user.name}/a", HfApi(endpoint=cli.hub.url, token=user.token)

    def publish() -> None:
        api.update_repo_settings(repo, private=False)

    info = f"/api/models/{repo}$"  # is asked for before the repo is created, and after
    cli.hub.add_fault(Fault("callback", path=info, skip=1, times=1, callback=publish))
    refused = cli(*push_args[:-1], "--private", token=user.token, code=6).err
    assert "created public" in refused
    assert set(cli.hub.files(repo)) == {".gitattributes"}
    assert touched(cli.hub, "/preupload/") == []


# --- what is committed --------------------------------------------------------------------------


def test_push_to_a_bank_deletes_what_left_it(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    repo = f"{user.name}/bank"
    cli("bank", "push", bank.folder, repo, token=user.token)
    cli.hub.commit(repo, {"notes.txt": b"mine"}, repo_type="dataset")
    two = bank.owner.manifest(tmp_path / "m.yaml", bank.owner.entries[:2])
    cli("bank", "build", two, "-o", "b")
    cli("bank", "push", "b", repo, token=user.token)
    files = set(cli.hub.files(repo, repo_type="dataset"))
    assert files == {".gitattributes", "README.md", "notes.txt", *tree(tmp_path / "b")}


def test_a_card_that_the_hub_refuses_is_named(
    cli: Shell, user: Account, publish: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "folder" / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(HubError, match=r"Invalid metadata in README\.md"):
        publish()
    assert cli.hub.read(f"{user.name}/files", "a.txt") == b"old"


def test_a_refused_namespace_is_an_error_with_the_hubs_reason(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...]
) -> None:
    other = bank.owner.name
    for command in (
        (*push_args[:-2], f"{other}/new"),
        ("bank", "push", bank.folder, f"{other}/new"),
    ):
        refused = cli(*command, token=user.token, code=6).err
        assert f'the namespace "{other}"' in refused
        assert "--create-pr" not in refused
    existing = user.adapter("theirs")
    stranger = cli.hub.add_user(f"{user.name}-x")
    refused = cli(*push_args[:-2], existing, "--public", "--overwrite", token=stranger, code=6).err
    assert "add --create-pr" in refused
    proposed = cli(*push_args[:-2], existing, "--public", "--create-pr", token=stranger)
    assert "/discussions/1" in proposed.out


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize(
    ("name", "at", "small"),
    [
        ("adapter_model.safetensors", "/api/repos/create", True),
        ("recipe.json", "/api/repos/create", True),
        ("adapter_model.safetensors", "/preupload/", False),
        ("adapter_model.safetensors", "/preupload/", True),
        ("recipe.json", "/preupload/", True),
    ],
)
def test_only_an_adapter_as_it_was_checked_is_committed(
    cli: Shell, user: Account, push_args: tuple[object, ...], tmp_path: Path,
    gone: bool, name: str, at: str, small: bool,
) -> None:  # fmt: skip
    cli("generate", *push_args[1:5], "-o", "a")
    target, file = f"{user.name}/b", tmp_path / "a" / name
    checked = file.read_bytes()

    def change() -> None:
        file.unlink() if gone else file.write_bytes(checked[:-1])

    cli.hub.add_fault(Fault("callback", path=at, callback=change, times=1))
    push = ("push", "--from", "a", "--repo-id", target, "--public", "--json")
    before = "" if small else "import hf_lorameta.hub.publish as p; p._SMALL = 0"
    if small and at == "/preupload/":  # it was read before
        cli(*push, token=user.token)
        assert cli.hub.read(target, name) == checked
        return
    refused = cli(*push, token=user.token, code=6, before=before).json["error"]
    assert refused["type"] == "ConflictError"
    assert name in refused["message"]
    assert set(cli.hub.files(target)) == {".gitattributes"}


def test_a_dataset_that_was_made_private_meanwhile_is_not_published(
    cli: Shell, bank: Built, user: Account
) -> None:
    dataset = user.dataset("d", {"train.jsonl": rows(1)})
    cli("generate", "-d", dataset, "--bank", bank.folder, "-o", "a")
    HfApi(endpoint=cli.hub.url, token=user.token).update_repo_settings(
        dataset, private=True, repo_type="dataset"
    )
    stranger = f"{user.name}-y"
    for name, token in ((user.name, user.token), (stranger, cli.hub.add_user(stranger))):
        push = ("push", "--from", "a", "--repo-id", f"{name}/b")
        refused = cli(*push, "--json", token=token, code=6).json["error"]
        assert refused["type"] == "ConflictError"
        assert cli.hub.repo(f"{name}/b") is None
        cli(*push, "--private", token=token)
        assert cli.hub.repo(f"{name}/b")


# --- lost answers -------------------------------------------------------------------------------


def test_a_commit_whose_answer_is_lost_is_not_made_again(
    cli: Shell, user: Account, publish: Callable[..., str]
) -> None:
    repo = f"{user.name}/files"
    cli.hub.add_fault(Fault("cut", path=COMMIT))
    for _ in range(2):  # then no file differs
        assert publish() == f"{cli.hub.url}/{repo}"
        assert cli.hub.read(repo, "a.txt") == b"new"
    assert len(cli.hub.commits(repo)) == 3


ODD = {"empty": b"{}", "list": b"[]", "bytes": b"\xff", "page": b"<html>", "deep": b"[" * 100_000}
SAID = [Fault("answer", content=content) for content in ODD.values()]


@pytest.mark.parametrize("fault", [*SAID, Fault("late", seconds=3)], ids=[*ODD, "silent"])
def test_a_commit_whose_answer_says_nothing_is_looked_for(
    cli: Shell, user: Account, publish: Callable[..., str], fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(retry, "ANSWER_SECONDS", 1.0)
    hfh.close_session()
    repo = f"{user.name}/files"
    cli.hub.add_fault(replace(fault, path=COMMIT))
    assert publish() == f"{cli.hub.url}/{repo}"
    assert len(cli.hub.commits(repo)) == 3
    hfh.close_session()


def test_a_push_whose_answers_all_say_nothing_names_the_command_that_goes_on(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli.hub.add_fault(Fault("answer", path=COMMIT, content=b"{}"))
    cli.hub.add_fault(Fault("answer", path="/commits/", content=b"{}"))
    said = cli(*push_args, token=user.token, code=6).err
    command = shlex.split(said.rpartition("resume with: ")[2])
    cli.hub.clear_faults()
    assert cli(*command[1:], token=user.token).out.strip() == f"{cli.hub.url}/{user.name}/a"
    assert len(cli.hub.commits(f"{user.name}/a")) == 2, "it was made at first"


def test_a_commit_of_others_is_not_taken_for_the_one_whose_answer_is_lost(
    cli: Shell, user: Account, publish: Callable[..., str]
) -> None:
    repo = f"{user.name}/files"

    def commit() -> None:
        cli.hub.commit(repo, {"a.txt": b"theirs"})

    cli.hub.add_fault(Fault("callback", path=COMMIT, callback=commit, times=1))
    cli.hub.add_fault(Fault("cut", path="/preupload/", times=1))
    with raises_code("repo.changed"):
        publish()
    assert cli.hub.read(repo, "a.txt") == b"theirs"


def test_a_commit_that_was_not_made_is_made_on_the_next_attempt(
    cli: Shell, user: Account, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_lorameta.hub.retry.time.sleep", lambda _: None)
    cli.hub.add_fault(Fault("cut", path=COMMIT, in_request=True, times=1))
    cli.hub.add_fault(Fault("status", status=502, path=COMMIT, times=1))
    publish()
    assert len(cli.hub.commits(f"{user.name}/files")) == 3


@pytest.mark.parametrize("status", [409, 412])
def test_a_stale_parent_is_a_conflict(
    cli: Shell, user: Account, publish: Callable[..., str], status: int
) -> None:
    cli.hub.add_fault(Fault("status", status=status, path=COMMIT))
    with raises_code("repo.changed"):
        publish()
    assert cli.hub.read(f"{user.name}/files", "a.txt") == b"old"
