"""Commands when the Hub, the network, the disk or the process fails."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.adapter_folder import FILES
from hf_lorameta.pipeline.publish import STAGING_FOLDER
from tests.conftest import Account, Built, Shell, adapter_files, rows, touched, tree, write_files
from tests.support.fault_hub import Fault
from tests.support.mounting import mounted

COMMIT = r"/api/models/.*/commit/"
NO_WAIT = """
import time, types, hf_lorameta.hub.retry
hf_lorameta.hub.retry.time = types.SimpleNamespace(sleep=lambda s: None, monotonic=time.monotonic)
"""


@pytest.fixture
def push_args(bank: Built, user: Account, tmp_path: Path) -> tuple[object, ...]:
    """A push of a local file to a repo that does not exist."""
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    target = f"{user.name}/a"
    return ("push", "-d", "rows.jsonl", "--bank", bank.folder, "--repo-id", target, "-q")


def resume(cli: Shell, message: str, token: str) -> str:
    """Run the command that an error printed."""
    command = shlex.split(message.rsplit("resume with: ", 1)[1])
    assert command[0] == "hf-lorameta"
    folder = Path(command[command.index("--from") + 1])
    assert set(tree(folder)) == set(FILES)
    return cli(*command[1:], token=token).out


def test_a_web_page_in_place_of_an_answer_is_named(cli: Shell, user: Account) -> None:
    dataset = user.dataset("d", {"train.jsonl": rows(1)})
    cli.hub.add_fault(Fault("truncate", path=f"/api/datasets/{dataset}", after_bytes=1))
    said = cli("plan", "-d", dataset, code=6).err
    assert "not JSON" in said
    assert "HF_ENDPOINT" in said


# --- accounts -----------------------------------------------------------------------------------


def test_tokens_without_the_right_are_refused(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    target = f"{user.name}/a"
    assert "hf auth login" in cli(*push_args, code=6).err
    message = cli(*push_args, token="hf_" + "y" * 34, code=6).err
    assert "this token" in message
    assert "replace or unset HF_TOKEN" in message
    revoked = cli.hub.add_user(user.name)
    cli.hub.revoke(revoked)
    assert "this token" in cli(*push_args, token=revoked, code=6).err
    reader = cli.hub.add_user(user.name, role="read")
    assert "write access" in cli(*push_args, token=reader, code=6).err
    assert cli.hub.repo(target) is None
    other = cli.hub.add_user(f"{user.name}-x")
    cli(*push_args, token=other, code=6)
    assert cli.hub.repo(target) is None
    cli.hub.create_repo(target)
    cli(*push_args, "--public", token=other, code=6)
    assert len(cli.hub.commits(target)) == 1
    hidden = f"{user.name}/hidden"
    cli.hub.create_repo(hidden, private=True)
    cli(*push_args[:-2], hidden, token=other, code=6)
    for bad in ("a", "a/b/c", "a/..", "a b/c", "a/" + "x" * 120):
        cli(*push_args[:-2], bad, token=user.token, code=2)


@pytest.mark.parametrize("token", ["hf_ü", "hf_x y", "hf_x\ny"])
def test_a_token_that_cannot_be_one_is_refused(
    cli: Shell, push_args: tuple[object, ...], token: str
) -> None:
    set_as = token.replace("\n", " ")  # of a variable, `huggingface_hub` drops line breaks
    for done in (
        cli(*push_args, "--token", token, code=6),
        cli(*push_args, token=set_as, code=6),
    ):
        assert "spaces or line breaks" in done.err
        assert token not in done.err
        assert cli.hub.requests == []


def test_spaces_around_a_token_are_dropped(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli(*push_args, "--token", f" {user.token}\xa0\n")
    assert cli.hub.repo(f"{user.name}/a")


def test_a_password_in_the_endpoint_is_never_shown(cli: Shell, user: Account) -> None:
    secret = cli.hub.url.replace("://", "://me:pass-word@")
    change = f"from huggingface_hub import constants as c; c.ENDPOINT = {secret!r}"
    cli.hub.add_fault(Fault("status", status=503))
    for debug in ((), ("--debug",)):
        done = cli("plan", "-d", f"{user.name}/d", *debug, code=6, before=NO_WAIT + change)
        assert "pass-word" not in done.err
        assert cli.hub.url in done.err


def test_a_dry_run_needs_a_token_for_the_name_of_the_account_only(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli(*push_args, "--dry-run")
    unnamed = cli(*push_args[:5], "-q", "--dry-run", code=6).err
    assert "named after your account" in unnamed
    assert "add --repo-id user/name" in unnamed


def test_what_lies_in_the_cache_for_a_day_is_deleted(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    staging = cli.home / "lorameta" / STAGING_FOLDER
    shutil.rmtree(staging, ignore_errors=True)
    for name, hours in (("old", 25), (".lorameta-killed", 30), ("new", 23)):
        (staging / name).mkdir(parents=True)
        os.utime(staging / name, (time.time() - 3600 * hours,) * 2)
    said = cli(*push_args[:-1], token=user.token).err
    assert "Deleted 2 folders" in said
    assert "older than a day" in said
    assert [path.name for path in staging.iterdir()] == ["new"]


def test_a_401_for_a_repo_means_that_it_is_missing(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    info = f"/api/models/{user.name}/a$"
    cli.hub.add_fault(Fault("status", status=401, path=info, method="GET", times=1))
    cli(*push_args, token=user.token)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))


def test_files_on_another_host_are_fetched_and_sent_without_the_token(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...]
) -> None:
    """Those in Git LFS are; see `tests.support.local_hub.state.HubState.link`."""
    shutil.rmtree(cli.home / "hub", ignore_errors=True)
    push = [bank.repo if word == bank.folder else word for word in push_args]
    cli(*push, token=user.token)
    stored = [r for r in cli.hub.requests if r.path.startswith("/_lfs/") and r.method != "POST"]
    assert {"GET", "PUT"} <= {request.method for request in stored}
    assert not any(request.authenticated for request in stored)


def test_errors_are_two_lines_and_debug_adds_the_traceback(cli: Shell, bank: Built) -> None:
    plan_args = ("plan", "-d", "no.jsonl", "--bank", bank.folder)
    plain = cli(*plan_args, code=3).err.splitlines()
    assert [line[:7] for line in plain[-2:]] == ["Error: ", "Next:  "]
    assert "Traceback" not in "".join(plain)
    assert "Traceback" in cli(*plan_args, "--debug", code=3).err
    bug = (
        "import hf_lorameta.pipeline.generate as g\ndef f(*a, **b): raise RuntimeError('secret')\n"
    )
    message = cli(*plan_args, code=1, before=bug + "g.open_session = f").err
    assert "RuntimeError" in message
    assert "secret" not in message
    assert "--debug" in message


# --- the connection -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("status", status=503, path=COMMIT), "HTTP 503"),
        (Fault("status", status=500, path=COMMIT), "HTTP 500"),
        (Fault("status", status=401, path=COMMIT), "replace or unset HF_TOKEN"),
        (Fault("cut", path=COMMIT, in_request=True), "no answer"),
        (
            Fault("corrupt", bits=1, path="^/_lfs/", method="PUT", in_request=True),
            "the one announced",
        ),
    ],
    ids=["503", "500", "refused token", "request lost", "damaged upload"],
)
def test_a_failed_upload_keeps_the_folder_and_prints_the_command_to_resume(
    cli: Shell, user: Account, push_args: tuple[object, ...], fault: Fault, message: str
) -> None:
    cli.hub.add_fault(fault)
    failed = cli(*push_args, token=user.token, code=6, before=NO_WAIT).err
    assert message in failed
    cli.hub.clear_faults()
    assert resume(cli, failed, user.token) == f"{cli.hub.url}/{user.name}/a\n"
    view = cli.hub.repo(f"{user.name}/a")
    assert view
    assert view.private
    assert set(FILES) <= set(cli.hub.files(view.id))
    assert len(view.commits) == 2  # the first is that of the new repo


def test_the_resume_command_keeps_public_and_create_pr(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    cli(*push_args, "--public", token=user.token)
    cli.hub.add_fault(Fault("status", status=503, path=COMMIT))
    flags = ("--public", "--overwrite", "--rank", 1)
    busy: dict[str, Any] = {"token": user.token, "code": 6, "before": NO_WAIT}
    message = cli(*push_args, *flags, **busy).err
    pr = cli(*push_args, "--public", "--create-pr", "--rank", 2, **busy).err
    cli.hub.clear_faults()
    assert "discussions/1" in resume(cli, pr, user.token)
    cli.hub.add_fault(Fault("status", status=501, path=COMMIT, times=1))
    refused = cli(*push_args, "--public", "--create-pr", "--rank", 3, token=user.token, code=6).err
    assert "HTTP 501" in refused
    assert not re.search("--create-pr|--overwrite", refused)
    resume(cli, message, user.token)


def test_an_answer_that_is_lost_after_the_commit_is_looked_for(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    target = f"{user.name}/a"
    for path in (COMMIT, "/api/repos/create"):
        cli.hub.add_fault(Fault("cut", path=path))  # each answer of the kind
    cli(*push_args, "--public", token=user.token, before=NO_WAIT)
    assert len(cli.hub.commits(target)) == 2  # the first is that of the new repo
    sent = [r for r in cli.hub.requests if r.method == "POST" and "/commit/" in r.path]
    assert len(sent) == 1


def test_uploads_are_retried(cli: Shell, user: Account, push_args: tuple[object, ...]) -> None:
    cut = Fault("status", status=503, path="/_lfs/|/lfs/", method="PUT", times=1)
    busy = Fault("status", status=429, retry_after=0, path="/api/models/|whoami", method="GET",
                 times=2)  # fmt: skip
    cli.hub.add_fault(cut)
    cli.hub.add_fault(busy)
    cli(*push_args, token=user.token)
    assert (cut.times, busy.times) == (0, 0)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))


def test_a_hub_that_does_not_answer_is_an_error(cli: Shell, bank: Built, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli.hub.add_fault(Fault("status", status=503))
    message = cli("plan", "-d", f"{bank.owner.name}/e0", code=6, before=NO_WAIT).err
    assert "HTTP 503" in message
    assert len(cli.hub.requests) == 6
    offline = "from huggingface_hub import constants as c; c.HF_HUB_OFFLINE = True"
    cli.hub.clear_requests()
    message = cli("plan", "-d", f"{bank.owner.name}/e0", code=6, before=offline).err
    assert "HF_HUB_OFFLINE" in message
    assert cli.hub.requests == []
    cli("plan", "-d", "rows.jsonl", "--bank", bank.folder, before=offline)


def test_a_bank_of_local_files_is_built_offline(cli: Shell, tmp_path: Path) -> None:
    write_files(tmp_path / "mine", adapter_files(base=SMOLLM2))
    (tmp_path / "mine.jsonl").write_bytes(rows(1))
    entry = {"adapter": "./mine", "dataset": "./mine.jsonl", "license": "mit"}
    manifest = {"version": 1, "base_model": SMOLLM2, "entries": [entry]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    offline = "from huggingface_hub import constants as c; c.HF_HUB_OFFLINE = True"
    built = cli("bank", "build", "m.json", "-o", "b", "--json", before=offline).json
    assert [entry["adapter"] for entry in built["entries"]] == ["local/mine"]
    assert cli.hub.requests == []


def test_a_refused_stream_is_a_hub_error(cli: Shell, bank: Built, user: Account) -> None:
    repo = user.dataset("d", {"train.jsonl": rows(1)})
    cli.hub.add_fault(Fault("status", status=403, path="resolve/.*train.jsonl"))
    done = cli("plan", "-d", repo, "--bank", bank.folder, code=6)
    assert "unexpected" not in done.err


RECORD_WAITS = """
import time, types, datasets.utils.file_utils, huggingface_hub.utils._http as http
import hf_lorameta.hub.retry as retry
def sleep(seconds):
    with open("waits", "a") as file:
        print(seconds, file=file)
