"""Files and names for running an adapter's GGUF with llama.cpp or Ollama."""

from hf_lorameta.data.prompt import PROMPT

GGUF_FILE = "adapter.gguf"
MODELFILE = "Modelfile"
BASE_FILE = "base.gguf"
"""The name that the commands use for a GGUF of the base model, which the user supplies."""


def render_modelfile(base_model: str, template: str | None = None) -> str:
    """Return an Ollama ``Modelfile`` that passes prompts on as the adapter's recipe has them.

    Args:
        base_model: of the adapter.
        template: of its prompts. Only one with ``{prompt}`` is used, see
            `hf_lorameta.data.chat_form`; otherwise prompts are passed on as they are.

    Example:
        >>> print(render_modelfile("org/base"))  # doctest: +ELLIPSIS
        # base.gguf is a GGUF of org/base; any quantization will do.
        FROM ./base.gguf
        ADAPTER ./adapter.gguf
        TEMPLATE \"""{{ .Prompt }}\"""
        ...
    """
    name = " ".join(base_model.split())
    around = template if template and PROMPT in template and '"""' not in template else PROMPT
    shown = around.replace(PROMPT, "{{ .Prompt }}")
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
