"""``hf extensions install`` can install a zip of the tracked files, without torch."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _tracked_zip(target: Path) -> None:
    """Write a zip like GitHub's: tracked files in one folder, no git metadata."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                archive.write(ROOT / name, f"hf-lorameta-main/{name}")


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout to list its files")
def test_a_zip_of_the_repo_installs_and_runs(tmp_path: Path) -> None:
    _tracked_zip(tmp_path / "main.zip")
    home = tmp_path / "home"
    venv = home / ".local/share/hf/extensions/hf-lorameta/venv"  # as the `hf` client does
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    started = time.monotonic()
    subprocess.run(
        [
            str(venv / "bin/pip"),
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-compile",
            tmp_path / "main.zip",
        ],
        check=True,
        timeout=300,
    )
    assert time.monotonic() - started < 200
    listed = subprocess.run(
        [str(venv / "bin/pip"), "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.lower()
    assert "torch==" not in listed
    env = {**os.environ, "HOME": str(home), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    out = subprocess.run(
        [str(venv / "bin/hf-lorameta"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    ).stdout
    assert "push" in out
    # the embedded bank is installed too, so a plan needs nothing else
    data = ROOT / "hf_lorameta/demo/data/test.jsonl"
    subprocess.run(
        [str(venv / "bin/hf-lorameta"), "plan", "-q", "--dataset", str(data)], check=True, env=env
    )
    _through_hf(venv, env)


def _through_hf(venv: Path, env: dict[str, str]) -> None:
    manifest = {
        "owner": "someone",
        "repo": "hf-lorameta",
        "repo_id": "someone/hf-lorameta",
        "short_name": "lorameta",
        "executable_path": str(venv / "bin/hf-lorameta"),
        "type": "python",
        "installed_at": "2026-01-01T00:00:00",
    }
    (venv.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    command = [str(venv / "bin/hf"), "lorameta", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert out.returncode == 0, out.stderr
    assert "push" in out.stdout
