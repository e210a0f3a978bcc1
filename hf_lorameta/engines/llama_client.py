"""llama.cpp as an engine: a base model in GGUF with LoRA adapters, on a CPU, without torch.

Requests carry a random key, so that no other process can use the server.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from hf_lorameta.engines import llama_server
from hf_lorameta.engines.llama_server import BINARY, LoadError, ServerOptions
from hf_lorameta.engines.scoring import Tokens, prompt_text, row_text
from hf_lorameta.errors import AdapterError, LoraMetaError, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata
from hf_lorameta.types import Row

_FORCING_BIAS = 1e9  # a logit bias with which a token is certain to be sampled
_TOP_TOKENS = 500  # likeliest ones listed at first, if a token's probability is not reported
_UPDATE = f"update {BINARY} on the PATH: before 2026 it crashed with several adapters"
"""https://github.com/ggml-org/llama.cpp/issues/18466"""

ActiveAdapters = int | Sequence[float] | None
"""Index of the only active adapter, or the scale of each; None is the base model."""


class LlamaCpp:
    """A base model in llama.cpp, with adapters that each call activates.

    Args:
        base: GGUF in any quantization.
        adapters: GGUF LoRA adapters for it; calls name them by their index in this sequence.
        context: maximum tokens of prompt and answer together.
        exact: keep keys and values in float32, without flash attention, to compare numbers with
            another engine.

    Raises:
        MissingExtraError: llama.cpp is not installed.
        NotFoundError: a file is missing or not a GGUF.
        UsageError: llama.cpp cannot load the base model.
        AdapterError: an adapter is for another architecture, or does not fit the base model.
    """

    def __init__(
        self, base: Path, adapters: Sequence[Path] = (), *, context: int = 2048, exact: bool = False
    ) -> None:
        metadata = _check_files(base, adapters)
        options = ServerOptions(base, adapters, context, exact, secrets.token_hex(16))
        try:
            self._server = _start(options)
        except LoadError as error:
            raise _explain(options, error) from None
        self._adapters = len(adapters)
        self.context = context
        self._client = httpx2.Client(
            base_url=self._server.address,
            headers={"Authorization": f"Bearer {options.key}"},
            timeout=llama_server.TIMEOUT,
            limits=httpx2.Limits(max_keepalive_connections=0),  # the server drops idle ones
            trust_env=False,  # no proxy for loopback
        )
        self.end: int = metadata.get("tokenizer.ggml.eos_token_id", 0)
        """Token that ends an answer."""
        self.first: list[int] = [metadata.get("tokenizer.ggml.bos_token_id", self.end)]
        """Tokens that replace an empty prompt."""
        names = metadata.get("tokenizer.ggml.tokens", ())
        self._vocabulary = len(names)
        self._start_text: str = names[self.first[0]] if names else ""
        self._has_chat_template = "tokenizer.chat_template" in metadata
        try:
            self.start: list[int] = self.tokenize("", special=True)
            """Tokens that the tokenizer prepends to a text, possibly none."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free its memory."""
        self._client.close()
        self._server.close()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text, with the tokenizer's special tokens if `special`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.ChatModel.chat_prompt`."""
        if not self._has_chat_template:
            return None
        messages = [{"role": "user", "content": text}]
        prompt: str = self._post("/apply-template", {"messages": messages})["prompt"]
        # the start token is prepended to every prompt
        return prompt.removeprefix(self._start_text) if self.start else prompt

    def logprobs(
        self, prompt: Sequence[int], output: Sequence[int], adapters: ActiveAdapters = None
    ) -> list[float]:
        """Return the log-probability of each output token given all tokens before it, in nats.

        Each token is forced in turn, and its probability before forcing is read. The server caches
        the tokens before it, so each costs one step. The prompt has at least one token.

        Raises:
            LoraMetaError: the server failed.
        """
        scores, context = [], list(prompt)
        for token in output:
            score = self._logprob(context, token, token, 1, adapters)
            for top in (_TOP_TOKENS, self._vocabulary):
                # not reported for a token that ends within a character: read it from a list
                if score is None:
                    score = self._logprob(context, token, self.end, top, adapters)
            if score is None:
                raise LoraMetaError(
                    f"this {BINARY} reports no log-probability of token {token}",
                    hint="install llama.cpp b4600 or newer",
                )
            scores.append(min(score, 0.0))
            context.append(token)
        return scores

    def _logprob(
        self, context: list[int], token: int, forced: int, top: int, adapters: ActiveAdapters
    ) -> float | None:
        """Log-probability of a token if it is the forced one or among the `top` likeliest."""
        settings = {"n_predict": 1, "n_probs": top, "logit_bias": [[forced, _FORCING_BIAS]]}
        answer = self._post("/completion", self._completion(context, adapters) | settings)
        for sampled in answer.get("completion_probabilities", ())[:1]:
            for candidate in (sampled, *sampled.get("top_logprobs", ())):
                if candidate.get("id") == token and "logprob" in candidate:
                    return float(candidate["logprob"])
        return None

    def answer(
        self, prompt: Sequence[int], adapters: ActiveAdapters = None, *, max_tokens: int = 64
    ) -> Iterator[str]:
        """Continue a prompt greedily; yield the text piece by piece until the end token.

        Raises:
            LoraMetaError: the server failed.
        """
        settings = {"n_predict": max_tokens, "stream": True}
        body = self._completion(prompt, adapters) | settings
        with _map_errors(), self._client.stream("POST", "/completion", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise _status_error(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: ")).get("content", "")

    def _completion(self, prompt: Sequence[int], adapters: ActiveAdapters) -> dict[str, Any]:
        if adapters is None or isinstance(adapters, int):
            adapters = [float(index == adapters) for index in range(self._adapters)]
        scales = [{"id": index, "scale": scale} for index, scale in enumerate(adapters)]
        return {"prompt": list(prompt), "temperature": 0, "cache_prompt": True, "lora": scales}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with _map_errors():
            response = self._client.post(path, json=body)
        if response.status_code != 200:
            raise _status_error(response)
        return response.json()


def encode_row(engine: LlamaCpp, row: Row, shots: Sequence[Row] = ()) -> Tokens:
    """Return a row, with few-shot examples before its prompt, as token ids, not truncated."""
    prompt = prompt_text(row[0], shots)
    text = engine.tokenize(row_text(prompt, row[1]))
    return Tokens.split(engine.tokenize(prompt), text, engine.start, engine.first, engine.end)


def fit_context(engine: LlamaCpp, row: Tokens) -> Tokens:
    """Truncate a row's prompt from the left so that the row fits the engine's context.

    Raises:
        UsageError: the output alone does not fit it.
    """
    limit = engine.context - len(engine.start)
    if len(row.output) >= limit:
        raise UsageError(
            f"a row's output has {len(row.output)} tokens, expected fewer than {limit}: prompt and "
            "output must fit llama.cpp's context",
            hint="leave out rows with such long outputs, or use --engine transformers",
        )
    return row.truncated(engine.context, engine.start)


@contextmanager
def _map_errors() -> Iterator[None]:
    """Raise the HTTP client's exceptions as `LoraMetaError`."""
    try:
        yield
    except httpx2.HTTPError as error:
        raise LoraMetaError(
            f"llama.cpp stopped answering ({type(error).__name__})",
            hint=f"if memory is short, retry with a smaller base model; or {_UPDATE}",
        ) from None


def _status_error(response: httpx2.Response) -> LoraMetaError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    return LoraMetaError(f"llama.cpp answered {response.status_code}: {message[:300]}")


def _check_files(base: Path, adapters: Sequence[Path]) -> dict[str, Any]:
    """Check what the files contain; return the metadata of the base model."""
    metadata = read_metadata(base)
    architecture = metadata.get("general.architecture")
    if metadata.get("general.type", "model") != "model":
        raise UsageError(f"{base} is not a model but {metadata['general.type']!r}")
    for path in adapters:
        own = read_metadata(path)
        if own.get("adapter.type") != "lora":
            raise AdapterError(f"{path} is not a GGUF LoRA adapter")
        if own.get("general.architecture") != architecture:
            raise AdapterError(
                f"{path} is for {own.get('general.architecture')}, {base} is {architecture}"
            )
    return metadata


def _explain(options: ServerOptions, error: LoadError) -> LoraMetaError:
    """Blame the adapters if the base model loads without them, else the base model."""
    base, count = options.base, len(options.adapters)
    reason = f": {error}" if str(error) else ""
    if count and _loads(options._replace(adapters=(), exact=False)):
        adapters = "the adapter" if count == 1 else f"these {count} adapters"
        return AdapterError(
            f"llama.cpp loads {base}, but not with {adapters}{reason}",
            hint=f"{_UPDATE}; or free some memory"
            if error.crashed
            else "check that the adapters are for this base model",
        )
    return UsageError(f"llama.cpp cannot load {base}{reason}", hint="name another with --base-gguf")


def _loads(options: ServerOptions) -> bool:
    try:
        _start(options).close()
    except LoadError:
        return False
    return True


def _start(options: ServerOptions) -> llama_server.Server:
    with _map_errors():
        return llama_server.start_server(options)
