"""Commands against servers other than the Hub: hfd, KohakuHub, and one that redirects.

The loopback Hub leaves out what such a server lacks: see ``omit`` in `tests.support.fault_hub`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.pipeline.adapter_folder import FILES
from tests.conftest import BASE, Account, Built, Shell, rows, tree
from tests.hub.foreign_server import ForeignServer, serving
from tests.support.fault_hub import Fault
from tests.support.shell import NO_PACKAGE

UNTYPED = ("X-Error-Code", "X-Error-Message", "error")
INFO = "^/api/(models|datasets|spaces)/[^/]+/[^/?]+(/revision/[^/?]+)?($|[?])"


def omit(*names: str, path: str = "") -> Fault:
    return Fault("omit", names=names, path=path)


SERVERS = {
    "hfd": (omit(*UNTYPED, "size", "blobId", "lfs", path=INFO), omit(*UNTYPED)),
    "KohakuHub": (
        omit("blobId", "cardData", path=INFO),
        omit("authors", path="/commits/"),
        Fault("status", status=501, path="create_pr|/discussions"),
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_bank_is_built_and_adapters_are_made_and_published(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, server: str
) -> None:
    card = b"---\nconfigs:\n- config_name: c\n  data_files: [{split: test, path: x.jsonl}]\n---\n"
    data = user.dataset("d", {"x.jsonl": rows(1), "y.jsonl": b"{}", "README.md": card})
    plan = ("plan", "-d", data, "--bank", bank.folder, "--json")
    expected = cli(*plan).json
    for fault in SERVERS[server]:
        cli.hub.add_fault(fault)
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    cli("bank", "build", manifest, "-o", "b")
    built, usual = tree(tmp_path / "b"), tree(bank.folder)
    usual.pop("README.md", None)  # of a push by another test
    assert set(built) == set(usual)
    different = [name for name in built if built[name] != usual[name]]
    assert different == (["bank.json"] if server == "KohakuHub" else [])  # no license of the base
    cli("bank", "push", "b", f"{user.name}/bank", "--public", token=user.token)
    assert cli(*plan).json["neighbors"] == expected["neighbors"]
    push = ("push", "-d", data, "--bank", f"{user.name}/bank", "--repo-id", f"{user.name}/a")
    for more in ((), ("--overwrite", "--rank", 1)):
        cli(*push, "--public", *more, token=user.token)
    assert set(FILES) <= set(cli.hub.files(f"{user.name}/a"))
    cli("space", "deploy", "--repo", f"{user.name}/page", token=user.token, before=NO_PACKAGE)
    missed = cli("plan", "-d", f"{user.name}/none", "--bank", bank.folder, code=6).err
    assert f"{user.name}/none" in missed
    assert "does not exist, or it is private" in missed
    content = json.loads(manifest.read_text()) | {"base_model": "base/gone", "tokenizer": BASE}
    manifest.write_text(json.dumps(content))
    gone = cli("bank", "build", manifest, "-o", "g", code=4).err
    assert "expected base/gone" in gone  # the adapters' base: the missing base model is no error


@pytest.mark.parametrize("server", SERVERS)
def test_a_file_with_a_flipped_bit_is_fetched_again_whatever_states_the_checksum(
    cli: Shell, bank: Built, tmp_path: Path, server: str
) -> None:
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # the adapters of the bank are there
    path = f"^/_lfs/.*{WEIGHTS_FILE}"
    cli.hub.add_fault(Fault("corrupt", path=path, method="GET", bits=1, after_bytes=1000, times=1))
    for fault in SERVERS[server]:
        cli.hub.add_fault(fault)
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # of earlier tests
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    assert cli("bank", "build", manifest, "-o", "b", "--json").json["skipped"] == []
    fetched = [r.path for r in cli.hub.requests if r.method == "GET" and WEIGHTS_FILE in r.path]
    fetched = [path for path in fetched if path.startswith("/_lfs/")]
    assert len(fetched) == len(set(fetched)) + 1
    assert tree(tmp_path / "b" / "adapters") == tree(bank.folder / "adapters")


def test_a_server_without_checksums_is_named_once_and_a_bank_keeps_its_own(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    cli.hub.add_fault(omit("blobId", "lfs", path=INFO))
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    built = cli("bank", "build", manifest, "-o", "b")
    assert built.err.count("gives no checksums") == 1
    assert cli("bank", "verify", "b").out == "4 adapters, all checksums match\n"
    repo = f"{user.name}/bank"
    cli("bank", "push", "b", repo, token=user.token)
    shutil.rmtree(cli.home / "hub", ignore_errors=True)
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    path = "/_lfs/.*safetensors"
    cli.hub.add_fault(Fault("corrupt", path=path, method="GET", bits=1, after_bytes=1000))
    damaged = cli("generate", "-d", "rows.jsonl", "--bank", repo, "-o", "a", code=4).err
    assert "checksum differs from the index" in damaged


def test_a_401_for_a_repo_means_that_it_is_missing_but_a_refused_token_is_named(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    repo = f"{user.name}/a"
    push = ("push", "-d", "rows.jsonl", "--bank", bank.folder, "--repo-id", repo, "--public")
    info = f"/api/models/{user.name}/a$"
    cli.hub.add_fault(Fault("status", status=401, path=info, method="GET", times=1))
    cli(*push, token=user.token)
    assert set(FILES) <= set(cli.hub.files(repo))
    refused = cli(*push, "--overwrite", token="hf_" + "z" * 34, code=6).err
    assert "does not accept this token" in refused


def test_a_web_page_in_place_of_an_answer_is_named(cli: Shell, user: Account) -> None:
    page = user.dataset("d", {"train.jsonl": rows(1)})
    with serving(ForeignServer(cli.hub.url, pages=True)) as server:
        said = cli("plan", "-d", page, code=6, before=f"""
from huggingface_hub import constants; constants.ENDPOINT = {server.url!r}
""").err  # fmt: skip
    assert "does not answer like the Hub (the answer is not JSON)" in said
    assert "HF_ENDPOINT" in said


MAIN = "import sys\nfrom hf_lorameta.cli.app import main\nmain(sys.argv[1:])"


def test_files_on_another_host_are_fetched_without_the_token(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    dataset = user.dataset(
        "d", {"data/train.jsonl": rows(1), "README.md": b"---\nlicense: mit\n---\n"}
    )

    def run(*words: object) -> str:
        env = os.environ | cli.env(user.token)
        env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *map(str, words)],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert user.token not in done.stdout + done.stderr
        return done.stdout

    with serving(ForeignServer(cli.hub.url, redirect=True)) as server:
        run("bank", "build", bank.owner.manifest(tmp_path / "m.yaml"), "-o", "b")
        repo = f"{user.name}/a"
        url = run("push", "-d", dataset, "--bank", bank.repo, "--repo-id", repo, "--public")
        assert url == f"{server.url}/{repo}\n"
    expected = {k: v for k, v in tree(bank.folder).items() if k != "README.md"}
    assert tree(tmp_path / "b") == expected
    cli("push", "-d", dataset, "--bank", bank.repo, "--repo-id", f"{user.name}/b", "--public",
        token=user.token)  # fmt: skip
    for name in FILES:
        if name != "README.md":
            assert cli.hub.read(f"{user.name}/a", name) == cli.hub.read(f"{user.name}/b", name)
    others = server.on_other_host()
    assert others
    assert not any("authorization" in headers for headers in others)
