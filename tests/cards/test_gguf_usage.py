"""Commands and Ollama files for an exported adapter."""

import shlex

from hf_lorameta.cards import gguf_usage
from hf_lorameta.data.columns.columns import Columns
from tests.cards.examples import rendered, section


def test_gguf_usage_quotes_names_for_the_shell() -> None:
    name = "a/b'; touch x; '"
    text = rendered(name, gguf=True)
    usage = section(text, "Usage without a GPU")
    for line in usage.splitlines():
        if line.startswith(("hf download", "ollama", "cd ")):
            words = shlex.split(line)
            assert "touch" not in words
            assert ";" not in words
    assert "llama serve -m base.gguf --lora adapter.gguf" in usage
    assert "llama-server -m base.gguf --lora adapter.gguf" in usage
    assert "Usage without a GPU" not in rendered(name)


def test_modelfile_passes_prompts_on_if_their_form_reads_as_a_template() -> None:
    columns = Columns(input="text", template="{{ .System }} {input}")
    assert '\nTEMPLATE """{{ .Prompt }}"""\n' in gguf_usage.render_modelfile("org/x", columns)


def test_modelfile_keeps_the_base_model_name_in_its_comment() -> None:
    assert "\nFROM evil" not in gguf_usage.render_modelfile("org/x\nFROM evil")
