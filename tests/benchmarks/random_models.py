"""Random base models of the shapes that people use, made in memory in seconds."""

from typing import Any

import numpy as np

from tests.benchmarks.synthetic_bank import Shape

_POOL = 1 << 24
"""Number of random values, which are repeated: drawing billions would take minutes."""
_SHARED = {"rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 1}

CONFIGS: dict[str, dict[str, Any]] = {
    "1b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "head_dim": 64,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "tie_word_embeddings": True, **_SHARED,
    },
    "7b": {
        "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "head_dim": 128,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "tie_word_embeddings": False, "sliding_window": None, **_SHARED,
    },
    "tiny": {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "head_dim": 16,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True, **_SHARED,
    },
}  # fmt: skip
"""The shapes of Llama-3.2-1B and of Mistral-7B-v0.2, and a small one for tests."""


def random_model(size: str) -> Any:
    """Return a causal LM of transformers with random frozen weights in bfloat16.

    Args:
        size: a key of `CONFIGS`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**CONFIGS[size])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    pool = torch.from_numpy(np.random.default_rng(0).standard_normal(_POOL, np.float32))
    pool = pool.mul_(config.initializer_range).to(model.dtype)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for number, value in enumerate(dict.fromkeys(model.parameters())):
            if value.dim() == 1:  # of a norm
                value.fill_(1)
                continue
            for start in range(0, value.numel(), _POOL - number):
                part = value.view(-1)[start : start + _POOL - number]
                part.copy_(pool[number : number + len(part)])
    rotary = type(model.model.rotary_emb)(config)  # its buffers were not initialized
    model.model.rotary_emb = rotary
    return model.eval().requires_grad_(False)


def word_tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer of transformers that has a token for each of the words w2, w3, …"""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def bank_shape(size: str) -> Shape:
    """Return the shape of a bank of eight adapters for a random model."""
    config = CONFIGS[size]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        narrow=config["num_key_value_heads"] * config["head_dim"],
        adapters=8,
        shared=32,
    )
