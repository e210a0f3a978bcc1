"""Start llama.cpp's ``llama-server`` on loopback: the binary on the PATH, or the one in xllamacpp.

Both speak the protocol of
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx2

from hf_lorameta.environment import install_hint
from hf_lorameta.errors import MissingExtraError

BINARY = "llama-server"
TIMEOUT = 600.0
"""Seconds to wait for an answer of a server, and for its start."""


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
    """Arguments of `hf_lorameta.engines.llama_client.LlamaCpp`, and the API key of the server."""

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
