"""llama.cpp as an engine: a base model in GGUF with LoRA adapters, on a CPU, without torch.

Its server runs on loopback: ``llama-server`` on the PATH, or else the one in the package xllamacpp.
Both speak the protocol of
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md. Requests carry a random
key, so that no other process can use the server.
"""

import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx2

from hf_lorameta.environment import install_hint
from hf_lorameta.errors import (
    AdapterError,
    LoraMetaError,
    MissingExtraError,
    Option,
    UsageError,
)
from hf_lorameta.formats.gguf_metadata import read_metadata

BINARY = "llama-server"
TIMEOUT = 600.0
"""Seconds to wait for an answer of a server, and for its start."""
_FORCING_BIAS = 1e9  # a logit bias with which a token is certain to be sampled
_TOP_TOKENS = 500  # likeliest ones listed at first, if a token's probability is not reported
_UPDATE = f"update {BINARY} on the PATH: before 2026 it crashed with several adapters"
"""https://github.com/ggml-org/llama.cpp/issues/18466"""


def available() -> bool:
    """Whether llama.cpp's binary or the package xllamacpp is installed."""
    return shutil.which(BINARY) is not None or importlib.util.find_spec("xllamacpp") is not None


def require_llama_cpp() -> None:
    """Raise `MissingExtraError` unless llama.cpp's binary or the package xllamacpp is installed."""
    if not available():
        raise MissingExtraError(
            f"neither {BINARY} nor the package xllamacpp is installed", hint=install_hint("gguf")
        )


class LoadError(Exception):
    """The server did not start, usually because it could not load a file.

    Attributes:
        crashed: whether its process was killed by a signal or exited with an unusual code.
    """

    def __init__(self, message: str = "", crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed


class ServerOptions(NamedTuple):
    """Arguments of `LlamaCpp`, and the API key of the server."""

    base: Path
    adapters: Sequence[Path]
    context: int
    exact: bool
    key: str


class Server(Protocol):
    """A running server."""

    address: str

    def close(self) -> None:
        """Stop the server and free its memory."""


def start_server(options: ServerOptions) -> Server:
    """Start the binary on the PATH, or else the server in xllamacpp.

    Raises:
        MissingExtraError: neither is installed.
        LoadError: the server did not start.
    """
    require_llama_cpp()
    if path := shutil.which(BINARY):
        return _BinaryServer(path, options)
    return _EmbeddedServer(options)


class _EmbeddedServer:
    """The server in the package xllamacpp, in this process."""

    def __init__(self, options: ServerOptions) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(options.base)
        params.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in options.adapters
        ]
        params.n_ctx, params.n_parallel = options.context, 1
        params.api_keys, params.hostnames, params.port = [options.key], ["127.0.0.1"], 0
        params.verbosity, params.warmup, params.ui, params.offline = -1, False, False, True
        params.cache_ram_mib, params.fit_params = 0, False
        threads = int(os.environ.get("LLAMA_ARG_THREADS", "0"))  # as the binary reads it
        if threads > 0:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if options.exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = off
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError:
            raise LoadError from None  # its message gives no reason
        self.address = str(self._server.listening_address)
        # a server that is closed before its loop runs never ends: wait for an answer
        headers = {"Authorization": f"Bearer {options.key}"}
        url = f"{self.address}/lora-adapters"
        httpx2.get(url, headers=headers, timeout=TIMEOUT, trust_env=False)

    def close(self) -> None:
        self._server = None


