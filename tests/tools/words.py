"""The words of all errors and remarks, by code, as they stand in the source.

They are kept in one file, which a change of wording rewrites:

    python -m tests.tools.words --write
"""

import ast
import re
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ROOT / "tests" / "words.txt"
EXEMPT = ("hf_lorameta/data/columns/", "hf_lorameta/data/sources/line_layouts.py")
"""Modules where codes are not required yet."""
_CODE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+|{code}")  # {code}: decided with the words


def problems() -> list[str]:
    """Return the places that make an error or a remark without a code, ``file:line``."""
    return [
        f"{path}:{call.lineno}"
        for path, tree, call in _sites()
        if not path.startswith(EXEMPT)
        and not any(map(_CODE.fullmatch, _codes(call, _scope(tree, call))))
    ]


def words() -> str:
    """Return a line for each message, ``code<TAB>message``, sorted; expressions are in braces."""
    lines = set[str]()
    for _, tree, call in _sites():
        scope, position = _scope(tree, call), 0 if _name(call.func).endswith("Error") else 1
        for code in _codes(call, scope):
            lines |= {f"{code}\t{text}" for text in _texts(call.args[position], scope)}
    return "".join(f"{line}\n" for line in sorted(line.replace("\n", "\\n") for line in lines))


def _sites() -> Iterator[tuple[str, ast.Module, ast.Call]]:
    """Yield the calls that make errors or remarks, each with its file and module."""
    files = sorted(path for top in ("hf_lorameta", "space") for path in (ROOT / top).rglob("*.py"))
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_bytes()) for path in files}
    classes = {"LoraMetaError", "Remark"}
    while (
        more := {
            node.name
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and not classes.isdisjoint(map(_name, node.bases))
        }
        - classes
    ):
        classes |= more
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _name(node.func) in classes:
                yield path, tree, node


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", "") or getattr(node, "id", "")


def _codes(call: ast.Call, scope: ast.AST) -> list[str]:
    return [
        code for word in call.keywords if word.arg == "code" for code in _texts(word.value, scope)
    ]


def _scope(tree: ast.Module, call: ast.Call) -> ast.AST:
    """Return the innermost function around a call, or the module."""
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and call in ast.walk(node)
    ]
    return around[-1] if around else tree


def _texts(node: ast.expr, scope: ast.AST) -> list[str]:
    """Return what an expression may be: a variable has each value that is assigned in a scope."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(_part(part) for part in parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a in _texts(left, scope) for b in _texts(right, scope)]
        case ast.IfExp(body=first, orelse=second):
            return [*_texts(first, scope), *_texts(second, scope)]
        case ast.Name(id=name) if values := list(_assigned(name, scope, node.lineno)):
            return [text for value in values for text in _texts(value, ast.Module([], []))]
    return [f"{{{ast.unparse(node)}}}"]


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return str(getattr(node, "value", ""))


def _assigned(name: str, scope: ast.AST, before: int) -> Iterator[ast.expr]:
    """Yield what a variable may be in a line: the last values, up to one that always holds."""
    found: list[tuple[int, bool, ast.expr]] = []
    for node in ast.walk(scope):
        for block in (getattr(node, "body", ()), getattr(node, "orelse", ())):
            for line in block if isinstance(block, list) else ():
                if isinstance(line, ast.Assign) and _name(line.targets[0]) == name:
                    always = any(other.lineno <= before <= other.end_lineno for other in block)
                    found.append((line.lineno, always, line.value))
    for at, always, value in sorted(found, key=itemgetter(0), reverse=True):
        if at < before:
            yield value
            if always:
                return


if __name__ == "__main__":
    if "--write" in sys.argv:
        WORDS.write_text(words(), "utf-8")
    else:
        sys.stdout.write(words())
