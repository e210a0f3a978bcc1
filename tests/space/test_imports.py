"""The Space needs nothing but its requirements; its modules have layers and no import cycle."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.running_space import SPACE

MODULES = {
    ".".join(path.relative_to(SPACE).with_suffix("").parts): path
    for path in sorted(SPACE.rglob("*.py"))
    if path.stem != "__init__"
}
OWN = {name.split(".")[0] for name in MODULES}
LAYERS = ("visitors", "work", "views", "forms")
"""The packages of the Space, the lowest first; the other modules are above them."""
PACKAGES = {"gradio", "hf_lorameta", "jinja2", "markupsafe", "numpy", "pydantic", "starlette"}
PACKAGES |= {*OWN, *sys.stdlib_module_names}


def imports(path: Path) -> set[str]:
    """Return the imported modules, of all imports including lazy and type-checking ones."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            modules.add(str(node.module))
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_space_installs(module: str) -> None:
    assert {name.split(".")[0] for name in imports(MODULES[module])} <= PACKAGES


def test_the_modules_import_each_other_without_a_cycle() -> None:
    graph = {module: imports(path) & MODULES.keys() for module, path in MODULES.items()}
    assert graph["page"] > {"components", "dataset_actions"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_those_below_it(layer: str) -> None:
    inside = [path for name, path in MODULES.items() if name.startswith(f"{layer}.")]
    imported = set().union(*map(imports, inside)) & MODULES.keys()
    below = {"settings", "space_error", *LAYERS[: LAYERS.index(layer) + 1]}
    assert {name.split(".")[0] for name in imported} <= below
