"""The error tree: it matches its docstring, one exit code a branch, and errors can be pickled."""

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_lorameta
from hf_lorameta import errors
from hf_lorameta.data.reading import Reading
from hf_lorameta.errors import LoraMetaError, Option, UsageError


def tree(root: type[LoraMetaError] = LoraMetaError) -> list[type[LoraMetaError]]:
    """Return the errors of the module; tests define others elsewhere."""
    children = [c for c in root.__subclasses__() if c.__module__ == errors.__name__]
    return [root, *(error for child in children for error in tree(child))]


def tree_in_docstring() -> dict[str, tuple[int, int | None]]:
    """Return (depth, exit code) by name, as in the module's docstring."""
    lines = re.findall(
        r"^ {4}([│├└─ ]*)([A-Z]\w+Error)(?: +exit (\d))?", errors.__doc__ or "", re.MULTILINE
    )
    return {name: (len(rule) // 4, int(code) if code else None) for rule, name, code in lines}


def test_docstring_shows_the_complete_tree() -> None:
    shown = tree_in_docstring()
    assert set(shown) == {error.__name__ for error in tree()}
    for error in tree():
        depth, code = shown[error.__name__]
        assert depth == len(error.__mro__) - len(LoraMetaError.__mro__)
        assert code in (None, error.exit_code)


def test_each_branch_has_its_own_exit_code() -> None:
    branches: list[type[LoraMetaError]] = [LoraMetaError, *LoraMetaError.__subclasses__()]
    branches = [b for b in branches if b.__module__ == errors.__name__]
    codes = [b.exit_code for b in branches]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6, 7]
    for branch in branches[1:]:
        assert {error.exit_code for error in tree(branch)} == {branch.exit_code}


@pytest.mark.parametrize("kind", tree())
def test_errors_keep_code_and_hint_across_processes(kind: type[LoraMetaError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what happened", code="a.b", hint="what to type")))
    assert type(copy) is kind
    assert (str(copy), copy.hint, copy.exit_code) == (
        "what happened",
        "what to type",
        kind.exit_code,
    )
    assert (copy.code, copy.codes) == ("a.b", ("a.b",))
    assert (kind("x").hint, kind("x").code) == ("", kind.code)


# --- advice in Python ---------------------------------------------------------------------------


def options_named() -> Iterator[str]:
    """Yield the names of the options that errors of the package advise."""
    for path in Path(hf_lorameta.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("Option"), args=[ast.Constant(name), *_]):
                    yield str(name)


def arguments() -> Iterator[str]:
    """Yield the arguments of the functions, methods and settings of the public API."""
    yield from Reading.model_fields
    for name in hf_lorameta.__all__:
        public = getattr(hf_lorameta, name)
        yield from getattr(public, "model_fields", ())
        members = inspect.getmembers(public) if inspect.isclass(public) else [(name, public)]
        for _, member in members:
            function = getattr(member, "__func__", member)  # of a class method
            if inspect.isfunction(function):
                yield from inspect.signature(function).parameters


def test_python_is_advised_no_argument_that_it_lacks() -> None:
    missing = set(options_named()) - set(arguments())
    assert missing == errors._NOT_IN_PYTHON
    for name in missing:
        assert not UsageError("x", hint=Option(name)).__notes__
    both = UsageError("x", hint=[Option("general_steps", 1), Option("private", False)])
    assert both.__notes__ == ["add private=False"]
    assert both.hint == "add --general-steps 1, or add --public"
