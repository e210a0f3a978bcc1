"""Merges of adapters that PEFT made, against dense sums and PEFT's own updates."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from hf_lorameta import MergeRecipe, merge
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import GeneralEntry
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.errors import AdapterError, LoraMetaError, RecipeError, UsageError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.method.merging import exact
from hf_lorameta.method.registries import COMBINERS
from hf_lorameta.pipeline.adapter_folder import locate_adapter
from tests.conftest import LAYOUT, adapter_files, write_files
from tests.support.codes import raises_code
from tests.support.random_adapter import random_pairs, write_adapter
from tests.training import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 9, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj"]},
    "wide": {
        "r": 5, "lora_alpha": 4, "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    },
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "loha": {"r": 2, "target_modules": ["q_proj"]},
    "patterns": {"target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 7}},
}
WEIGHTS = {"plain": 0.7, "rslora": -0.3, "wide": 1.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny.write_base(tmp_path_factory.mktemp("base"))


def peft_model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one adapter of each kind, with random weights, saved by PEFT."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, settings) in enumerate((ADAPTERS | REFUSED).items()):
        torch.manual_seed(seed)
        make = peft.LoHaConfig if name == "loha" else peft.LoraConfig
        model = peft.get_peft_model(peft_model(base), make(task_type="CAUSAL_LM", **settings))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder / name)
    return folder


def updates(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    """Return the updates of the base model's weights that PEFT computes, by module."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(peft_model(base), adapter)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def weighted_sum(base: Path, adapters: Path, weights: dict[str, float]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        for module, update in updates(base, adapters / name).items():
            total[module] = total.get(module, 0) + weight * update.astype(float)
    return total


def merged(
    adapters: Path, target: Path, weights: dict[str, float] = WEIGHTS, **settings: object
) -> Path:
    recipe = MergeRecipe.of(dtype="float32", **settings)
    result = merge({adapters / name: weight for name, weight in weights.items()}, recipe)
    return result.save_pretrained(target)


def test_merge_is_the_weighted_sum_of_the_updates_that_peft_computes(
    base: Path, adapters: Path, tmp_path: Path
) -> None:
    actual = updates(base, merged(adapters, tmp_path / "m", rank=18))
    expected = weighted_sum(base, adapters, WEIGHTS)
    assert actual.keys() == expected.keys()
    for module, update in expected.items():
        np.testing.assert_allclose(actual[module], update, atol=1e-4)


def test_a_lower_rank_gives_the_best_fit(base: Path, adapters: Path, tmp_path: Path) -> None:
    actual = updates(base, merged(adapters, tmp_path / "m", rank=3))
    for module, update in weighted_sum(base, adapters, WEIGHTS).items():
        U, s, Vt = np.linalg.svd(update)
        np.testing.assert_allclose(actual[module], (U[:, :3] * s[:3]) @ Vt[:3], atol=1e-4)


def test_the_default_rank_is_the_largest_and_at_least_16(adapters: Path) -> None:
    assert merge({adapters / name: 1.0 for name in WEIGHTS}).rank == 16
    assert merge({adapters / "plain": 1.0, adapters / "wide": 1.0}).rank == 9


def test_other_peft_types_and_patterns_are_refused(adapters: Path) -> None:
    for name, reason in (("loha", "peft_type is 'LOHA'"), ("patterns", "alpha_pattern is set")):
        with pytest.raises(AdapterError, match=f"{name}: {reason}, expected") as raised:
            merge({adapters / name: 1.0})
        assert "save_as_lora" in raised.value.hint


def test_adapters_of_some_layers_give_an_adapter_of_these_layers(
    base: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], layers_to_transform=[0])
    peft.get_peft_model(peft_model(base), config).save_pretrained(tmp_path / "one")
    assert updates(base, merged(tmp_path, tmp_path / "m", {"one": 1.0})).keys() == {
        "model.layers.0.self_attn.q_proj"
    }


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("FEATURE_EXTRACTION", "FEATURE_EXTRACTION"), "FEATURE_EXTRACTION"),
        (("SEQ_2_SEQ_LM", None), "SEQ_2_SEQ_LM"),
        (("SEQ_2_SEQ_LM", "CAUSAL_LM"), None),
    ],
)
def test_the_task_type_that_all_adapters_state_is_kept(
    types: tuple[str | None, ...], expected: str | None, save: Callable[..., Path], tmp_path: Path
) -> None:
    weights = {save(f"a{i}", task_type=kind).name: 1.0 for i, kind in enumerate(types)}
    config = json.loads((merged(tmp_path, tmp_path / "m", weights) / CONFIG_FILE).read_bytes())
    assert config["task_type"] == expected


