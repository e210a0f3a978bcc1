"""Commands against servers that have only a part of the Hub's API.

The loopback Hub leaves out what such servers lack: see ``omit`` in `tests.fault_hub`.
"""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.pipeline.adapter_folder import FILES
from tests.conftest import Account, Built, Shell, rows, touched, tree
from tests.fault_hub import Fault

COMMIT = "/api/.*/commit/"
UNTYPED = ("X-Error-Code", "X-Error-Message", "error")
DIGESTS = ("blobId", "lfs", "oid", "ETag", "X-Linked-ETag")


def missing(path: str, status: int = 404) -> Fault:
    """An endpoint that the server lacks."""
    return Fault("status", status=status, path=path)


def omit(*names: str, path: str = "", **options: object) -> Fault:
    return Fault("omit", names=names, path=path, **options)  # type: ignore[arg-type]


def ignore(*names: str, path: str) -> Fault:
    return omit(*names, path=path, in_request=True)


def flipped(times: int | None = None) -> Fault:
    """One bit of a weights file is damaged in transfer."""
    path = f"^/_lfs/.*{WEIGHTS_FILE}"
    return Fault("corrupt", path=path, method="GET", bits=1, after_bytes=1000, times=times)


@pytest.fixture
def push_args(bank: Built, user: Account, tmp_path: Path) -> tuple[object, ...]:
    """A push of a local file to a repo that does not exist."""
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    repo = f"{user.name}/a"
    return ("push", "-d", "rows.jsonl", "--bank", bank.folder, "--repo-id", repo, "--public")


# --- reading ------------------------------------------------------------------------------------


def test_a_404_without_a_code_means_that_there_is_no_such_repo(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...], tmp_path: Path
) -> None:
    cli.hub.add_fault(omit(*UNTYPED))
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    manifest.write_text(manifest.read_text().replace("base/tiny", "base/gone"))
    tokenizer = tmp_path / "t.json"
    tokenizer.write_bytes((bank.folder / "tokenizer.json").read_bytes())
    gone = cli("bank", "build", manifest, "-o", "b", "--tokenizer", tokenizer, code=4).err
    assert "expected base/gone" in gone  # the adapters' base: the missing base model is no error
    cli(*push_args, token=user.token)
    cli("bank", "push", bank.folder, f"{user.name}/bank", token=user.token)
    cli("space", "deploy", "--repo", f"{user.name}/page", token=user.token)
    missed = cli("plan", "-d", f"{user.name}/none", "--bank", bank.folder, code=6).err
    assert f"{user.name}/none" in missed
    assert "does not exist, or it is private" in missed


@pytest.mark.parametrize(
    "lacking",
    [
        (omit("blobId"),),
        (omit("siblings"),),
        (omit("size", "blobId"), missing("/paths-info/", 501)),
        (omit(*DIGESTS[:3], "size"), missing("/paths-info/", 405)),
    ],
    ids=["no blob ids", "no listing", "no sizes", "only the headers of the file"],
)
def test_a_flipped_bit_is_noticed_whatever_states_the_checksum(
    cli: Shell, bank: Built, tmp_path: Path, lacking: tuple[Fault, ...]
) -> None:
    cli.hub.add_fault(flipped(times=1))
    for fault in lacking:
        cli.hub.add_fault(fault)
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    (skipped,) = cli("bank", "build", manifest, "-o", "b", "--json").json["skipped"]
    assert "was damaged" in skipped["reason"]
    assert cli("bank", "build", manifest, "-o", "b", "--json").json["skipped"] == []
    assert tree(tmp_path / "b") == {k: v for k, v in tree(bank.folder).items() if k != "README.md"}


