"""How people without a GPU run an adapter's GGUF: an Ollama ``Modelfile`` and the card's lines.

Pure text. Names are quoted for the shell or for Python wherever they land.
"""

import json
import shlex

GGUF_FILE = "adapter.gguf"
MODELFILE = "Modelfile"
BASE_FILE = "base.gguf"
"""What the lines call the base model's GGUF, which is the user's to bring."""


def render_modelfile(base_model: str) -> str:
    """An Ollama ``Modelfile``: base, adapter, and prompts passed on as they are.

    Adapters of this package continue plain text, so the chat template of the base is left out.

    Args:
        base_model: id of the base model, for a comment.

    Example:
        >>> print(render_modelfile("org/base"))  # doctest: +ELLIPSIS
        # base.gguf is a GGUF of org/base; any quantization will do.
        FROM ./base.gguf
        ADAPTER ./adapter.gguf
        TEMPLATE \"""{{ .Prompt }}\"""
        ...
    """
    name = " ".join(base_model.split())
    return f'''# {BASE_FILE} is a GGUF of {name}; any quantization will do.
FROM ./{BASE_FILE}
ADAPTER ./{GGUF_FILE}
TEMPLATE """{{{{ .Prompt }}}}"""
PARAMETER temperature 0
PARAMETER num_predict 64
'''


def render_usage(base_model: str, repo_id: str | None) -> str:
    """The card's section on llama.cpp and Ollama.

    Args:
        base_model: id of the base model, as Markdown shows it.
        repo_id: where the adapter is; None for a folder here.

    Returns:
        Markdown, without a line end.
    """
    name = (repo_id or "").rpartition("/")[2] or "my-adapter"
    folder = shlex.quote(name)
    fetch = f"hf download {shlex.quote(repo_id)} --local-dir {folder}\n" if repo_id else ""
    return f"""## On a laptop, without a GPU

`{GGUF_FILE}` is this adapter for llama.cpp and Ollama. They also need a GGUF of the base model \
{base_model}, in any quantization: below it is `{BASE_FILE}`.

```bash
{fetch}cd {folder}
llama-server -m {BASE_FILE} --lora {GGUF_FILE}
```

With Ollama (the `{MODELFILE}` is here too):

```bash
ollama create {shlex.quote(_tag(name))} -f {MODELFILE}
ollama run {shlex.quote(_tag(name))} 'the input of a row'
```

In Python, after `pip install xllamacpp`:

```python
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = {json.dumps(BASE_FILE)}
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo({json.dumps(GGUF_FILE)}, 1.0)]
params.n_ctx = 2048
server = xllamacpp.Server(params)
asked = {{"prompt": "the input of a row", "max_tokens": 64, "temperature": 0}}
print(server.handle_completions(asked)["choices"][0]["text"])
```

Or `hf-lorameta try {shlex.quote(repo_id or "FOLDER")} --base-gguf {BASE_FILE}`."""


def _tag(name: str) -> str:
    """A model name that Ollama takes: lower case, letters, digits, dots, dashes, underscores.

    Example:
        >>> _tag("My-Questions.LoRA")
        'my-questions.lora'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.lower()).strip("._-")