# --- ranks ---------------------------------------------------------------------------------------


def test_the_share_that_is_kept_of_the_squared_norm_is_stated(
    base: Path, adapters: Path, tmp_path: Path
) -> None:
    folder = merged(adapters, tmp_path / "m", rank=4)
    actual, expected = updates(base, folder), weighted_sum(base, adapters, WEIGHTS)
    lost = sum(float(np.square(expected[m] - actual[m]).sum()) for m in expected)
    norm = sum(float(np.square(update).sum()) for update in expected.values())
    kept = json.loads((folder / "recipe.json").read_bytes())["kept"]
    assert kept == pytest.approx(1 - lost / norm, 1e-4)


def test_gguf_has_the_updates_of_other_scalings(base: Path, adapters: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from hf_lorameta.formats.gguf_adapter import export
    from hf_lorameta.formats.gguf_architecture import permute

    config = json.loads((base / "config.json").read_bytes())
    heads = {"q_proj": 4}  # llama.cpp has its rows in another order
    names = {"q_proj": "attn_q", "v_proj": "attn_v", "down_proj": "ffn_down"}
    path = export(adapters / "wide", tmp_path / "wide.gguf", config, "f32")
    reader = gguf.GGUFReader(path)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    tensors = {t.name: t.data for t in reader.tensors}
    for module, update in updates(base, adapters / "wide").items():
        kind, layer = module.rpartition(".")[2], module.split(".")[2]
        prefix = f"blk.{layer}.{names[kind]}.weight"
        A, B = tensors[f"{prefix}.lora_a"], tensors[f"{prefix}.lora_b"]
        expected = permute(update, heads[kind]) if kind in heads else update
        np.testing.assert_allclose(alpha / len(A) * (B @ A), expected, atol=1e-4)


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a synthetic adapter."""

    def write(name: str, **settings: Any) -> Path:
        return write_files(tmp_path / name, adapter_files(**settings))

    return write


WIDE = tuple(module._replace(out_features=16) for module in LAYOUT)
REFUSALS: dict[str, tuple[list[float], dict[str, Any], MergeRecipe, type[LoraMetaError], str]] = {
    "no plain LoRA": ([1, 1], {"use_dora": True}, MergeRecipe(), AdapterError, ".*b: use_dora"),
    "another base": ([1, 1], {"base": "org/other"}, MergeRecipe(), AdapterError, ".*org/other"),
    "other sizes": ([1, 1], {"layout": WIDE}, MergeRecipe(), AdapterError, ".*is 16 × 8, in"),
    "ranks": ([1, 1], {"rank": 3}, MergeRecipe(combine="factors"), RecipeError, ".*rank 2, 3"),
    "only zeros": ([0, 0], {}, MergeRecipe(), UsageError, "the weights are 0, 0"),
    "nan": ([1, np.nan], {}, MergeRecipe(), UsageError, "the weights are 1, nan"),
    "infinite": ([1, np.inf], {}, MergeRecipe(), UsageError, "the weights are 1, inf"),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_adapters_and_weights_that_do_not_fit_are_refused(
    name: str, save: Callable[..., Path]
) -> None:
    (one, other), settings, recipe, error, message = REFUSALS[name]
    with pytest.raises(error, match=f"^{message}"):
        merge({save("a"): one, save("b", **settings): other}, recipe)
    with raises_code("merge.weights-invalid"):
        merge({})


@pytest.mark.parametrize("combine", list(COMBINERS))
def test_values_that_are_not_finite_are_refused_with_their_place(
    combine: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    damaged = save("damaged") / WEIGHTS_FILE
    damaged.write_bytes(damaged.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    place = rf"damaged/{WEIGHTS_FILE}: {LAYOUT[-1].name}.lora_B has NaN"
    with pytest.raises(AdapterError, match=place):
        merged(tmp_path, tmp_path / "m", {save("a").name: 1.0, "damaged": 1.0}, combine=combine)
    assert not (tmp_path / "m").exists()


def test_a_merge_without_a_callback_shows_its_progress(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def bar(total: int, desc: str, delay: float) -> MagicMock:
        shown.append(desc)
        return MagicMock()

    monkeypatch.setattr("tqdm.auto.tqdm", bar)
    merge({save("a"): 1.0}).save_pretrained(tmp_path / "m")
    assert shown == ["Merging"]


def test_an_unknown_name_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    with raises_code("adapter.not-found"):
        merge({"nothing-like-this": 1.0})
    (tmp_path / "out-cor.txt").touch()
    (tmp_path / "out-coe").mkdir()  # holds no adapter
    mistyped, core = tmp_path / "out-cor", save("out-core")
    for refused in (partial(merge, {str(mistyped): 1.0}), partial(locate_adapter, mistyped)):
        with pytest.raises(LoraMetaError) as raised:
            refused()
        assert raised.value.hint == f"name {core}"


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: {mit\n---\n", "unknown"),
        ("no metadata", "unknown"),
    ],
)
def test_a_folder_is_recorded_with_its_license_and_without_its_name(
    card: str, license_: str, save: Callable[..., Path]
) -> None:
    folder = save("a")
    (folder / "README.md").write_text(card)
    (row,) = merge({folder: 1.0}).record.adapters
    assert row.adapter == f"local adapter {row.sha256[:8]}"
    assert row.licenses == (license_,)


def test_a_merge_says_which_of_its_sources_were_made_with_4_bit_weights(
    save: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantized, other = save("a"), save("b", seed=1)
    record = merge({other: 1.0}).record
    base = record.base_model.model_copy(update={"four_bit": True})
    written = record.model_copy(update={"base_model": base}).to_dict()
    (quantized / RECIPE_FILE).write_text(json.dumps(written))
    once = merge({quantized: 1.0, other: 1.0}).save_pretrained(tmp_path / "once")
    twice = merge({once: 1.0, other: 1.0})
    for made in (once, twice.save_pretrained(tmp_path / "twice")):
        card = (made / "README.md").read_text()
        assert card.count("- 4-bit weights were used") == 1
    name = twice.record.adapters[0].adapter
    [warning] = twice.record.remarks
    assert warning.code == "base.four-bit"
    assert f"to make {name}:" in warning.text
    assert warning.text in caplog.text
    assert merge({other: 1.0}).record.remarks == ()


# --- banks --------------------------------------------------------------------------------------


def test_a_merge_of_a_general_adapter_is_private_if_its_bank_is() -> None:
    bank = embedded_bank()
    assert not merge({"general": 1.0}, bank=bank).private
    first, *others = bank.index.entries
    entries = (first.model_copy(update={"private": True}), *others)
    bank.index = bank.index.model_copy(update={"entries": entries})
    assert bank.private
    assert merge({"general": 1.0}, bank=bank).private


def test_entries_of_a_pack_are_merged_in_full_coordinates(tmp_path: Path) -> None:
    bank = embedded_bank()
    assert bank.basis is not None
    assert bank.index.general is not None
    entries: list[IndexEntry | GeneralEntry] = [bank.index.general, bank.index.entries[3]]
    module = bank.layout[0].name
    V, U = bank.basis.module(module)
    expected = np.zeros((len(U), V.shape[1]))
    for weight, entry in zip((1.0, -0.5), entries, strict=True):
        A, B = bank.adapter(entry).factors(module)
        expected += weight * entry.scaling * (U @ B) @ (A @ V)
    names = {"general": 1.0, bank.index.entries[3].adapter: -0.5}
    folder = merge(names, MergeRecipe(rank=32, dtype="float32")).save_pretrained(tmp_path / "m")
    A, B = AdapterFile(folder / WEIGHTS_FILE).factors(module)
    np.testing.assert_allclose(B @ A, expected, atol=1e-5)
    recipe = json.loads((folder / RECIPE_FILE).read_bytes())
    assert recipe["kept"] == pytest.approx(1)
    assert [row["weight"] for row in recipe["adapters"]] == [1.0, -0.5]


@pytest.mark.parametrize(("scaled", "warned"), [(1.0, False), (100.0, True)])
def test_an_output_prior_does_not_look_odd_but_its_module_scaled_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scaled: float, warned: bool
) -> None:
    prior, rng = embedded_bank().output_prior, np.random.default_rng(0)
    assert prior
    last = prior.module
    names = [f"model.layers.{number}.mlp.down_proj" for number in range(25, 29)]
    layout = (*(last._replace(name=name) for name in names), last)
    toward_tokens = rng.normal(0, 5, (last.out_features, 2)).astype(np.float32)
    for seed, (name, factor, strength) in enumerate((("a", 1.0, 0.05), ("b", scaled, 0.5))):
        *others, (A, B) = random_pairs(layout, rank=2, seed=seed, scale=0.01)
        with_prior = exact([A, prior.gates], [B, toward_tokens], [factor, strength], [1.0, 1.0], 4)
        wider = [exact([A], [B], [1.0], [1.0], 4) for A, B in others]
        write_adapter(tmp_path / name, layout, [*wider, with_prior], SMOLLM2)
    merge({tmp_path / "a": 0.5, tmp_path / "b": 0.5})
    assert ("looks odd beside" in caplog.text) == warned
