"""Merging banks: identity of adapters, general adapters, packs, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.arrays import prior_to_arrays, save_arrays
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import (
    GENERAL,
    OUTPUT_PRIOR_FILE,
    GeneralEntry,
    GeneralTask,
    OutputPriorEntry,
    adapter_path,
)
from hf_lorameta.bank.merge import merge_banks
from hf_lorameta.bank.pack import pack
from hf_lorameta.errors import BankError, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_layout import FACTORS
from hf_lorameta.method.output_prior import OutputPrior
from tests.conftest import Built, tree


def part(bank: Built, folder: Path, chosen: slice) -> Bank:
    """Return a copy of a bank with some of its entries."""
    copy = Bank(shutil.copytree(bank.folder, folder))
    profiles = [copy.profiles[i] for i in range(len(copy))][chosen]
    path = folder / "profiles.safetensors"
    save_arrays(path, type(copy.profiles).from_profiles(profiles).arrays)
    files = {k: v for k, v in copy.index.files.items() if k != "distances.safetensors"}
    copy.update_index(entries=copy.index.entries[chosen], files=files | {path.name: sha256(path)})
    return Bank(folder)


def with_general(bank: Bank, tasks: int, seed: int) -> Bank:
    """Add a general adapter, which is a copy of another adapter, and an output prior."""
    first = bank.index.entries[seed]
    shutil.copyfile(bank.adapter(first).path, bank.folder / adapter_path(GENERAL))
    stated = tuple(
        GeneralTask(name=f"t{i}", source=None, source_revision=None, license="mit")
        for i in range(tasks)
    )
    general = GeneralEntry(
        name=GENERAL, rank=first.rank, scaling=1.0, tasks=stated, rows=9, size=first.size,
        sha256=first.sha256,
    )  # fmt: skip
    module = replace(bank.layout[0], name="model.layers.1.mlp.down_proj")
    rng, size = np.random.default_rng(seed), bank.index.vocab_size
    shapes = ((size, 3), (3, module.out_features), (2, module.in_features), (2, size))
    prior = OutputPrior(module, *(rng.random(s, np.float32) for s in shapes))
    path = bank.folder / OUTPUT_PRIOR_FILE
    save_arrays(path, prior_to_arrays(prior))
    bank.update_index(
        general=general,
        output_prior=OutputPriorEntry(
            module=(module.name, module.in_features, module.out_features), end=1
        ),
        files=bank.index.files | {path.name: sha256(path)},
    )
    return Bank(bank.folder)


def test_adapters_of_one_name_are_all_kept(bank: Built, tmp_path: Path) -> None:
    copies = [part(bank, tmp_path / name, slice(i, i + 1)) for i, name in enumerate("abc")]
    for i, copy in enumerate(copies):
        entry = copy.index.entries[0]
        path = copy.folder / adapter_path(entry.name)
        path.rename(copy.folder / adapter_path("first"))
        local = {"name": "first", "adapter": "local/first", "adapter_revision": f"sha256:abcdef{i}"}
        copy.update_index(entries=(entry.model_copy(update=local),))
    opened = [Bank(copy.folder) for copy in copies]
    calls: list[tuple[int, int]] = []
    merged = merge_banks(opened, tmp_path / "m", progress=lambda *call: calls.append(call))
    names = [entry.name for entry in merged.index.entries]
    assert names == ["first", "first--abcdef1", "first--abcdef2"]
    assert calls[-1] == (3, 3)
    assert merged.verify() == []


def test_the_parts_of_a_bank_merge_into_the_bank(bank: Built, tmp_path: Path) -> None:
    parts = [part(bank, tmp_path / "a", slice(0, 3)), part(bank, tmp_path / "b", slice(2, 4))]
    merged = merge_banks(parts, tmp_path / "c")
    whole = Bank(bank.folder)
    assert merged.index.entries == whole.index.entries
    assert [(s.adapter, s.reason) for s in merged.index.skipped] == [
        (
            whole.index.entries[2].adapter,
            "several of the merged banks hold it, and one copy is kept",
        )
    ]
    assert merged.verify() == []
    expected, found = tree(bank.folder), tree(tmp_path / "c")
    del expected["bank.json"], found["bank.json"]
    assert found == expected  # weights, profiles, distances and tokenizer
    assert [m.sha256 for m in merged.index.merged] == [p.digest for p in parts]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_equal_weights_under_another_name_are_stored_once(bank: Built, tmp_path: Path) -> None:
    other = part(bank, tmp_path / "b", slice(0, 1))
    entry = other.index.entries[0]
    path = other.folder / adapter_path("x--copy")
    (other.folder / adapter_path(entry.name)).rename(path)
    copied = entry.model_copy(update={"name": "x--copy", "adapter": "x/copy"})
    other.update_index(entries=(copied,))
    merged = merge_banks([Bank(bank.folder), Bank(other.folder)], tmp_path / "c")
    assert merged.index.entries == Bank(bank.folder).index.entries
    assert [s.reason for s in merged.index.skipped] == [f"its weights are those of {entry.adapter}"]
    assert not (tmp_path / "c" / adapter_path("x--copy")).exists()


def test_two_revisions_of_an_adapter_are_both_kept(bank: Built, tmp_path: Path) -> None:
    other = part(bank, tmp_path / "b", slice(0, 2))
    first, second = other.index.entries
    renamed = second.model_copy(
        update={"name": first.name, "adapter": first.adapter, "adapter_revision": "f" * 40}
    )
    shutil.copyfile(
        other.folder / adapter_path(second.name), other.folder / adapter_path(first.name)
    )
    other.update_index(entries=(renamed,))
    only = part(bank, tmp_path / "a", slice(0, 1))
    path = tmp_path / "b" / "profiles.safetensors"
    profile = Bank(bank.folder).profiles[1]
    save_arrays(path, type(only.profiles).from_profiles([profile]).arrays)
    other.update_index(files=other.index.files | {path.name: sha256(path)})
    merged = merge_banks([only, Bank(other.folder)], tmp_path / "c")
    names = [entry.name for entry in merged.index.entries]
    assert names == [first.name, f"{first.name}--ffffffff"]
    assert merged.verify() == []
    assert merged.adapter(merged.index.entries[1]).rank == second.rank


def test_adapters_of_a_pack_are_stored_whole_and_a_bank_comes_before_a_pack(
    bank: Built, tmp_path: Path
) -> None:
    whole = Bank(bank.folder)
    packed = pack(whole, tmp_path / "p", retention=1.0, dtype="f32")
    half = part(bank, tmp_path / "a", slice(0, 2))
    merged = merge_banks([packed, half], tmp_path / "c")
    assert {e.adapter for e in merged.index.entries} == {e.adapter for e in whole.index.entries}
    assert merged.index.packing is None
    assert merged.verify() == []
    assert [m.retained for m in merged.index.merged] == [
        packed.index.packing.retained_whole if packed.index.packing else 0, None
    ]  # fmt: skip
    by_name = {entry.name: entry for entry in merged.index.entries}
    for number, entry in enumerate(whole.index.entries):
        if number < 2:
            assert by_name[entry.name].sha256 == entry.sha256
            continue
        original, stored = whole.adapter(entry), merged.adapter(by_name[entry.name])
        for module in whole.layout:
            expected, found = (
                np.linalg.multi_dot([f.tensor(module.name, k) for k in reversed(FACTORS)])
                for f in (original, stored)
            )
            np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_the_general_adapter_of_most_tasks_is_kept_with_its_output_prior(
    bank: Built, tmp_path: Path
) -> None:
    small = with_general(part(bank, tmp_path / "a", slice(0, 2)), 2, 0)
    large = with_general(part(bank, tmp_path / "b", slice(2, 4)), 3, 1)
    plain = Bank(bank.folder)
    merged = merge_banks([small, plain, large], tmp_path / "c")
    assert merged.index.general == large.index.general
    assert merged.index.files[OUTPUT_PRIOR_FILE] == large.index.files[OUTPUT_PRIOR_FILE]
    assert merged.output_prior is not None
    assert merged.verify() == []
    assert len(merge_banks([plain, plain], tmp_path / "d").index.entries) == 4
    assert Bank(tmp_path / "d").index.general is None


def test_banks_that_do_not_fit_together_are_refused(bank: Built, tmp_path: Path) -> None:
    whole = Bank(bank.folder)
    changes: dict[str, dict[str, Any]] = {
        "base models": {"base_model": "org/other"},
        "tokenizers": {"files": whole.index.files | {"tokenizer.json": "0" * 64}},
        "modules": {"layout": whole.index.layout[:-1]},
    }
    for number, (reason, change) in enumerate(changes.items()):
        other = Bank(shutil.copytree(bank.folder, tmp_path / str(number)))
        other.update_index(**change)
        with pytest.raises(BankError, match=f"different {reason}"):
            merge_banks([whole, Bank(other.folder)], tmp_path / "c")
    with pytest.raises(UsageError, match="at least two"):
        merge_banks([whole], tmp_path / "c")
    with pytest.raises(UsageError, match="exists"):
        merge_banks([whole, whole], tmp_path / "0")
    damaged = Bank(shutil.copytree(bank.folder, tmp_path / "damaged"))
    (damaged.folder / adapter_path(damaged.index.entries[3].name)).write_bytes(b"x")
    with pytest.raises(BankError, match="checksum differs"):
        merge_banks([damaged, damaged], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    assert list(tmp_path.glob(".*")) == []


def test_the_index_names_no_local_folder(bank: Built, tmp_path: Path) -> None:
    merged = merge_banks([Bank(bank.folder), Bank(bank.folder)], tmp_path / "c")
    raw = (tmp_path / "c/bank.json").read_text()
    assert str(tmp_path) not in raw
    assert str(bank.folder) not in raw
    assert json.loads(raw)["merged"][0]["id"] is None
    assert len(merged) == 4
