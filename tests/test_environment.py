"""The cores to use, and the commands that install optional dependencies in each installation."""

import json
import os
import shlex
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import environment
from hf_lorameta.environment import install_hint, pip_install, remote_requirement, usable_cores

PIP = shlex.split(pip_install())
REPOSITORY = "Project-URL: Homepage, https://x.org\nProject-URL: Repository, https://x.org/y\n"
COMMIT = {"vcs": "git", "commit_id": "c0ffee", "requested_revision": "main"}


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, origin: Any = None, headers: str = ""
) -> None:
    """Install a distribution's metadata into `folder`, which comes first on the path."""
    info = folder / "hf_lorameta-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: hf-lorameta\n{headers}\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("origin", "arguments"),
    [
        (
            {"url": "https://x.org/y.git", "vcs_info": COMMIT},
            ["hf-lorameta[eval] @ git+https://x.org/y.git@c0ffee"],
        ),
        (
            {"url": "ssh://git@x.org/y", "vcs_info": COMMIT, "subdirectory": "sub"},
            ["hf-lorameta[eval] @ git+ssh://git@x.org/y@c0ffee#subdirectory=sub"],
        ),
        (
            {"url": "https://x.org/y/archive/main.zip", "archive_info": {}},
            ["hf-lorameta[eval] @ https://x.org/y/archive/main.zip"],
        ),
        (
            {"url": "file:///a%20b/y", "dir_info": {}},
            ["hf-lorameta[eval] @ file:///a%20b/y"],
        ),
        ({"url": "file:///a%20b/y", "dir_info": {"editable": True}}, ["-e", "/a b/y[eval]"]),
    ],
)
def test_hint_names_the_source_of_the_installation(
    origin: Any, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, origin, REPOSITORY)
    assert shlex.split(install_hint("eval")) == [*PIP, *arguments]


@pytest.mark.parametrize(
    ("headers", "requirement"),
    [
        (REPOSITORY, "hf-lorameta[gguf] @ git+https://x.org/y"),
        ("Project-URL: Homepage, https://x.org\n", "hf-lorameta[gguf]"),
        ("", "hf-lorameta[gguf]"),
    ],
)
def test_hint_without_a_recorded_source_uses_the_metadata(
    headers: str, requirement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, headers=headers)
    assert shlex.split(install_hint("gguf")) == [*PIP, requirement]


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert shlex.split(install_hint("dask")) == [*PIP, "hf-lorameta[dask]"]
    assert remote_requirement("dask") is None


@pytest.mark.parametrize("headers", [REPOSITORY, ""])
@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ({"url": "https://x.org/z.git", "vcs_info": COMMIT}, "git+https://x.org/z.git@c0ffee"),
        ({"url": "file:///z", "dir_info": {"editable": True}}, None),
        ({"url": "file:///z.whl", "archive_info": {}}, None),
        ({"url": "file:///z", "vcs_info": COMMIT}, None),
        (None, None),
    ],
)
def test_another_machine_installs_from_a_url_or_not_at_all(
    origin: Any, url: str | None, headers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, origin, headers)
    url = url or ("git+https://x.org/y" if headers else None)
    assert remote_requirement("eval") == (url and f"hf-lorameta[eval] @ {url}")


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@x.org/y.zip",
        "https://secret@x.org/y.zip",
        "https://git:secret@x.org/y.zip",
        "https://x.org/y.zip?token=secret",
    ],
)
def test_hint_contains_no_credentials(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, {"url": url, "archive_info": {}})
    assert shlex.split(install_hint("eval"))[-1] == "hf-lorameta[eval] @ https://x.org/y.zip"


@pytest.mark.parametrize(
    ("found", "command"),
    [(object(), "'/a b/python' -m pip install"), (None, "uv pip install --python '/a b/python'")],
)
def test_hint_uses_uv_where_pip_is_missing(
    found: object, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PathFinder, "find_spec", lambda name: found)
    monkeypatch.setattr(sys, "executable", "/a b/python")
    assert pip_install("--no-deps", "x") == f"{command} --no-deps x"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 3), ("max 100000", 3), ("", 3)],
)
def test_a_container_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr(environment, "_CPU_LIMIT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == expected
