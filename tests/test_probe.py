"""The probe against PEFT, and its gradient against finite differences."""

from pathlib import Path

import numpy as np
import pytest

from hf_lorameta import adapter as lora
from hf_lorameta.errors import AdapterError

pytest.importorskip("torch")
pytest.importorskip("peft")

from hf_lorameta import forward
from hf_lorameta.adapter import Module
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.probe import Probe
from tests.test_evaluate import HIDDEN, ROWS, save_base

LAYOUT = (
    Module("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
    Module("model.layers.1.self_attn.v_proj", HIDDEN, HIDDEN // 2),
)
ALIKE = [(f"the same instruction for every row of it: {q}", a) for q, a in ROWS]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    return Evaluator(save_base(tmp_path_factory.mktemp("probe") / "base"), dtype="float32")


def pairs(rank: int = 2) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = [((rank, m.in_features), (m.out_features, rank)) for m in LAYOUT]
    return [tuple(rng.standard_normal(s).astype(np.float32) for s in both) for both in shape]


def test_an_update_scores_as_the_adapter_does_in_peft(evaluator: Evaluator, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    lora.write_tensors(folder / lora.WEIGHTS_FILE, LAYOUT, 2, "float32", pairs())
    (folder / lora.CONFIG_FILE).write_bytes(lora.write_config("org/base", LAYOUT, 2))
    probe = Probe(evaluator, LAYOUT)
    tokens = probe.encode(ALIKE)
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    assert probe.loss(tokens) == pytest.approx(base, abs=1e-6)
    probe.set(pairs())
    adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
    assert abs(adapted - base) > 1e-3
    assert probe.loss(tokens) == pytest.approx(adapted, abs=1e-5)
    probe.clear()
    assert probe.loss(tokens) == pytest.approx(base, abs=1e-6)


def test_a_gradient_is_the_slope_of_the_loss(evaluator: Evaluator) -> None:
    probe = Probe(evaluator, LAYOUT)
    tokens = probe.encode(ALIKE)
    probe.set(pairs())
    loss, slopes = probe.gradient(tokens)
    assert loss == pytest.approx(probe.loss(tokens), abs=1e-6)
    for step, (module, slope) in enumerate(zip(LAYOUT, slopes, strict=True)):
        assert slope.shape == (module.out_features, module.in_features)
        ends = []
        for sign in (1, -1):
            moved = pairs(2)
            A, B = moved[step]
            A = np.concatenate([A, sign * 1e-2 * slope[:1]])  # one more rank: a step along a row
            B = np.concatenate([B, np.eye(len(B), 1, dtype=np.float32)], axis=1)
            moved[step] = (A, B)
            probe.set(moved)
            ends.append(probe.loss(tokens))
        expected = float((slope[0] ** 2).sum())
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(expected, rel=0.05, abs=1e-5)


@pytest.mark.parametrize("rows", [ALIKE, ROWS, ALIKE[:1]], ids=["alike", "unlike", "one"])
def test_a_shared_beginning_changes_no_loss(
    evaluator: Evaluator, rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = evaluator.evaluate(rows, generate=False)[0].loss
    monkeypatch.setattr(forward, "_WORTH_SHARING", 10**9)
    assert shared == pytest.approx(evaluator.evaluate(rows, generate=False)[0].loss, abs=1e-6)


def test_modules_the_model_lacks_are_named(evaluator: Evaluator) -> None:
    with pytest.raises(AdapterError, match=r"has no module model\.layers\.9"):
        Probe(evaluator, (Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN),))
    with pytest.raises(AdapterError, match=r"expected \(7, 32\)"):
        Probe(evaluator, (Module("model.layers.0.self_attn.q_proj", HIDDEN, 7),))