def test_a_server_without_checksums_is_named_once_and_a_bank_keeps_its_own(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    cli.hub.add_fault(omit(*DIGESTS, "X-Repo-Commit", "size"))
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    built = cli("bank", "build", manifest, "-o", "b")
    assert built.err.count("gives no checksums") == 1
    assert cli("bank", "verify", "b").out == "4 adapters, all checksums match\n"
    repo = f"{user.name}/bank"
    cli("bank", "push", "b", repo, token=user.token)
    shutil.rmtree(cli.home / "hub", ignore_errors=True)
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli.hub.clear_faults()
    path = "/_lfs/.*safetensors"
    cli.hub.add_fault(Fault("corrupt", path=path, method="GET", bits=1, after_bytes=1000))
    cli.hub.add_fault(omit(*DIGESTS))
    damaged = cli("generate", "-d", "rows.jsonl", "--bank", repo, "-o", "a", code=4).err
    assert "checksum differs from the index" in damaged


@pytest.mark.parametrize("absent", ["sha", "private", "id", "cardData", "lastModified"])
def test_a_repo_is_resolved_although_a_field_is_missing(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, absent: str
) -> None:
    hidden = user.dataset("hidden", {"train.jsonl": rows(1)}, private=True)
    cli.hub.add_fault(omit(absent, path="^/api/(models|datasets)/"))
    pulled = cli("bank", "pull", bank.repo, "-o", "b", "--json").json
    assert pulled["revision"] == cli.hub.commits(bank.repo, repo_type="dataset")[0].sha
    if absent == "private":  # asked without the token: what not everyone sees is private
        from hf_lorameta import Hub

        hub = Hub(user.token)
        hub._client.api.endpoint = cli.hub.url
        assert hub.resolve(hidden, "dataset").private
        assert not hub.resolve(bank.repo, "dataset").private


def test_a_pinned_revision_is_read_where_the_server_knows_no_revisions(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    cli.hub.add_fault(missing("/revision/"))
    sha = cli.hub.commits(bank.repo, repo_type="dataset")[0].sha
    pull = ("bank", "pull", bank.repo, "-o", "b", "--json", "--revision")
    for revision in (sha, "main"):
        assert cli(*pull, revision).json["revision"] == sha
    assert "was not found" in cli(*pull, "v9", code=6).err


def test_a_401_for_a_repo_means_that_it_is_missing_but_a_refused_token_is_named(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    info = f"/api/models/{user.name}/a$"
    cli.hub.add_fault(Fault("status", status=401, path=info, method="GET", times=1))
    cli(*push_args, token=user.token)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))
    refused = cli(*push_args, "--yes", token="hf_" + "z" * 34, code=6).err
    assert "does not accept this token" in refused


@pytest.mark.parametrize("names", [("ETag",), ("X-Repo-Commit", "X-Linked-Size")])
def test_files_are_downloaded_without_the_headers_that_the_client_needs(
    cli: Shell, bank: Built, tmp_path: Path, names: tuple[str, ...]
) -> None:
    shutil.rmtree(cli.home / "hub", ignore_errors=True)
    cli.hub.add_fault(omit(*names, "X-Linked-ETag"))
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli("generate", "-d", "rows.jsonl", "--bank", bank.repo, "-o", "a")
    cli.hub.clear_requests()
    cli("plan", "-d", "rows.jsonl", "--bank", bank.repo)
    assert touched(cli.hub, "/resolve/") == []  # they are in the client's cache
    cli("bank", "pull", bank.repo, "-o", "p", "--all")
    cli("bank", "verify", "p")


@pytest.mark.parametrize(
    "lacking",
    [
        (omit(*UNTYPED),),
        (missing("/tree/", 501),),
        (omit("oid", "pointerSize"),),
        (Fault("status", status=405, method="HEAD"),),
    ],
    ids=["untyped errors", "no tree", "no ids", "no HEAD"],
)
def test_datasets_are_read_where_the_server_cannot_be_streamed_from(
    cli: Shell, bank: Built, user: Account, lacking: tuple[Fault, ...]
) -> None:
    card = b"---\nconfigs:\n- config_name: c\n  data_files: [{split: test, path: x.jsonl}]\n---\n"
    repo = user.dataset("d", {"x.jsonl": rows(1), "y.jsonl": b"{}", "README.md": card})
    plan = ("plan", "-d", repo, "--bank", bank.folder, "--json")
    expected = cli(*plan).json
    for fault in lacking:
        cli.hub.add_fault(fault)
    assert cli(*plan).json["neighbors"] == expected["neighbors"]
    assert "no/such was not found" in cli(*plan[:2], "no/such", *plan[3:], code=6).err


# --- publishing ---------------------------------------------------------------------------------


def test_nothing_is_uploaded_where_a_server_ignores_private(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli.hub.add_fault(ignore("visibility", "private", path="/api/repos/create"))
    refused = cli(*push_args[:-1], "--private", token=user.token, code=6).err
    assert "was created public, although private was requested" in refused
    assert set(cli.hub.files(f"{user.name}/a")) == {".gitattributes"}
    assert touched(cli.hub, "/preupload/") == []


@pytest.mark.parametrize("status", [200, 400, 404, 405, 501])
def test_a_push_needs_neither_whoami_nor_card_checks_nor_upload_modes_nor_history(
    cli: Shell, user: Account, push_args: tuple[object, ...], status: int
) -> None:
    cli.hub.add_fault(missing("whoami|validate-yaml|/preupload/|/commits/", status))
    cli(*push_args, token=user.token)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))


def test_a_push_needs_few_fields_of_the_answers(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    fields = ("url", "shouldIgnore", "oid", "commitOid", "commitUrl", "verify", "siblings")
    cli.hub.add_fault(omit(*fields, path="create|preupload|/commit/|/lfs/"))
    cli(*push_args, token=user.token)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))
    assert len(cli.hub.commits(f"{user.name}/a")) == 2


