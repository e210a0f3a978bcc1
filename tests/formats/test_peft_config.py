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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "use_dora is set: only plain LoRA"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is set"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is set"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"bias": "all"}, "bias is 'all', expected 'none'"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model's weights"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base model's weights"),
        ({"init_lora_weights": "OLoRA"}, "changes the base model's weights"),
        ({"init_lora_weights": "loftq"}, "changes the base model's weights"),
        ({"r": 0}, "r is 0, expected an integer from 1 to 4096"),
        ({"r": "8"}, "r is '8'"),
        ({"r": True}, "r is True"),
        ({"r": None}, "r is None"),
        ({"r": 1 << 20}, "r is 1048576"),
        ({"lora_alpha": 0}, "lora_alpha is 0, expected a positive number"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"revision": 1}, "revision and task_type are [1, None], expected strings or null"),
        ({"task_type": 1}, "revision and task_type are [None, 1], expected strings or null"),
    ],
)
def test_config_that_is_not_a_plain_lora_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError) as raised:
        read_config(PLAIN | changes)
    assert message in str(raised.value)


def test_config_that_is_not_an_object_is_refused() -> None:
    values: tuple[Any, ...] = ([], "x", None, 3)
    for value in values:
        with pytest.raises(AdapterError, match="not a JSON object"):
            read_config(value)


@pytest.mark.parametrize(
    ("changes", "revision"),
    [({}, None), ({"revision": None}, None), ({"revision": ""}, None), ({"revision": "v1"}, "v1")],
)
def test_revision_is_read(changes: dict[str, Any], revision: str | None) -> None:
    assert read_config(PLAIN | changes).revision == revision


def test_written_config_has_scaling_one_and_the_revision() -> None:
    written = write_config("o/m", LAYOUT, RANK, "abc")
    assert parse_config(written) == LoraConfig("o/m", RANK, 1.0, "abc", task_type="CAUSAL_LM")
    assert written == write_config("o/m", LAYOUT, RANK, "abc")
    config = json.loads(written)
    assert (config["revision"], config["use_rslora"], config["modules_to_save"]) == (
        "abc",
        False,
        None,
    )
    assert config["target_modules"] == [m.name for m in LAYOUT]  # layers 0, 2, 10: not all of them


@pytest.mark.parametrize(("prefix", "short"), [("model.", True), ("model.language_model.", False)])
def test_short_names_are_written_where_they_name_no_other_layers(prefix: str, short: bool) -> None:
    layout = tuple(Module(f"{prefix}layers.{i}.self_attn.q_proj", 4, 4) for i in range(2))
    config = json.loads(write_config("o/m", layout, RANK))
    assert config["target_modules"] == (["q_proj"] if short else [m.name for m in layout])


def test_patterns_are_accepted_where_peft_applies_them() -> None:
    patterns = {"rank_pattern": {"layers.1.q_proj": 8}, "alpha_pattern": {".*v_proj": 12}}
    assert read_config(PLAIN | patterns, patterns=True) == read_config(PLAIN)
