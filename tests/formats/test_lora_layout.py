"""The modules of a LoRA file, read from its tensor names and shapes."""

from typing import Any

import pytest

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import (
    Layout,
    Module,
    canonical_order,
    read_layout,
    tensor_name,
)
from tests.formats.samples import VALID, A, B, header_entry, is_plain, parse, raw_file
from tests.support.codes import raises_code


def layout_of(content: bytes) -> tuple[Layout, int]:
    return read_layout(parse(content))


def test_layout_and_rank_are_read_from_the_shapes() -> None:
    assert layout_of(raw_file(VALID, bytes(20))) == ((Module("h.0.q", 2, 3),), 1)


def test_canonical_order_compares_layers_as_numbers() -> None:
    names = ["h.10.q", "h.2.q", "h.2.k", "a", "h.02.q", f"h.{'9' * 6000}.q", "h.x.q", "h.²", "h.٣"]
    ordered = sorted(names, key=canonical_order)
    assert ordered.index("h.2.k") < ordered.index("h.2.q") < ordered.index("h.10.q")
    assert len({canonical_order(name) for name in names}) == len(names)
    names.reverse()
    assert sorted(names, key=canonical_order) == ordered


SECOND = {
    tensor_name("h.1.q", "A"): header_entry([2, 2], 20, 36),
    tensor_name("h.1.q", "B"): header_entry([1, 2], 36, 44),
}


@pytest.mark.parametrize(
    ("header", "size", "code"),
    [
        ({}, 0, "adapter.other-rank"),
        ({A: VALID[A]}, 8, "adapter.lacks-factor"),
        ({B: header_entry([3, 1], 0, 12)}, 12, "adapter.lacks-factor"),
        (VALID | {B: header_entry([3], 8, 20)}, 20, "adapter.not-lora-weights"),
        (VALID | {B: header_entry([1, 3], 8, 20)}, 20, "adapter.factors-do-not-multiply"),
        (
            {A: header_entry([0, 2], 0, 0), B: header_entry([3, 0], 0, 0)},
            0,
            "adapter.factors-do-not-multiply",
        ),
        (
            {A: VALID[A], "lm_head.weight": header_entry([3, 1], 8, 20)},
            20,
            "adapter.not-lora-weights",
        ),
        (VALID | SECOND, 44, "adapter.other-rank"),
    ],
)
def test_file_that_is_not_a_plain_lora_is_refused(
    header: dict[str, Any], size: int, code: str
) -> None:
    with raises_code(code):
        layout_of(raw_file(header, bytes(size)))


@pytest.mark.parametrize(
    ("tensor", "hint"),
    [
        ("base_model.model.lm_head.base_layer.weight", "save_embedding_layers=False"),
        ("base_model.model.embed_tokens.lora_embedding_A", "linear layers"),
    ],
)
def test_what_peft_saves_beside_the_factors_is_explained(tensor: str, hint: str) -> None:
    with pytest.raises(AdapterError) as raised:
        layout_of(raw_file(VALID | {tensor: header_entry([3, 1], 20, 32)}, bytes(32)))
    assert hint in str(raised.value.hint)


@pytest.mark.parametrize("name", ["x\x1b[31m\n" + "y" * 9999, "\ud800", "\u202e"])
def test_names_from_files_are_escaped_in_messages(name: str) -> None:
    for content in (
        raw_file({name: header_entry([1, 2], 0, 8)}, bytes(8)),
        raw_file({tensor_name(f"h.{name}", "A").replace("\n", ""): VALID[A]}, bytes(8)),
    ):
        with pytest.raises(AdapterError) as caught:
            layout_of(content)
        assert is_plain(str(caught.value))