http.time = datasets.utils.file_utils.time = retry.time = types.SimpleNamespace(
    sleep=sleep, time=time.time, monotonic=time.monotonic)
"""


@pytest.mark.parametrize("status", [503, 504, 429])
def test_reading_a_stream_is_retried_by_one_layer(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, status: int
) -> None:
    repo = user.dataset("d", {"train.jsonl": rows(1)})
    cli.hub.add_fault(Fault("status", status=status, path="resolve/.*train.jsonl", method="GET"))
    done = cli("plan", "-d", repo, "--bank", bank.folder, code=6, before=RECORD_WAITS)
    assert re.search("GET .*train.jsonl", done.err)
    assert len([r for r in cli.hub.requests if r.fault]) == 6
    assert sum(map(float, (tmp_path / "waits").read_text().split())) <= 31


# --- damaged transfers --------------------------------------------------------------------------


def flipped(path: str, **fault: Any) -> Fault:
    """A fault that flips one bit of a file."""
    return Fault("corrupt", path=path, bits=1, **fault)


def test_a_damaged_adapter_is_skipped_and_built_on_the_next_run(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # weights of other builds
    for at in (1000, 1001, 1002):
        weights = "^/_lfs/.*adapter_model"
        cli.hub.add_fault(flipped(weights, after_bytes=at, method="GET", times=1))
    build = ("bank", "build", manifest, "-o", "b", "--json")
    (skipped,) = cli(*build, "--workers", 1).json["skipped"]
    assert "was damaged in transfer" in skipped["reason"]
    assert cli("bank", "build", manifest, "-o", "b", "--json").json["skipped"] == []
    assert tree(tmp_path / "b") == {k: v for k, v in tree(bank.folder).items() if k != "README.md"}


def test_a_damaged_file_is_removed_from_the_cache(cli: Shell, bank: Built) -> None:
    shutil.rmtree(cli.home / "hub", ignore_errors=True)
    plan = ("plan", "-d", f"{bank.owner.name}/e0", "--bank", bank.repo, "--json")
    cli.hub.add_fault(flipped("/bank.json", method="GET", times=3))
    message = cli(*plan, code=6).err
    assert "bank.json was damaged before" in message  # twice in the same way
    assert "again" not in message
    assert cli(*plan).json["bank"]["id"] == bank.repo  # the third fault, then success
    assert len([r for r in cli.hub.requests if r.fault]) == 3


def test_transfers_that_are_cut_in_the_middle_are_repeated(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...], tmp_path: Path
) -> None:
    weights = Fault("cut", path="^/_lfs/.*adapter_model", method="GET", after_bytes=300, times=1)
    upload = Fault("cut", path="^/_lfs/", method="PUT", in_request=True, after_bytes=500, times=1)
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # weights of other builds
    for fault in (weights, upload):
        cli.hub.add_fault(fault)
    done = cli("bank", "build", manifest, "-o", "b", "--json")
    assert done.json["skipped"] == []
    assert "/_lfs/" not in done.err  # what follows it in a URL may hold a signature
    assert tree(tmp_path / "b") == {k: v for k, v in tree(bank.folder).items() if k != "README.md"}
    cli(*push_args, token=user.token)
    assert (weights.times, upload.times) == (0, 0)


# --- concurrent changes -------------------------------------------------------------------------


def before_it(cli: Shell, path: str, act: Callable[[], object]) -> None:
    """Call `act` before the next request to a path is answered."""
    cli.hub.add_fault(Fault("callback", path=path, callback=act, times=1))


def test_a_repo_changed_during_the_push_is_a_conflict(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    target = f"{user.name}/a"
    cli.hub.create_repo(target, private=True)
    before_it(cli, COMMIT, lambda: cli.hub.commit(target, {"x": b"theirs"}))
    message = cli(*push_args, token=user.token, code=6).err
    assert "changed in the meantime" in message
    cli.hub.clear_faults()
    assert set(cli.hub.files(target)) == {".gitattributes", "x"}
    resume(cli, message, user.token)
    assert {"x", *FILES} <= set(cli.hub.files(target))


def test_a_repo_created_during_the_push_is_a_conflict(
    cli: Shell, user: Account, push_args: tuple[object, ...]
) -> None:
    target = f"{user.name}/a"
    before_it(cli, "/api/repos/create", lambda: cli.hub.create_repo(target))
    cli(*push_args, token=user.token, code=6)
    assert set(cli.hub.files(target)) == {".gitattributes"}  # it is public: nothing was committed
    assert not cli.hub.repo(target).private  # type: ignore[union-attr]


# --- the disk -----------------------------------------------------------------------------------

FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))"


def test_a_full_disk_leaves_no_partial_output(
    cli: Shell, bank: Built, user: Account, push_args: tuple[object, ...], tmp_path: Path
) -> None:
    generate_args = ("generate", *push_args[1:5], "-q", "-o")
    message = cli(*generate_args, "a", code=5, before=FULL).err
    assert "could not be written" in message
    assert {p.name for p in tmp_path.iterdir()} == {"rows.jsonl"}
    cli(*generate_args, "a")
    before = tree(tmp_path / "a")
    cli(*generate_args, "a", "--overwrite", "--rank", 1, "--dtype", "float32", code=5, before=FULL)
    assert tree(tmp_path / "a") == before
    cli(*push_args, token=user.token, code=5, before=FULL)
    assert cli.hub.repo(f"{user.name}/a") is None
    manifest = bank.owner.manifest(tmp_path / "m")
    message = cli("bank", "build", manifest, "-o", "b", "-q", code=4, before=FULL).err
    assert "could not be written" in message
    assert not (tmp_path / "b/bank.json").exists()


def caches_in(folder: Path | str) -> str:
    """Code that puts all caches, whose places are read at import, into a folder."""
    return f"""
