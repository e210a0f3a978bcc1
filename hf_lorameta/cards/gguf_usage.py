"""Files and names for running an adapter's GGUF with llama.cpp or Ollama."""

from hf_lorameta.data.columns.columns import Columns

GGUF_FILE = "adapter.gguf"
MODELFILE = "Modelfile"
BASE_FILE = "base.gguf"
"""The name that the commands use for a GGUF of the base model, which the user supplies."""
_FIELD = "{{ .Prompt }}"
"""Where Ollama puts the prompt of a user."""


def render_modelfile(base_model: str, columns: Columns | None = None) -> str:
    """Return an Ollama ``Modelfile`` that puts inputs into prompts as the adapter's recipe does.

    Args:
        base_model: of the adapter.
        columns: of its recipe, see `Columns.prompt_of`; None passes prompts on as they are.

    Example:
        >>> columns = Columns(input="text", instruction_text="Sort.")
        >>> print(render_modelfile("org/base", columns))  # doctest: +ELLIPSIS
        # base.gguf is a GGUF of org/base; any quantization will do.
        FROM ./base.gguf
        ADAPTER ./adapter.gguf
        TEMPLATE \"""Sort.
        <BLANKLINE>
        Input: {{ .Prompt }}
        Output:\"""
        ...
    """
    name = " ".join(base_model.split())
    form = columns.prompt_of("\0") if columns else "\0"
    is_text = not any(mark in f'{form}"""'[:-1] for mark in ("{{", "}}", '"""'))
    shown = form.replace("\0", _FIELD) if is_text else _FIELD
    return f'''# {BASE_FILE} is a GGUF of {name}; any quantization will do.
FROM ./{BASE_FILE}
ADAPTER ./{GGUF_FILE}
TEMPLATE """{shown}"""
PARAMETER temperature 0
PARAMETER num_predict 64
'''


def ollama_name(name: str) -> str:
    """Return a valid model name for Ollama: lower case, with dashes for other characters.

    Example:
        >>> ollama_name("My-Questions.LoRA")
        'my-questions.lora'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower()).strip("._-")
