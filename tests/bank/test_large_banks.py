"""Large banks: candidates by sketches, profiles read by entry, and longer manifests."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from hf_lorameta import Plan, Recipe, plan
from hf_lorameta.bank import store_profiles as storing
from hf_lorameta.bank.arrays import from_record, load_arrays, save_arrays, to_record
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import build_bank, clean_up
from hf_lorameta.bank.entries import EntryTable, to_lines
from hf_lorameta.bank.index import TOKENIZER_FILE, Index
from hf_lorameta.bank.large_profiles import Sketches
from hf_lorameta.bank.maintain import update_index, verify
from hf_lorameta.bank.manifest import Manifest, load
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.store_profiles import store_profiles
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.pipeline import coefficients
from hf_lorameta.pipeline.coefficients import choose_coefficients
from tests.conftest import (
    BASE,
    Account,
    Built,
    Shell,
    adapter_files,
    rows,
    tree,
    write_files,
)
from tests.hub.conftest import use_endpoint
from tests.support.codes import raises_code
from tests.support.plain_bank import SIZE, plain_bank


@dataclass
class Sizes:
    """Sets above how many entries a bank is large, and how many profiles are in a file."""

    monkeypatch: pytest.MonkeyPatch

    def __call__(self, large: int, shard: int) -> None:
        self.monkeypatch.setattr(storing, "LARGE", large)
        self.monkeypatch.setattr(storing, "SHARD_ENTRIES", shard)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    return Sizes(monkeypatch)


@pytest.fixture
def building(cli: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds in this process find the base model on the loopback Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    use_endpoint(monkeypatch, cli.hub.url)


def enlarged(folder: Path, target: Path) -> Bank:
    """Return a copy of a bank that is stored as a large one."""
    bank = Bank(shutil.copytree(folder, target))
    profiles = [bank.profiles[i] for i in range(len(bank))]
    stored = store_profiles(target, profiles, len(bank), bank.index.vocab_size)
    tokenizer = {TOKENIZER_FILE: bank.index.files[TOKENIZER_FILE]}
    update_index(bank, **stored._asdict() | {"files": stored.files | tokenizer})
    clean_up(target, bank.index)
    return Bank(target)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain bank with three files of profiles; tests must not change it."""
    small = plain_bank()  # written before the limit is lowered
    with pytest.MonkeyPatch.context() as patch:
        Sizes(patch)(large=20, shard=10)
        return enlarged(small.folder, tmp_path_factory.mktemp("stored") / "large").folder


@pytest.fixture
def large(stored: Path, tmp_path: Path, sizes: Sizes) -> Bank:
    """A copy of it."""
    sizes(large=20, shard=10)
    return Bank(shutil.copytree(stored, tmp_path / "large"))


def test_its_files_are_sketches_and_profiles_by_entries(large: Bank) -> None:
    assert large.is_large
    assert sorted(large.index.files) == [
        large.index.entries_file,
        "profiles-000000-000010.records", "profiles-000010-000020.records",
        "profiles-000020-000026.records", "sketches-000026.safetensors", "tokenizer.json",
    ]  # fmt: skip
    files = {path.name for path in large.folder.iterdir() if path.is_file()}
    assert files == {"bank.json", *large.index.files}
    assert verify(large) == []
    for i in (0, 9, 10, 25):
        one, other = large.stored_profiles[i], plain_bank().profiles[i]
        assert one.rows == other.rows
        np.testing.assert_array_equal(one.output.counts, other.output.counts)
    lengths = large.stored_profiles.output_lengths
    np.testing.assert_array_equal(lengths, plain_bank().profiles.output_lengths)


def test_with_all_datasets_as_candidates_a_plan_is_that_of_a_small_bank(large: Bank) -> None:
    small = plan(TRAIN_FILE, plain_bank())
    found = plan(TRAIN_FILE, large)
    np.testing.assert_allclose(found.distances, small.distances)
    np.testing.assert_allclose(found.coefficients, small.coefficients, atol=1e-6)
    assert found.nearest_in_bank == pytest.approx(small.nearest_in_bank)


