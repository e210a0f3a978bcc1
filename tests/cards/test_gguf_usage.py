"""Commands and Ollama files shown for an exported adapter."""

import shlex

from hf_lorameta.cards import gguf_usage


def test_names_cannot_inject_commands_or_lines() -> None:
    evil = "a/b'; touch x; '"
    for line in gguf_usage.render_usage("base", evil).splitlines():
        if line.startswith(("hf download", "ollama", "cd ")):
            words = shlex.split(line)
            assert "touch" not in words
            assert ";" not in words
    assert "\nFROM evil" not in gguf_usage.render_modelfile("org/x\nFROM evil")