import datasets
from huggingface_hub import constants
constants.HF_HOME, constants.HF_HUB_CACHE = {str(folder)!r}, {str(folder)!r} + "/hub"
datasets.config.HF_DATASETS_CACHE = {str(folder)!r} + "/datasets"
"""


def test_a_local_file_needs_no_cache(cli: Shell, bank: Built, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    plan = ("plan", "-d", "rows.jsonl", "--bank", bank.folder, "--json")
    missing = caches_in("/proc/nope")
    assert cli(*plan, before=missing, HF_LORAMETA_CACHE="").err == cli(*plan).err


def test_another_folder_is_used_for_a_cache_that_cannot_be_written(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    push = ("push", "-d", f"{bank.owner.name}/e0", "--bank", bank.repo)
    for number, folder in enumerate(("/proc/nope", str(tmp_path / "file"))):
        target = f"{user.name}/a{number}"
        done = cli(*push, "--repo-id", target, token=user.token, before=caches_in(folder),
                   HF_LORAMETA_CACHE="")  # fmt: skip
        said = [line for line in done.err.splitlines() if "cannot be written" in line]
        assert len(said) == 2  # of the client's cache and of ours
        assert all(str(folder) in line and "set HF_HOME to a folder" in line for line in said)
        assert set(FILES) <= set(cli.hub.files(target))


@pytest.mark.parametrize("offline", [False, True])
def test_a_warm_cache_that_is_read_only_is_used(
    cli: Shell, bank: Built, tmp_path: Path, offline: bool
) -> None:
    plan = ("plan", "-d", f"{bank.owner.name}/e0", "--bank", bank.repo, "--json")
    home = tmp_path / "warm"
    warm = caches_in(home) + f"constants.HF_HUB_OFFLINE = {offline}\n"
    cli(*plan, before=caches_in(home))
    if offline:
        download = (
            f"huggingface_hub.snapshot_download({bank.owner.name + '/e0'!r}, repo_type='dataset')"
        )
        cli(*plan, before=f"{caches_in(home)}import huggingface_hub\n{download}\n")
    with mounted(home, "--bind", home):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True)
        done = cli(*plan, before=warm)
    assert "cannot be written" not in done.err
    assert done.json["bank"]["id"] == bank.repo


@pytest.mark.parametrize("typo", [("--split", "trian"), ("--config", "defautl")])
def test_a_typo_reads_no_rows(cli: Shell, user: Account, typo: tuple[str, str]) -> None:
    repo = user.dataset("d", {"train.csv": b"input,output\na,b\n", "test.csv": b"input,output\n"})
    cli("plan", "-d", repo, *typo, code=3)
    assert touched(cli.hub, ".csv") == []


def test_a_folder_that_is_a_mount_point_is_written_into(
    cli: Shell, push_args: tuple[object, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    generate = ("generate", *push_args[1:5], "-q", "-o", folder)
    with mounted(folder, "-t", "tmpfs", "tmpfs"):
        (folder / "lost+found").mkdir()
        cli(*generate)
        first = tree(folder)
        assert set(FILES) <= set(first)
        cli(*generate, "--overwrite", "--rank", 1, "--dtype", "float32", code=5, before=FULL)
        assert tree(folder) == first
        cli(*generate, "--overwrite", "--rank", 1)
        assert set(tree(folder)) == set(first)
        assert tree(folder) != first


def test_the_disk_that_is_full_is_named(cli: Shell, bank: Built, tmp_path: Path) -> None:
    manifest, cache = bank.owner.manifest(tmp_path / "m"), tmp_path / "cache"
    cache.mkdir()
    with mounted(cache, "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        (cache / "filler").write_bytes(b"x" * 4096)
        build = ("bank", "build", manifest, "-o", "b", "-q")
        said = cli(*build, code=4, before=caches_in(cache)).err
    assert f"Error: {cache}" in said
    assert "free some space, or set HF_HOME" in said
