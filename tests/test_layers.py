"""One direction of flow: what each room may import. Change this table and `design` together."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_lorameta"

# room: (rooms, packages it may import, and what it may import inside functions only)
ROOMS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "errors": (set(), set(), set()),
    "manifest": ({"errors"}, {"pydantic", "yaml"}, set()),
    "recipe": ({"errors"}, {"pydantic"}, set()),
    "profile": ({"errors"}, {"numpy"}, set()),
    "adapter": ({"errors"}, {"numpy", "ml_dtypes"}, set()),
    "bank": (
        {"adapter", "errors", "manifest", "pack", "profile", "stamps"},
        {"numpy", "pydantic", "safetensors"},
        {"tokenizers", "library"},
    ),
    "averaging": ({"adapter"}, {"numpy"}, set()),
    "stamps": ({"adapter"}, set(), set()),
    "pack": ({"adapter", "errors"}, {"numpy", "pydantic"}, set()),
    "packing": (
        {"adapter", "bank", "errors", "pack"},
        {"filelock", "numpy", "threadpoolctl"},
        set(),
    ),
    "building": (
        {"adapter", "bank", "errors", "manifest", "profile"},
        {"filelock", "numpy", "safetensors"},
        set(),
    ),
    "distance": ({"errors", "profile", "sparse"}, {"numpy"}, set()),
    "sparse": ({"profile"}, {"numpy"}, set()),
    "coefficients": ({"errors"}, {"numpy"}, set()),
    "combine": ({"errors"}, {"numpy"}, set()),
    "fit": ({"coefficients", "errors"}, {"numpy"}, {"torch"}),
    "gguf_export": ({"adapter", "errors"}, {"numpy"}, {"gguf"}),
    "serving": (set(), set(), set()),
    "markdown": (set(), set(), set()),
    "facts": ({"errors", "markdown", "recipe", "refine"}, set(), set()),
    "licences": ({"facts", "markdown"}, set(), set()),
    "picture": ({"facts", "markdown"}, set(), set()),
    "card": (
        {"facts", "licences", "markdown", "picture", "serving"}, {"huggingface_hub"}, set(),
    ),
    "card_scores": ({"errors", "facts", "markdown"}, {"huggingface_hub", "yaml"}, set()),
    "map": ({"bank", "distance", "errors"}, {"numpy"}, set()),
    "hub_errors": ({"errors"}, {"huggingface_hub", "httpx2"}, {"datasets"}),
    "hub": ({"errors", "hub_errors"}, {"huggingface_hub", "httpx2"}, {"datasets", ""}),
    "dataset": ({"errors", "hub", "hub_errors", "manifest", "profile"}, set(), {"datasets"}),
    "planning": (
        {"bank", "calibration", "coefficients", "dataset", "distance", "errors", "facts",
         "profile", "recipe", "refine"},
        {"numpy"},
        {""},
    ),
    "generation": (
        {"adapter", "averaging", "bank", "card", "combine", "dataset", "errors", "gguf_export",
         "picture", "planning", "recipe", "refine", "serving"},
        {"numpy", "threadpoolctl"},
        {"base_model", "publish", "tuning"},
    ),
    "publish": (
        {"adapter", "card", "card_scores", "errors", "generation", "hub"}, set(), {"base_model"},
    ),
    "library": (
        {"adapter", "bank", "building", "calibration", "dataset", "distance", "errors",
         "facts", "fit", "generation", "hub", "manifest", "profile", "recipe"},
        {"numpy"},
        {"base_model", "distributed", "evaluate", "probe"},
    ),
    "gguf_file": ({"errors"}, set(), set()),
    "space_build": ({"errors", "hub"}, {"huggingface_hub"}, {"bank", ""}),
    "base_model": (
        {"errors", "gguf_file"},
        {"filelock", "httpx2", "huggingface_hub"},
        {"tokenizers", "torch", "transformers"},
    ),
    "scores": ({"base_model", "errors", "profile"}, set(), {"rouge_score"}),
    "forward": ({"scores"}, set(), {"torch"}),
    "calibration": (
        {"bank", "coefficients", "errors", "mixture", "profile", "recipe", "refine"},
        {"numpy"},
        set(),
    ),
    "tuning": (
        {"adapter", "bank", "base_model", "dataset", "errors", "evaluate", "generation",
         "mixture", "planning", "probe", "profile", "recipe", "refine"},
        {"numpy"},
        set(),
    ),
    "probe": (
        {"adapter", "errors", "evaluate", "forward", "profile", "scores"},
        {"numpy"},
        {"mixture", "refine", "torch"},
    ),
    "loss_model": (set(), {"numpy"}, {"scipy"}),
    "refine": (
        {"adapter", "directions", "errors", "loss_model", "mixture", "profile", "scores"},
        {"numpy"},
        set(),
    ),
    "mixture": ({"adapter", "bank", "pack"}, {"numpy"}, set()),
    "directions": (set(), {"numpy"}, set()),
    "evaluate": (
        {"adapter", "base_model", "errors", "forward", "profile", "scores"},
        set(),
        {"peft", "psutil", "safetensors", "torch", "transformers"},
    ),
    "llama_cpp": ({"errors", "gguf_file"}, {"httpx2"}, {"xllamacpp"}),
    "llama_cpp_probe": (
        {"adapter", "base_model", "combine", "errors", "gguf_export", "gguf_file", "llama_cpp",
         "llama_cpp_eval", "profile", "refine", "scores"},
        {"numpy"},
        set(),
    ),
    "llama_cpp_eval": (
        {"adapter", "base_model", "errors", "gguf_export", "gguf_file", "llama_cpp", "profile",
         "scores"},
        set(),
        set(),
    ),
}  # fmt: skip


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(at import time, inside functions): own rooms by their names, other packages by theirs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside |= set(ast.walk(node)) - {node}
    found: tuple[set[str], set[str]] = (set(), set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "hf_lorameta":
            names = {f"hf_lorameta.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = {str(node.module)}
        else:
            continue
        found[node in inside].update(map(_room, names))
    return found


def _room(name: str) -> str:
    parts = name.removeprefix("hf_lorameta.").split(".")
    return "" if parts[0] == "__version__" else parts[0]


def _is_standard(name: str) -> bool:
    import sys

    return name in sys.stdlib_module_names


def test_every_room_is_in_the_table() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    own, packages, lazy = ROOMS[room]
    early, late = imports(PACKAGE / f"{room}.py")
    assert {n for n in early if not _is_standard(n)} <= own | packages
    assert {n for n in late if not _is_standard(n)} <= own | packages | lazy


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("localhub/*.py")), ids=lambda p: p.stem)
def test_the_loopback_hub_shares_nothing_with_its_clients(path: Path) -> None:
    early, late = imports(path)
    allowed = {"errors", "localhub", "starlette", "uvicorn", "yaml", "h11"}
    assert {n for n in early | late if not _is_standard(n)} <= allowed


SPACE = PACKAGE.parent / "space"


@pytest.mark.parametrize("path", sorted(SPACE.glob("*.py")), ids=lambda p: p.stem)
def test_the_space_uses_public_names_only(path: Path) -> None:
    import hf_lorameta

    pages = {page.stem for page in SPACE.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = str(node.module).split(".")[0]
            if package == "hf_lorameta":
                assert node.module == "hf_lorameta"
                assert {alias.name for alias in node.names} <= set(hf_lorameta.__all__)
            allowed = {"gradio", "hf_lorameta", "numpy", "starlette"} | pages
            assert package in allowed or _is_standard(package), package
        elif isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names} - {"gradio", "numpy"}
            assert all(_is_standard(n) or n in pages | {"spaces"} for n in names), names
