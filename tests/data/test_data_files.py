"""A dataset's metadata cannot name files of this machine, other hosts or other repos."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_lorameta.data.dataset import open_dataset
from tests.conftest import Account, Shell, rows
from tests.support.codes import raises_code

CONFIG = "---\nconfigs:\n- config_name: default\n  {}\n---\n"
OUTSIDE = [
    "data_files: /etc/passwd",
    "data_files: file:///etc/passwd",
    "data_files: ../secret.jsonl",
    "data_files: [train.jsonl, ../../../../etc/passwd]",
    "data_files: [{split: train, path: [a.csv, '~/.netrc']}]",
    "data_files: s3://bucket/train.csv",
    "data_files: hf://datasets/other/repo/train.jsonl",
    "data_files: zip://*.csv::/tmp/a.zip",
    "data_dir: /etc",
]


@pytest.fixture
def visits() -> Iterator[tuple[int, list[str]]]:
    """Port of a server on loopback, and the connections to it."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.append(connection.recv(100).decode())
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], seen


@pytest.mark.parametrize("line", OUTSIDE)
def test_a_card_that_names_files_outside_its_folder_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "README.md").write_text(CONFIG.format(line))
    (tmp_path / "train.jsonl").write_bytes(rows(0))
    with raises_code("repo.file-outside"):
        open_dataset(tmp_path)


def test_no_other_host_is_contacted(
    cli: Shell, user: Account, visits: tuple[int, list[str]]
) -> None:
    port, seen = visits
    url = f"http://127.0.0.1:{port}/train.jsonl"
    card = CONFIG.format(f"data_files: {url}").encode()
    for name in ("README.md", ".huggingface.yaml"):
        content = card if name == "README.md" else card.replace(b"---\n", b"")
        repo = user.dataset(f"host-{name[-2:]}", {name: content, "train.jsonl": rows(0)})
        assert url in cli("plan", "-d", repo, code=3).err
        choices = f"""
import hf_lorameta
from hf_lorameta.data.sources.hub_repos import repo_choices
hub = hf_lorameta.Hub()
try:
    repo_choices(hub, hub.resolve({repo!r}, "dataset"))
except hf_lorameta.errors.DatasetError as error:
    print(error)
    raise SystemExit
"""
        assert "outside its repo" in cli("plan", before=choices).out
    # a column declared as images may name a URL, too: it is not opened
    lines = [{"input": "q", "output": f"a{i}", "picture": url} for i in range(3)]
    features = [
        {"name": "input", "dtype": "string"},
        {"name": "output", "dtype": "string"},
        {"name": "picture", "dtype": "image"},
    ]
    card = f"---\ndataset_info:\n  features: {json.dumps(features)}\n---\n".encode()
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    repo = user.dataset("pictures", {"README.md": card, "train.jsonl": data})
    assert cli("plan", "-d", repo, "--json").json["dataset"]["rows"] == 3
    assert seen == []


def test_paths_inside_the_repo_are_read(cli: Shell, user: Account) -> None:
    card = CONFIG.format("data_dir: data\n  data_files: [{split: train, path: 'a/*.jsonl'}]")
    files = {"README.md": card.encode(), "data/a/0.jsonl": rows(0), "a/1.jsonl": rows(1)}
    repo = user.dataset("inside", files)
    assert cli("plan", "-d", repo, "--json").json["dataset"]["rows"] == 24


def repeated(times: int, name: str = "configs") -> str:
    """Return YAML whose aliases stand for a list of ten to the power of so many texts."""
    lines = [f"a0: &a0 [{', '.join('x' * 10)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, times)]
    return "\n".join([*lines, f"{name}: [{{data_files: *a{times - 1}}}]"])


MERGED = "\n".join(
    ["a0: &a0 {x: y}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40))]
)
"""YAML whose merge keys double a mapping forty times."""


@pytest.mark.parametrize(
    "metadata", [repeated(12), repeated(12, "dataset_info"), MERGED, "configs: &a [*a]"]
)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_whose_aliases_stand_for_too_much_is_refused_at_once(
    cli: Shell, tmp_path: Path, metadata: str, name: str
) -> None:
    folder = tmp_path / "bomb"
    folder.mkdir()
    (folder / name).write_text(f"---\n{metadata}\n---\n" if name == "README.md" else metadata)
    (folder / "train.jsonl").write_bytes(rows(0))
    start = time.monotonic()
    done = cli("plan", "-d", folder, code=3)
    assert time.monotonic() - start < 20
    assert f"bomb: the aliases in {name}" in done.err
    assert "write out the values" in done.err


def test_a_card_may_have_aliases(cli: Shell, user: Account) -> None:
    card = CONFIG.format("data_files: &files [{split: train, path: 'a/*.jsonl'}]\n  other: *files")
    repo = user.dataset("aliases", {"README.md": card.encode(), "a/0.jsonl": rows(0)})
    assert cli("plan", "-d", repo, "--json").json["dataset"]["rows"] == 24


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml", "dataset_infos.json"])
def test_a_card_of_more_than_a_megabyte_is_not_fetched(
    cli: Shell, user: Account, name: str
) -> None:
    text = b" " * 1_000_001 if name == "README.md" else b'{"a": "%s"}' % (b"x" * 1_000_000)
    repo = user.dataset("long", {name: text, "train.jsonl": rows(0)})
    cli.hub.clear_requests()
    done = cli("plan", "-d", repo, code=3)
    assert f"{repo}: {name} has 1.0 MB" in done.err
    assert f"hf download --repo-type dataset {repo} --exclude {name} --local-dir" in done.err
    assert [r.method for r in cli.hub.requests if r.path.endswith(name)] == ["HEAD"]


def test_files_of_other_formats_are_refused(cli: Shell, user: Account) -> None:
    repo = user.dataset("pictures", {"a.lance": b"x", "b.lance": b"y"})
    done = cli("plan", "-d", repo, code=3)
    assert "lance, expected one of arrow" in done.err
