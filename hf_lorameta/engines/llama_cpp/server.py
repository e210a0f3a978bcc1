"""llama.cpp as an engine: a base model in GGUF with LoRA adapters, on a CPU, without torch.

The server in the package xllamacpp runs in this process, on loopback. Its protocol is that of
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md. Requests carry a random
key, so that no other process can use the server.
"""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from hf_lorameta.environment import install_hint, require_extra
from hf_lorameta.errors import LoraMetaError, Option, UsageError
from hf_lorameta.formats.gguf_metadata import read_metadata

TIMEOUT = 600.0
"""Seconds to wait for an answer of the server."""
_FORCING_BIAS = 1e9  # a logit bias with which a token is certain to be sampled
_TOP_TOKENS = 500  # likeliest ones listed at first, if a token's probability is not reported


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
        NotFoundError: the base model is missing or not a GGUF.
        UsageError: llama.cpp cannot load the base model, or not with these adapters.
    """

    def __init__(
        self, base: Path, adapters: Sequence[Path] = (), *, context: int = 2048, exact: bool = False
    ) -> None:
        require_extra("xllamacpp", extra="gguf")
        import xllamacpp

        metadata, key = read_metadata(base), secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(base)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(p), 1.0) for p in adapters]
        params.n_ctx, params.n_parallel = context, 1
        params.api_keys, params.hostnames, params.port = [key], ["127.0.0.1"], 0
        params.verbosity, params.warmup, params.ui, params.offline = -1, False, False, True
        params.cache_ram_mib, params.fit_params = 0, False
        threads = int(os.environ.get("LLAMA_ARG_THREADS", "0"))  # as llama.cpp's commands read it
        if threads > 0:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = off
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError:  # its message gives no reason
            raise UsageError(
                f"llama.cpp cannot load {' with '.join(map(str, (base, *adapters)))}",
                hint=[
                    Option("base", change="name another"),
                    "check that adapters are for this base model, and that memory is free",
                ],
            ) from None
        self._adapters = len(adapters)
        self.context = context
        self._client = httpx2.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT,
            limits=httpx2.Limits(max_keepalive_connections=0),  # the server drops idle ones
            trust_env=False,  # no proxy for loopback
        )
        with _map_errors():  # a server that is closed before its loop answers never ends
            self._client.get("/lora-adapters")
        self.end: int = metadata.get("tokenizer.ggml.eos_token_id", 0)
        """Token that ends an answer."""
        self.first: list[int] = [metadata.get("tokenizer.ggml.bos_token_id", self.end)]
        """Tokens that replace an empty prompt."""
        names = metadata.get("tokenizer.ggml.tokens", ())
        self._vocabulary = len(names)
        self._start_text: str = names[self.first[0]] if names else ""
        self._has_chat_template = "tokenizer.chat_template" in metadata
        self.start: list[int] = self.tokenize("", special=True)
        """Tokens that the tokenizer prepends to a text, possibly none."""

    def close(self) -> None:
        """Stop the server and free its memory."""
        self._client.close()
        self._server = None

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
                    f"llama.cpp reports no log-probability of token {token}",
                    hint=install_hint("gguf"),
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
            hint="if memory is short, retry with a smaller base model",
        ) from None


def _status_error(response: httpx2.Response) -> LoraMetaError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    return LoraMetaError(f"llama.cpp answered {response.status_code}: {message[:300]}")
