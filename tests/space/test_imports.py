"""The Space imports only public names of hf_lorameta, and its modules have no import cycle."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_lorameta
from tests.running_space import SPACE

MODULES = {path.stem: path for path in sorted(SPACE.glob("*.py"))}
PACKAGES = {"gradio", "numpy", "starlette", *MODULES, *sys.stdlib_module_names}


def imports(path: Path) -> dict[str, set[str]]:
    """Return the imported names by module, of all imports including lazy and type-checking ones."""
    names_by_module: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names_by_module |= {alias.name: set() for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names_by_module.setdefault(str(node.module), set()).update(
                alias.name for alias in node.names
            )
    return names_by_module


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_public_names_only(module: str) -> None:
    for name, names in imports(MODULES[module]).items():
        if name.split(".")[0] == "hf_lorameta":
            assert name == "hf_lorameta"
            assert names
            assert names <= set(hf_lorameta.__all__)
        else:
            assert name.split(".")[0] in PACKAGES


def test_the_modules_import_each_other_without_a_cycle() -> None:
    graph = {module: imports(path).keys() & MODULES for module, path in MODULES.items()}
    assert graph["page"] > {"components", "dataset_actions"}
    TopologicalSorter(graph).prepare()
