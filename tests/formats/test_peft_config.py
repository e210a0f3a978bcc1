"""PEFT's ``adapter_config.json``: accepted and refused settings, and the config written here."""

import json
import math
from typing import Any

import pytest

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import LoraConfig, parse_config, write_config
from tests.formats.samples import LAYOUT, RANK

PLAIN = {"peft_type": "LORA", "base_model_name_or_path": "o/m", "r": RANK, "lora_alpha": 4}


def read_config(config: Any, *, patterns: bool = False) -> LoraConfig:
    return parse_config(json.dumps(config).encode(), patterns=patterns)


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / math.sqrt(2)),
        ({"lora_alpha": 0.5}, 0.25),
        ({"lora_alpha": None, "r": 8}, None),
        ({"init_lora_weights": "gaussian"}, 2.0),
        ({"init_lora_weights": "eva"}, 2.0),
        ({"bias": "none", "use_dora": False, "rank_pattern": {}, "modules_to_save": None}, 2.0),
        ({"some_future_key": None}, 2.0),
    ],
)
def test_scaling_is_read(changes: dict[str, Any], scaling: float | None) -> None:
    if scaling is None:
        config = {k: v for k, v in (PLAIN | changes).items() if v is not None}
        assert read_config(config).scaling == 1.0  # PEFT's default alpha is 8
        return
    assert read_config(PLAIN | changes)[:3] == ("o/m", RANK, scaling)


REFUSED: tuple[dict[str, Any], ...] = (
    {"peft_type": "IA3"},
    {"peft_type": None},
    {"use_dora": True},
    {"lora_bias": True},
    {"modules_to_save": ["lm_head"]},
    {"rank_pattern": {"q_proj": 4}},
    {"alpha_pattern": {"q_proj": 4}},
    {"target_parameters": ["x"]},
    {"layer_replication": [[0, 2]]},
    {"trainable_token_indices": [1]},
    {"bias": "all"},
    *({"init_lora_weights": name} for name in ("pissa", "pissa_niter_16", "OLoRA", "loftq")),
    *({"r": rank} for rank in (0, "8", True, None, 1 << 20)),
    *({"lora_alpha": alpha} for alpha in (0, -1, math.nan, math.inf, "16")),
    {"revision": 1},
    {"task_type": 1},
)


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_config_that_is_not_a_plain_lora_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(changes))):
        read_config(PLAIN | changes)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 200_000, b"[]", b"null", b"3"])
def test_config_that_is_not_a_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(AdapterError, match=r"is not (a )?JSON"):
        parse_config(content)


@pytest.mark.parametrize("revision", [None, "", "v1"])
def test_revision_is_read(revision: str | None) -> None:
    assert read_config(PLAIN | {"revision": revision}).revision == (revision or None)


def test_written_config_has_scaling_one_and_the_revision() -> None:
    written = write_config("o/m", LAYOUT, RANK, "abc")
    assert parse_config(written) == LoraConfig("o/m", RANK, 1.0, "abc", task_type="CAUSAL_LM")
    assert written == write_config("o/m", LAYOUT, RANK, "abc")
    config = json.loads(written)
    assert config["target_modules"] == [m.name for m in LAYOUT]  # layers 0, 2, 10: not all of them


@pytest.mark.parametrize(("prefix", "short"), [("model.", True), ("model.language_model.", False)])
def test_short_names_are_written_where_they_name_no_other_layers(prefix: str, short: bool) -> None:
    layout = tuple(Module(f"{prefix}layers.{i}.self_attn.q_proj", 4, 4) for i in range(2))
    config = json.loads(write_config("o/m", layout, RANK))
    assert config["target_modules"] == (["q_proj"] if short else [m.name for m in layout])


def test_patterns_are_accepted_where_peft_applies_them() -> None:
    patterns = {"rank_pattern": {"layers.1.q_proj": 8}, "alpha_pattern": {".*v_proj": 12}}
    assert read_config(PLAIN | patterns, patterns=True) == read_config(PLAIN)