@pytest.mark.parametrize("part", ["input", "output"])
def test_datasets_without_inputs_or_outputs_are_compared_by_the_others(
    large: Bank, part: str, tmp_path: Path
) -> None:
    lines = TRAIN_FILE.read_text("utf-8").splitlines()
    texts = [{"text": json.loads(line)["input"]} for line in lines]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, texts)))
    columns = {"input": "text"} if part == "input" else {"output": "text"}
    found, small = (plan(path, bank, columns=columns) for bank in (large, plain_bank()))
    np.testing.assert_allclose(found.coefficients, small.coefficients, atol=1e-6)
    if part == "input":
        assert found.nearest_in_bank == pytest.approx(small.nearest_in_bank)


def planned_among(bank: Bank, number: int, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(coefficients, "CANDIDATES", number)
    return plan(TRAIN_FILE, bank)


def test_only_candidates_are_compared_and_combined(
    large: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, found = plan(TRAIN_FILE, large), planned_among(large, 8, monkeypatch)
    compared = np.isfinite(found.distances)
    assert compared.sum() == 8
    np.testing.assert_array_equal(found.distances[compared], whole.distances[compared])
    assert set(np.argsort(whole.distances)[:4]) <= set(np.flatnonzero(compared))
    assert not found.coefficients[~compared].any()
    assert found.coefficients.sum() == pytest.approx(found.scale)
    assert len(found.neighbors()) == 8


def test_only_the_profiles_of_candidates_are_read(
    large: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned_among(large, 4, monkeypatch)
    compared = np.isfinite(found.distances)
    for i, name in enumerate(sorted(large.index.files)[1:4]):
        if not compared[10 * i : 10 * i + 10].any():
            (large.folder / name).unlink()
    again, _ = choose_coefficients(Bank(large.folder), Recipe(), found.profile, None)
    np.testing.assert_array_equal(again, found.distances)


def test_a_damaged_profile_is_refused_where_it_is_used(large: Bank) -> None:
    path = large.folder / "profiles-000010-000020.records"
    raw = bytearray(path.read_bytes())
    raw[sum(large.large_profiles.sketches.arrays["size"][10:14]) - 1] ^= 1
    path.write_bytes(raw)
    profiles = Bank(large.folder).stored_profiles
    assert profiles.take([12, 14, 25]).arrays["rows"].size == 3
    with raises_code("bank.wrong-checksums", match="13"):
        profiles.take([12, 13])
    [problem] = verify(Bank(large.folder))
    assert problem.startswith(path.name)


def test_a_shard_that_is_too_short_is_refused(large: Bank) -> None:
    path = large.folder / "profiles-000000-000010.records"
    path.write_bytes(path.read_bytes()[:-1])
    assert large.stored_profiles[8].rows
    with raises_code("file.ended-early"):
        _ = large.stored_profiles[9]


def test_a_profile_that_lacks_something_is_refused(tmp_path: Path) -> None:
    raw = to_record(plain_bank().profiles[0])
    assert to_record(from_record(raw, "x")) == raw
    (tmp_path / "x").write_bytes(raw)
    arrays = load_arrays(tmp_path / "x")
    del arrays["input.indptr"]
    save_arrays(tmp_path / "y", arrays)
    with raises_code("bank.no-profile"):
        from_record((tmp_path / "y").read_bytes(), "y")


def test_entries_are_parsed_when_they_are_asked_for(
    large: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, small = large.index.entries, plain_bank().index.entries
    assert list(entries) == list(entries[:]) == [entries[i] for i in range(SIZE)] == [*small]
    assert entries[-1] == small[-1]
    with pytest.raises(IndexError):
        _ = entries[SIZE]
    found = planned_among(large, 4, monkeypatch)
    lines = to_lines(entries).splitlines(keepends=True)
    for i in np.flatnonzero(~np.isfinite(found.distances)):
        lines[i] = lines[i].replace(b'"rank":', b'"rink":')
    update_index(large, entries=EntryTable(b"".join(lines)))
    damaged = Bank(large.folder)
    assert damaged.index.names() == [entry.name for entry in small]
    again, _ = choose_coefficients(damaged, Recipe(), found.profile, None)
    np.testing.assert_array_equal(again, found.distances)
    assert len(replace(found, bank=damaged).to_dict()["neighbors"]) == 4
    with pytest.raises(BankError, match="rank: Field required"):
        list(damaged.index.entries)


def test_private_entries_are_counted_without_parsing(large: Bank) -> None:
    title = {"title": 'has "private":true, in its name'}
    entries = [e.model_copy(update=title | {"private": i < 3}) for i, e in
               enumerate(large.index.entries)]  # fmt: skip
    update_index(large, entries=entries)
    opened = Bank(large.folder)
    assert opened.index.private_parts == 3
    assert list(opened.index.entries) == list(entries)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b'"rank":', b'"rink":', r"entries-\w+\.jsonl, line 1: rank: Field required"),
        (b'{"name":"', b'{"name":"../', "line 1: name: '../.*' is not a file name"),
        (b'{"name":', b'{"name"', "line 1: Invalid JSON"),
    ],
)
def test_a_malformed_entry_is_refused(large: Bank, old: bytes, new: bytes, problem: str) -> None:
    lines = EntryTable(to_lines(large.index.entries)).lines.replace(old, new, 1)
    update_index(large, entries=EntryTable(lines))
    entries = Bank(large.folder).index.entries
    with pytest.raises(BankError, match=problem):
        _ = entries[0]
    if old == b'{"name":':
        with pytest.raises(BankError, match="line 1: expected an entry"):
            Bank(large.folder).index.names()


def test_another_number_of_entries_than_of_profiles_is_refused(large: Bank) -> None:
    update_index(large, entries=large.index.entries[:-1])
    with pytest.raises(IntegrityError, match=r"25 lines in entries-\w+.jsonl, expected 26"):
        Bank(large.folder)


def test_what_needs_all_distances_is_refused(large: Bank) -> None:
    recipes = {"coefficients=normalized": Recipe.paper(), "metric=js": Recipe(metric="js")}
    for setting, recipe in recipes.items():
        with raises_code("recipe.needs-all-distances", match=setting):
            plan(TRAIN_FILE, large, recipe)
    with raises_code("bank.too-large", match="26"):
        _ = large.profiles


@pytest.mark.parametrize(
    ("left_out", "problem"),
    [
        ("profiles-000000-000010.records", "holds no profiles-"),
        ("profiles-000020-000026.records", "unexpected file 'sketches-000026"),
        ("sketches-000026.safetensors", "sketches-000026.safetensors: checksum differs"),
        ("entries", "the entries are not in one file of their own"),
    ],
)
def test_an_index_that_lacks_a_file_is_refused(large: Bank, left_out: str, problem: str) -> None:
    files = {n: d for n, d in large.index.files.items() if not n.startswith(left_out)}
    raw = large.index.model_copy(update={"files": files}).to_bytes()
    (large.folder / "bank.json").write_bytes(raw)
    with pytest.raises((BankError, IntegrityError), match=problem):
        plan(TRAIN_FILE, Bank(large.folder))


def test_a_large_bank_is_packed(bank: Built, tmp_path: Path, sizes: Sizes) -> None:
    sizes(large=2, shard=3)
    source = enlarged(bank.folder, tmp_path / "large")
    packed = pack(source, tmp_path / "pack", basis=2)
    assert verify(packed) == []
    files = {path.name for path in packed.folder.iterdir() if path.is_file()}
    assert files == {"bank.json", *packed.index.files}
    assert packed.index.entries_file != source.index.entries_file
    assert [file.rank for file in packed.adapters()] == [e.rank for e in source.index.entries]


def test_a_large_bank_is_pushed_and_opened(
    cli: Shell, user: Account, bank: Built, tmp_path: Path, sizes: Sizes
) -> None:
    sizes(large=2, shard=3)
    folder = enlarged(bank.folder, tmp_path / "large").folder
    cli("bank", "push", folder, f"{user.name}/b", "--private", token=user.token)
    files = set(cli.hub.files(f"{user.name}/b", repo_type="dataset"))
    assert files > {"profiles-000000-000003.records", "profiles-000003-000004.records"}
    shown = ("bank", "list", f"{user.name}/b")
    listed = cli(*shown, "--json", token=user.token).json["entries"]
    assert [entry["adapter"] for entry in listed] == [e["adapter"] for e in bank.owner.entries]
    assert listed[2]["adapter"] in cli(*shown, token=user.token).out
    small = shutil.copytree(bank.folder, tmp_path / "small")
    cli("bank", "push", small, f"{user.name}/b", token=user.token)
    files = set(cli.hub.files(f"{user.name}/b", repo_type="dataset"))
    assert "profiles.safetensors" in files
    assert not any(name.startswith(("profiles-", "sketches-", "entries-")) for name in files)


# --- sketches -------------------------------------------------------------------------------------


def test_sketches_order_datasets_much_as_distances_do() -> None:
    bank = embedded_bank()
    profiles = [bank.profiles[i] for i in range(len(bank))]
    sketches = Sketches.from_records((profile, to_record(profile)) for profile in profiles)
    some = range(0, len(bank), 4)
    exact = bank.distances["js-task"].astype(float)[some]
    guessed = np.array([sketches.distances(bank.profiles[i]) for i in some])
    off = exact > 0  # a dataset has none to itself
    assert np.corrcoef(guessed[off], exact[off])[0, 1] > 0.98
    found = [len({*np.argsort(distances)[:16]} & {*sketches.nearest(bank.profiles[i], 32)})
             for i, distances in zip(some, exact, strict=True)]  # fmt: skip
    assert np.mean(found) > 0.98 * 16


def test_sketches_of_another_form_are_refused(large: Bank) -> None:
    arrays = dict(large.large_profiles.sketches.arrays)
    changed: list[dict[str, Any]] = [
        {k: v for k, v in arrays.items() if k != "lengths"},
        arrays | {"input": arrays["input"][:, :-1]},
        arrays | {"output": arrays["output"].astype(np.float32)},
        arrays | {"size": np.full(SIZE, -1)},
        arrays | {"size": np.full(SIZE, 1 << 40)},
    ]
    for found in changed:
        with raises_code("bank.damaged-sketches"):
            Sketches(found).check(SIZE)


# --- files ----------------------------------------------------------------------------------------


def test_a_malformed_file_of_arrays_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with raises_code("bank.unreadable-file"):
        load_arrays(path)
    save_arrays(path, {"a": np.arange(9), "b": np.zeros((2, 0), np.float16)})
    arrays = load_arrays(path)
    assert (arrays["a"].tolist(), arrays["b"].shape) == (list(range(9)), (2, 0))
    for content in (b"", b"abc", b"\x02" + b"\0" * 7 + b"{}x", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with raises_code("bank.unreadable-file", match=r"x\.safetensors"):
            load_arrays(path)


# --- extending ------------------------------------------------------------------------------------


def manifest_of(folder: Path, *names: str, **config: Any) -> Manifest:
    """Write a manifest of local adapters and datasets."""
    entries = []
    for seed, name in enumerate(names):
        write_files(folder / name, adapter_files(seed=100 + seed, **config))
        (folder / f"{name}.jsonl").write_bytes(rows(seed % 4))
        entries.append({"adapter": f"./{name}", "dataset": f"./{name}.jsonl", "license": "mit"})
    path = folder / "more.json"
    path.write_text(json.dumps({"version": 1, "base_model": BASE, "entries": entries}))
    return load(path)


@pytest.mark.usefixtures("building")
@pytest.mark.parametrize("limit", [2, 99])
def test_a_longer_manifest_extends_a_bank_to_the_one_it_builds(
    tmp_path: Path, sizes: Sizes, limit: int
) -> None:
    sizes(large=limit, shard=2)
    source, folder = tmp_path / "new", tmp_path / "extended"
    build_bank(manifest_of(source, *"abc"), folder, executor=1)
    extended = build_bank(manifest_of(source, *"abcde"), folder, executor=1)
    whole = build_bank(manifest_of(source, *"abcde"), tmp_path / "whole", executor=1)
    assert extended.index.names() == [f"local--{name}" for name in "abcde"]
    assert tree(extended.folder) == tree(whole.folder)
    assert verify(extended) == []


@pytest.mark.usefixtures("building")
def test_an_interrupted_extension_leaves_a_large_bank_as_it_was(
    tmp_path: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes(large=2, shard=2)
    source, folder = tmp_path / "new", tmp_path / "b"
    digest = build_bank(manifest_of(source, *"abc"), folder, executor=1).digest
    longer = manifest_of(source, *"abcd")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Index, "to_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            build_bank(longer, folder, executor=1)
    left = Bank(folder)
    assert (left.digest, verify(left)) == (digest, [])
    extended = build_bank(longer, folder, executor=1)
    assert (len(extended), verify(extended)) == (4, [])
