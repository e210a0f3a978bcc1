"""``hf extensions install`` can install a zip of the tracked files, without torch."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def _tracked_zip(target: Path) -> None:
    """Write a zip like GitHub's: tracked files in one folder, no git metadata."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with zipfile.ZipFile(target, "w") as archive:
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                archive.write(ROOT / name, f"hf-lorameta-main/{name}")


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout to list its files")
def test_a_zip_of_the_repo_installs_and_runs(tmp_path: Path) -> None:
    _tracked_zip(tmp_path / "main.zip")
    home = tmp_path / "home"
    target = home / ".local/share/hf/extensions/hf-lorameta/venv"  # as the `hf` client does
    venv.create(target, symlinks=True)
    python = str(target / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    pip += ["--disable-pip-version-check", "--no-compile", str(tmp_path / "main.zip")]
    subprocess.run(pip, check=True, timeout=300)
    _link_dependencies(Path(next(target.glob("lib/*/site-packages"))))
    env = {**os.environ, "HOME": str(home), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    env.pop("PYTHONPATH", None)
    _plan_through_hf(target, env)


def _link_dependencies(site_packages: Path) -> None:
    """Link the installed dependencies, which are without torch, with their dependencies."""
    found, seen, asked = dict[str, Any](), set[str](), [Requirement("hf-lorameta")]
    while asked:
        one = asked.pop()
        name, extras = canonicalize_name(one.name), {"", *one.extras}
        if f"{name} {extras}" in seen:
            continue
        seen.add(f"{name} {extras}")
        found[name] = importlib.metadata.distribution(name)
        for needed in map(Requirement, found[name].requires or ()):
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                asked.append(needed)
    assert "datasets" in found
    assert "torch" not in found
    tops = {
        path.parts[0]
        for name, distribution in found.items()
        if name != "hf-lorameta"
        for path in distribution.files or ()
        if path.parts[0] not in ("..", "__pycache__")
    }
    installed = Path(str(found["datasets"].locate_file("")))
    for top in tops:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(installed / top)


def _plan_through_hf(target: Path, env: dict[str, str]) -> None:
    """Run ``hf lorameta plan``; the embedded bank is installed, too, so it needs nothing else."""
    manifest = {
        "owner": "someone",
        "repo": "hf-lorameta",
        "repo_id": "someone/hf-lorameta",
        "short_name": "lorameta",
        "executable_path": str(target / "bin/hf-lorameta"),
        "type": "python",
        "installed_at": "2026-01-01T00:00:00",
    }
    (target.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    data = ROOT / "hf_lorameta/demo/data/test.jsonl"
    command = [str(Path(sys.executable).with_name("hf")), "lorameta", "plan", "-d", str(data)]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert out.returncode == 0, out.stderr
    assert "general adapter of the bank" in out.stdout