def test_large_files_go_to_git_lfs_where_there_is_no_xet_storage(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    pytest.importorskip("hf_xet")
    cli(*push_args, token=user.token, HF_HUB_DISABLE_XET="0", before="""
from huggingface_hub import constants; constants.HF_HUB_DISABLE_XET = False
""")  # fmt: skip
    assert touched(cli.hub, "/xet-write-token/")
    assert touched(cli.hub, "/info/lfs/objects/batch")
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))


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


def test_create_pr_that_a_server_ignores_is_an_error_that_says_what_happened(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli(*push_args, token=user.token)
    again = (*push_args, "--create-pr", "--rank", 1)
    cli.hub.add_fault(ignore("create_pr", path=COMMIT))
    refused = cli(*again, token=user.token, code=6).err
    head = cli.hub.commits(f"{user.name}/a")[0].sha
    assert f"ignored --create-pr and committed to {user.name}/a ({head[:8]})" in refused
    same = cli(*again, token=user.token)
    assert "no pull request was opened" in same.err


def test_a_refused_namespace_is_answered_with_one_that_works(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...]
) -> None:
    other = bank.owner.name
    for command in (
        (*push_args[:-2], f"{other}/new"),
        ("bank", "push", bank.folder, f"{other}/new"),
    ):
        refused = cli(*command, token=user.token, code=6).err
        assert f"such as {user.name}/new" in refused
        assert "--create-pr" not in refused
    existing = user.adapter("theirs")
    stranger = cli.hub.add_user(f"{user.name}-x")
    refused = cli(*push_args[:-2], existing, "--public", "--yes", token=stranger, code=6).err
    assert "add --create-pr" in refused
    proposed = cli(*push_args[:-2], existing, "--public", "--create-pr", token=stranger)
    assert "/discussions/1" in proposed.out


# --- the head is read back ----------------------------------------------------------------------


def test_a_commit_whose_answer_is_lost_is_found(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli.hub.add_fault(Fault("cut", path=COMMIT))
    assert cli(*push_args, token=user.token).out == f"{cli.hub.url}/{user.name}/a\n"
    assert len(cli.hub.commits(f"{user.name}/a")) == 2


def test_a_stale_parent_that_comes_as_500_is_a_conflict(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    repo = f"{user.name}/a"
    cli.hub.create_repo(repo)
    cli.hub.add_fault(
        Fault("status", status=500, path=COMMIT,
              callback=lambda: cli.hub.commit(repo, {"x": b"theirs"}))
    )  # fmt: skip
    refused = cli(*push_args, token=user.token, code=6).err
    head = cli.hub.commits(repo)[0].sha
    assert f"changed in the meantime: it is at {head[:8]}" in refused
    assert "resume with" in refused


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_a_stale_parent_that_is_not_refused_is_a_conflict(
    cli: Shell, user: Account, push_args: tuple[object, ...], history: bool
) -> None:
    repo = f"{user.name}/a"
    cli.hub.create_repo(repo)
    cli.hub.add_fault(
        omit("parentCommit", path=COMMIT, in_request=True,
             callback=lambda: cli.hub.commit(repo, {"x": b"theirs"}))
    )  # fmt: skip
    if not history:
        cli.hub.add_fault(missing("/commits/"))
    said = cli(*push_args, token=user.token, code=6).err
    ours, theirs, _ = cli.hub.commits(repo)
    what = f"commit {theirs.sha[:8]}" if history else "x"
    assert f"({what}), and the server committed on top of the change" in said
    assert ours.sha[:8] in said


# --- a killed build -----------------------------------------------------------------------------


def test_a_killed_build_fetches_no_weights_twice(cli: Shell, bank: Built, tmp_path: Path) -> None:
    manifest, target = bank.owner.manifest(tmp_path / "m.yaml"), tmp_path / "b"
    cli.hub.add_fault(Fault("delay", path="/datasets/.*/resolve/", seconds=20))
    build = cli.start("bank", "build", manifest, "-o", target)
    records = [target / ".build" / f"{bank.owner.name}--e{i}.weights" for i in range(4)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in records):
        assert build.poll() is None, build.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    damaged = target / "adapters" / f"{bank.owner.name}--e1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])

    cli.hub.clear_faults()
    cli.hub.clear_requests()
    cli("bank", "build", manifest, "-o", target)
    fetched = {p.split("/resolve/")[0] for p in touched(cli.hub, "/resolve/", WEIGHTS_FILE)}
    assert fetched == {f"/{bank.owner.name}/e1"}  # the one that is damaged
    index = json.loads((target / "bank.json").read_bytes())
    assert index == json.loads((bank.folder / "bank.json").read_bytes())