class _BinaryServer:
    """The binary ``llama-server`` as a child process."""

    def __init__(self, path: str, options: ServerOptions) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        command = [path, "--model", str(options.base), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--ctx-size", str(options.context), "--parallel", "1", "--no-warmup"]
        for adapter in options.adapters:
            command += ["--lora", str(adapter)]
        if options.exact:
            command += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        self.address = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LLAMA_API_KEY": options.key},
        )
        try:
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def _wait_until_loaded(self) -> None:
        """Wait for ``/health`` to answer 200; it answers 503 while the model is loading."""
        deadline = time.monotonic() + TIMEOUT
        with httpx2.Client(base_url=self.address, trust_env=False) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    if client.get("/health").status_code == 200:
                        return
                except httpx2.HTTPError:
                    pass  # not listening yet
                time.sleep(0.1)
        crashed = self._process.poll() not in (None, 0, 1)
        raise LoadError(self._last_error(), crashed)

    def _last_error(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        errors = [line.strip() for line in lines if re.search("error|assert", line, re.IGNORECASE)]
        return errors[-1][:300] if errors else ""

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class LlamaCpp:
    """A base model in llama.cpp, with adapters of which each call activates one or none.

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
            timeout=TIMEOUT,
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
        """See `hf_lorameta.engines.scoring.Evaluator.chat_prompt`."""
        if not self._has_chat_template:
            return None
        messages = [{"role": "user", "content": text}]
        prompt: str = self._post("/apply-template", {"messages": messages})["prompt"]
        # the start token is prepended to every prompt
        return prompt.removeprefix(self._start_text) if self.start else prompt

    def logprobs(
        self, prompt: Sequence[int], output: Sequence[int], adapter: int | None = None
    ) -> list[float]:
        """Return the log-probability of each output token given all tokens before it, in nats.

        Each token is forced in turn, and its probability before forcing is read. The server caches
        the tokens before it, so each costs one step. The prompt has at least one token.

        Raises:
            LoraMetaError: the server failed.
        """
        scores, context = [], list(prompt)
        for token in output:
            score = self._logprob(context, token, token, 1, adapter)
            for top in (_TOP_TOKENS, self._vocabulary):
                # not reported for a token that ends within a character: read it from a list
                if score is None:
                    score = self._logprob(context, token, self.end, top, adapter)
            if score is None:
                raise LoraMetaError(
                    f"this {BINARY} reports no log-probability of token {token}",
                    hint="install llama.cpp b4600 or newer",
                )
            scores.append(min(score, 0.0))
            context.append(token)
        return scores

    def _logprob(
        self, context: list[int], token: int, forced: int, top: int, adapter: int | None
    ) -> float | None:
        """Log-probability of a token if it is the forced one or among the `top` likeliest."""
        settings = {"n_predict": 1, "n_probs": top, "logit_bias": [[forced, _FORCING_BIAS]]}
        answer = self._post("/completion", self._completion(context, adapter) | settings)
        for sampled in answer.get("completion_probabilities", ())[:1]:
            for candidate in (sampled, *sampled.get("top_logprobs", ())):
                if candidate.get("id") == token and "logprob" in candidate:
                    return float(candidate["logprob"])
        return None

    def answer(
        self, prompt: Sequence[int], adapter: int | None = None, *, max_tokens: int = 64
    ) -> Iterator[str]:
        """Continue a prompt greedily; yield the text piece by piece until the end token.

        Raises:
            LoraMetaError: the server failed.
        """
        settings = {"n_predict": max_tokens, "stream": True}
        body = self._completion(prompt, adapter) | settings
        with _map_errors(), self._client.stream("POST", "/completion", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise _status_error(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: ")).get("content", "")

    def _completion(self, prompt: Sequence[int], adapter: int | None) -> dict[str, Any]:
        scales = [{"id": i, "scale": float(i == adapter)} for i in range(self._adapters)]
        return {"prompt": list(prompt), "temperature": 0, "cache_prompt": True, "lora": scales}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with _map_errors():
            response = self._client.post(path, json=body)
        if response.status_code != 200:
            raise _status_error(response)
        return response.json()


@contextmanager
def _map_errors() -> Iterator[None]:
    """Raise the HTTP client's exceptions as `LoraMetaError`."""
    try:
        yield
    except httpx2.HTTPError:
        raise LoraMetaError(
            "llama.cpp stopped answering",
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
    return UsageError(
        f"llama.cpp cannot load {base}{reason}", hint=Option("base", change="name another")
    )


def _loads(options: ServerOptions) -> bool:
    try:
        _start(options).close()
    except LoadError:
        return False
    return True


def _start(options: ServerOptions) -> Server:
    with _map_errors():
        return start_server(options)
