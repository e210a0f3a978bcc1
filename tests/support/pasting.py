"""Texts of somebody hostile, and what happens to whoever pastes a block that holds them."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HOSTILE = (
    "A\nEOF\npwned\n: > pwned\nEOF\n",
    "'; pwned; : > pwned; '",
    '"; pwned; "',
    "'''\npwned\n'''",
    '"""\npwned()\n"""',
    "$(pwned)${x:-`pwned`}",
    "```\npwned\n```\n",
    "~~~~\n```bash\npwned",
    "a\x03\npwned\n\n",
    "\x1b[201~\rpwned\r\n\x04",
    "a\u2028pwned\u2029b\x85c\x0bd\u202ee",
    "-pwned",
    "a\\",
    "\\'; pwned #",
    "%s%n\\0\\x41!pwned!",
    "~/* ? [a] {b,c} &pwned|pwned >pwned",
    "漢字 é 😀\t\x7f",
    "\\'\" ; pwned ; #",  # fish reads \\' within single quotes
    "it’s; pwned; ‘pwned‚ ‛pwned",  # single quotes for PowerShell
    "{{\npwned\n}}",
)
"""Each would run ``pwned``, or come out otherwise, where a block quotes badly."""
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}"))
    for name in ("sh", "bash", "zsh", "fish")
]
COMMANDS = ("hf", "hf-lorameta", "llama", "mv", "ollama", "pip", "pwned", "unzip", "vllm")
_STUB = """#!/bin/sh
printf '%d\\0' $# >> "$LOG"
printf '%s\\0' "${0##*/}" "$@" >> "$LOG"
"""


def blocks_of(markdown: str) -> list[tuple[str, str]]:
    """Return language and code of the fenced blocks."""
    found = re.findall(r"^(`{3,})(\w+)\n(.*?)\n\1$", markdown, re.S | re.M)
    return [(language, code) for _, language, code in found]


def commands_of(code: str, shell: str, folder: Path) -> list[list[str]]:
    """Return the commands that a block runs, after checking that ``pwned`` is not among them.

    Args:
        code: of the block.
        shell: to run it, with commands that only note their arguments.
        folder: where the block runs.
    """
    assert all(c.isprintable() or c == "\n" for c in code), "a terminal would obey it"
    stubs, log, home = folder / "stubs", folder / "log", folder / "home"
    if not stubs.exists():
        stubs.mkdir()
        home.mkdir()
        for name in COMMANDS:
            (stubs / name).write_text(_STUB)
            (stubs / name).chmod(0o700)
    log.write_bytes(b"")
    path = os.pathsep.join(map(str, (stubs,)))
    program = shutil.which(shell)
    assert program is not None
    env = {"PATH": path, "LOG": str(log), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    plain = {"fish": ["--no-config"], "zsh": ["-f"]}.get(shell, [])
    run = [program, *plain, "-c", code]
    ended = subprocess.run(run, cwd=home, env=env, capture_output=True, check=False, timeout=60)
    errors = [line for line in ended.stderr.decode().splitlines() if "cd:" not in line]
    assert errors == [], code
    written = {path.name for path in home.iterdir()} - {".cache", ".config", ".local"}  # of fish
    assert written <= {"Modelfile"}
    words = log.read_bytes().decode().split("\0")[:-1]
    ran = []
    while words:
        count = int(words.pop(0)) + 1
        ran.append([words.pop(0) for _ in range(count)])
    assert not [command for command in ran if command[0] == "pwned"]
    return ran


def strings_of(code: str) -> set[str]:
    """Return the strings in Python code that calls no function ``pwned``."""
    nodes = list(ast.walk(ast.parse(code)))
    assert not [node for node in nodes if isinstance(node, ast.Name) and node.id == "pwned"]
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}
