"""Packs: retained energy is as stated, nothing is lost at full span, and a pack works as a bank."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta import Recipe
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import adapter_path, write_index
from hf_lorameta.bank.maintain import verify
from hf_lorameta.bank.pack import pack
from hf_lorameta.bank.pack_format import PackedFile, dequantize, quantize, small_header
from hf_lorameta.bank.train_neural_rule import weight_blocks
from hf_lorameta.data.counts.profile import Histogram, Profile
from hf_lorameta.errors import AdapterError, BankError, IntegrityError, LoraMetaError
from hf_lorameta.files import sha256
from hf_lorameta.formats import safetensors as safetensors_module
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, write_tensors
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.registries import COMBINERS
from hf_lorameta.pipeline.generate import generate
from tests.conftest import Account, Built, Shell, rows, tokenizer_json, touched, tree
from tests.support.bank_index import entry_of, index_of
from tests.support.codes import raises_code

WIDE = (Module("h.0.q", 40, 24), Module("h.1.v", 40, 12))


def make_bank(
    folder: Path, pairs: list[list[tuple[np.ndarray, np.ndarray]]], layout: Layout = WIDE
) -> Bank:
    """Write a bank of given factors, in float32 so that nothing is rounded."""
    (folder / "adapters").mkdir(parents=True)
    entries = []
    for i, factors in enumerate(pairs):
        path, rank = folder / adapter_path(f"a{i}"), len(factors[0][0])
        write_tensors(path, layout, rank, "float32", factors)
        entries.append(entry_of(path, rank, scaling=1.0 + i / 4, rows=9))
    dense = np.random.default_rng(3).integers(1, 9, (len(pairs), 18))
    histograms = [Histogram.from_dense(d) for d in dense]
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    profiles = [Profile(h, h, 9) for h in histograms]
    write_index(folder, index_of(folder, "base/tiny", layout, entries, profiles, vocab_size=18))
    return Bank(folder)


def random_pairs(
    number: int, rank: int, seed: int = 0, shared: int | None = None, layout: Layout = WIDE
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Factors of `number` adapters, with `shared` all in one space of so many dimensions."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    if shared is None:
        return [[(normal(rank, m.in_features), normal(m.out_features, rank)) for m in layout]
                for _ in range(number)]  # fmt: skip
    spaces = [(normal(shared, m.in_features), normal(m.out_features, shared)) for m in layout]
    return [[(normal(rank, shared) @ V, U @ normal(shared, rank)) for V, U in spaces]
            for _ in range(number)]  # fmt: skip


def updates(bank: Bank) -> np.ndarray:
    """Every update s·B·A, flattened: (N, P)."""
    flattened = []
    for entry, file in zip(bank.index.entries, bank.adapters(), strict=True):
        parts = []
        for m in bank.layout:
            A, B = bank.expand(m.name, *file.factors(m.name))
            parts.append((entry.scaling * B @ A).ravel())
        flattened.append(np.concatenate(parts))
    return np.stack(flattened).astype(np.float64)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(1))
    return path


# --- retention ------------------------------------------------------------------------------------


@settings(max_examples=24)
@given(number=st.integers(1, 5), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_only_rounding_is_lost_at_full_span(
    number: int, rank: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("full")
    bank = make_bank(scratch / "bank", random_pairs(number, rank, seed))
    packed_bank = pack(bank, scratch / "pack", basis=1000)
    assert [m.in_features for m in packed_bank.stored_layout] == [min(40, number * rank)] * 2
    before, after = updates(bank), updates(packed_bank)
    close = 2e-2
    assert np.linalg.norm(before - after) < close * np.linalg.norm(before)
    for name in COMBINERS:
        weights = np.arange(1, number + 1) / number
        sums = [combined(b, name, weights) for b in (bank, packed_bank)]
        assert np.linalg.norm(sums[0] - sums[1]) < 2 * close * np.linalg.norm(sums[0])
    shutil.rmtree(scratch)


def combined(bank: Bank, name: str, weights: np.ndarray) -> np.ndarray:
    files = bank.adapters()
    scalings = [entry.scaling for entry in bank.index.entries]
    parts = []
    for m in bank.layout:
        As, Bs = zip(*(file.factors(m.name) for file in files), strict=True)
        merged = COMBINERS[name].function(As, Bs, weights, scalings, None)
        A, B = bank.expand(m.name, *merged)
        parts.append((B @ A).ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize("side", [40, 2400])
def test_stated_retention_equals_the_measured_one(side: int, tmp_path: Path) -> None:
    """With exact eigenvectors (side 40) and with the range finder (side 2400)."""
    layout = (Module("h.0.q", side, 24), Module("h.1.v", side, 12))
    bank = make_bank(tmp_path / "bank", random_pairs(9, 4, layout=layout), layout)
    packed_bank = pack(bank, tmp_path / "pack", basis=10)
    packing = packed_bank.index.packing
    assert packing
    before, after = updates(bank), updates(packed_bank)
    lost = np.square(before - after).sum(axis=1) / np.square(before).sum(axis=1)
    whole = 1 - np.square(before - after).sum() / np.square(before).sum()
    assert packing.retained_whole == pytest.approx(whole, abs=2e-5)
    assert packing.retained_least == pytest.approx(1 - lost.max(), abs=2e-5)
    assert 0.3 < packing.retained_whole < 0.95
    first = side * 24
    kept = 1 - np.square((before - after)[:, :first]).sum() / np.square(before[:, :first]).sum()
    assert packing.retained[0] == pytest.approx(kept, abs=2e-5)


def test_a_low_dimensional_shared_space_is_found(tmp_path: Path) -> None:
    """30 adapters of rank 4 in a space of 6 dimensions need 6 dimensions."""
    layout = (Module("h.0.q", 1600, 1300),)
    bank = make_bank(tmp_path / "bank", random_pairs(30, 4, shared=6, layout=layout), layout)
    packed_bank = pack(bank, tmp_path / "pack", basis=6)
    assert packed_bank.index.packing
    assert packed_bank.index.packing.spaces == ((6, 6),)
    assert packed_bank.index.packing.retained_whole > 0.9999
    assert packed_bank.size < bank.size / 10
    V, U = packed_bank.basis.module("h.0.q")  # type: ignore[union-attr]
    assert np.allclose(V @ V.T, np.eye(6), atol=2e-3)  # in bfloat16
    assert np.allclose(U.T @ U, np.eye(6), atol=2e-3)


def test_the_basis_is_close_to_optimal(tmp_path: Path) -> None:
    """No V of R dimensions retains more than the R leading singular values of the stack."""
    layout = (Module("h.0.q", 1500, 12),)
    decay = (0.9 ** np.arange(1500)).astype(np.float32)
    pairs = [[(A * decay, B)] for ((A, B),) in random_pairs(40, 4, layout=layout)]
    bank = make_bank(tmp_path / "bank", pairs, layout)
    packed_bank = pack(bank, tmp_path / "pack", basis=12)
    stacked = updates(bank).reshape(-1, 1500)
    values = np.square(np.linalg.svd(stacked, compute_uv=False))
    side = values[:12].sum() / values.sum()
    assert packed_bank.index.packing
    assert side - 1e-3 < packed_bank.index.packing.retained_whole <= side + 1e-6


def test_adapters_of_different_ranks_are_packed(tmp_path: Path) -> None:
    pairs = [*random_pairs(2, 2), *random_pairs(2, 3, 1), *random_pairs(1, 2, 2)]
    bank = make_bank(tmp_path / "bank", pairs)
    packed_bank = pack(bank, tmp_path / "pack", basis=1000)
    assert np.allclose(updates(bank), updates(packed_bank), atol=2e-2)
    assert [file.rank for file in packed_bank.adapters()] == [2, 2, 3, 3, 2]


def test_zero_updates_are_packed(tmp_path: Path) -> None:
    zero = [[(A, 0 * B) for A, B in module] for module in random_pairs(3, 2)]
    bank = make_bank(tmp_path / "bank", zero)
    packed_bank = pack(bank, tmp_path / "pack", basis=4)
    assert packed_bank.index.packing
    assert packed_bank.index.packing.retained_whole == 1.0
    assert not updates(packed_bank).any()


@given(st.integers(0, 999), st.sampled_from([0, 1]))
def test_int8_error_is_at_most_half_a_step(seed: int, axis: int) -> None:
    values = np.random.default_rng(seed).normal(0, 2.0 ** (seed % 30 - 15), (5, 7))
    integers, scales = quantize(values.astype(np.float32), axis)
    back = dequantize(integers, scales, axis)
    assert np.abs(back - values).max() <= 0.51 * scales.max()
    assert scales.shape == ((5,), (7,))[axis]


def test_packs_keep_inner_products_for_the_neural_rule(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank", random_pairs(4, 3))
    packed_bank = pack(bank, tmp_path / "pack", basis=1000)
    grams = [sum(b.astype(np.float64) @ b.T for b in weight_blocks(x)) for x in (bank, packed_bank)]
    assert np.allclose(grams[0], grams[1], rtol=1e-2, atol=1e-1)


# --- files ----------------------------------------------------------------------------------------


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    layout = (Module("h.0.q", 1100, 24), Module("h.1.v", 1100, 1040))
    bank = make_bank(tmp_path / "bank", random_pairs(12, 4, layout=layout), layout)
    for name in ("a", "b"):
        pack(bank, tmp_path / name, basis=6)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    packed_bank = Bank(tmp_path / "a")
    assert verify(packed_bank) == []
    files = [*(tmp_path / "a/adapters").iterdir(), tmp_path / "a/basis.safetensors"]
    assert 0 <= sum(p.stat().st_size for p in files) - packed_bank.size < 2000  # the basis' header
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    for path in (tmp_path / "a").rglob("*.safetensors"):
        # the format's own reader agrees
        safetensors.safe_open(path, "np").keys()  # type: ignore[no-untyped-call]


def test_invalid_sources_and_targets_are_refused(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank", random_pairs(2, 2))
    packed_bank = pack(bank, tmp_path / "pack", basis=4)
    with raises_code("output.exists"):
        pack(bank, tmp_path / "pack", basis=4)
    with raises_code("bank.is-a-pack"):
        pack(packed_bank, tmp_path / "again", basis=4)
    with raises_code("pack.basis-too-low"):
        pack(bank, tmp_path / "x", basis=0)
    path = tmp_path / "bank" / adapter_path("a0")
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(IntegrityError):
        pack(Bank(tmp_path / "bank"), tmp_path / "x", basis=4)
    assert {p.name for p in tmp_path.iterdir()} == {"bank", "pack"}


def test_threads_share_the_parsed_header_of_equal_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_header = safetensors_module.parse_header

    def slow_parse(*args: Any) -> Any:
        time.sleep(0.05)
        return parse_header(*args)

    monkeypatch.setattr(safetensors_module, "parse_header", slow_parse)
    # a shape that no other test has, so that its header is not cached yet
    write_tensors(tmp_path / "a", WIDE, 7, "float32", random_pairs(1, 7)[0])
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(AdapterFile, [tmp_path / "a"] * 4))
    assert len({id(file.tensor_infos) for file in files}) == 1


def test_small_factors_of_another_form_are_refused(tmp_path: Path) -> None:
    raw = small_header(WIDE[:1], 2)
    header = json.loads(raw[8:])
    name = "base_model.model.h.0.q.lora_A.scales"
    header["base_model.model.h.0.q.lora_A.x.scales"] = header.pop(name)
    text = json.dumps(header).encode()
    body = b"\0" * max(v["data_offsets"][1] for k, v in header.items() if k[0] != "_")
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + body)
    with pytest.raises(AdapterError, match="scales"):
        PackedFile(tmp_path / "a")
    write_tensors(tmp_path / "b", WIDE, 6, "float16", random_pairs(1, 6)[0])
    with raises_code("pack.not-int8"):
        PackedFile(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packing": None}, "unexpected file"),
        ({"schema_version": 3}, "schema_version: must be 1 or 2"),
        ({"spaces": []}, "expected a space for each of 2 modules"),
        ({"dtype": "bf16"}, "packing.dtype"),
        ({"retained": ["x"]}, "retained"),
        ({"strange": 1}, "strange"),
        ({"spaces": [[4, 4], [4, 99]]}, "has other modules or ranks than the index"),
        ({"spaces": [[4, -4], [4, 4]]}, "has other modules or ranks than the index"),
    ],
)
def test_an_index_that_does_not_fit_its_pack_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    pack(make_bank(tmp_path / "bank", random_pairs(2, 2)), tmp_path / "pack", basis=4)
    path = tmp_path / "pack/bank.json"
    index = json.loads(path.read_bytes())
    (index if index.keys() & change.keys() else index["packing"]).update(change)
    path.write_text(json.dumps(index))
    with pytest.raises((BankError, IntegrityError), match=message):
        Bank(tmp_path / "pack").adapters()


def test_a_basis_of_other_shapes_is_refused(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank", random_pairs(3, 2))
    for size in (4, 5):
        pack(bank, tmp_path / f"{size}", basis=size)
    basis = tmp_path / "4/basis.safetensors"
    shutil.copyfile(tmp_path / "5/basis.safetensors", basis)
    index = json.loads((tmp_path / "4/bank.json").read_bytes())
    with pytest.raises(IntegrityError, match="checksum"):
        _ = Bank(tmp_path / "4").basis
    index["files"]["basis.safetensors"] = sha256(basis)
    (tmp_path / "4/bank.json").write_text(json.dumps(index))
    with raises_code("pack.other-shapes"):
        _ = Bank(tmp_path / "4").basis
    (tmp_path / "4/basis.safetensors").write_bytes(b"x" * 20)
    index["files"]["basis.safetensors"] = sha256(basis)
    (tmp_path / "4/bank.json").write_text(json.dumps(index))
    with pytest.raises(LoraMetaError):
        _ = Bank(tmp_path / "4").basis


# --- packs used as banks --------------------------------------------------------------------------


def test_an_adapter_from_a_pack_is_close_to_one_from_its_bank(
    tmp_path: Path, data: Path, bank: Built
) -> None:
    whole = Bank(bank.folder)
    sums = []
    for b in (whole, pack(whole, tmp_path / "pack", basis=8)):
        generation = generate(data, b, Recipe())
        sums.append(np.concatenate([(B @ A).ravel() for A, B in generation.pairs]))
    assert np.linalg.norm(sums[0] - sums[1]) < 0.02 * np.linalg.norm(sums[0])


def test_a_pack_is_listed_pushed_and_used(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, data: Path
) -> None:
    out = cli("bank", "pack", bank.repo, "-o", "pack", "--basis", 6, "-q").out
    assert "of the updates' energy" in out
    packing, sha = (
        Bank(tmp_path / "pack").index.packing,
        cli.hub.commits(bank.repo, "dataset")[0].sha,
    )
    assert packing
    assert (packing.source_id, packing.source_revision) == (bank.repo, sha)
    cli("bank", "pack", bank.folder, "-o", "none", "--basis", 0, code=2)
    report = cli("bank", "pack", bank.folder, "-o", "small", "--json", "-q").json
    assert report["after"] == Bank(tmp_path / "small").size
    assert min(report["retained"]) >= 0.97
    assert "pack: 4 to 6 basis vectors" in cli("bank", "list", "pack").out
    assert cli("bank", "verify", "pack", "--json").json == {"problems": []}
    repo = f"{user.name}/pack"
    cli("bank", "push", "pack", repo, token=user.token)
    assert "basis.safetensors" in cli.hub.files(repo, repo_type="dataset")
    card = cli.hub.read(repo, "README.md", repo_type="dataset").decode()
    assert f"from `{bank.repo}` at commit `{sha}`" in card
    cli.hub.clear_requests()
    cli("plan", "-d", data, "--bank", repo)
    assert not touched(cli.hub, "basis.safetensors")
    for name, source in (("a", "pack"), ("b", repo)):
        cli("generate", "-d", data, "--bank", source, "-o", name, "-q")
    weights = [(tmp_path / n / WEIGHTS_FILE).read_bytes() for n in "ab"]
    assert weights[0] == weights[1]
    assert touched(cli.hub, "resolve", "basis.safetensors")
    cli("push", "-d", data, "--bank", "pack", "--repo-id", f"{user.name}/x", "-q", token=user.token)
    assert WEIGHTS_FILE in cli.hub.files(f"{user.name}/x")


def test_build_refuses_a_folder_that_holds_a_pack(cli: Shell, bank: Built, tmp_path: Path) -> None:
    cli("bank", "pack", bank.folder, "-o", "pack", "-q")
    before = tree(tmp_path / "pack")
    manifest = bank.owner.manifest(tmp_path / "m")
    assert "bank pack" in cli("bank", "build", manifest, "-o", "pack", "-q", code=4).err
    assert tree(tmp_path / "pack") == before


def test_a_full_disk_leaves_no_files(cli: Shell, bank: Built, tmp_path: Path) -> None:
    for limit in (700, 1500):
        full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        err = cli("bank", "pack", bank.folder, "-o", "pack", "-q", code=4, before=full).err
        assert "could not be written" in err
        assert list(tmp_path.iterdir()) == []
