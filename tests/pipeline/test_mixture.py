"""Mixtures as PEFT loads them with the code on their card, against dense matrices."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import tree
from tests.training import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")


from hf_lorameta import Bank, Plan, Recipe, generate, plan  # noqa: E402
from hf_lorameta.errors import AdapterError, BankError, UsageError  # noqa: E402
from hf_lorameta.formats.lora_file import check_adapter  # noqa: E402
from hf_lorameta.pipeline.adapter_folder import (  # noqa: E402
    COEFFICIENTS_FILE,
    EXPERTS,
    read_adapter,
)
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.mixture import ROUTED, Mixture  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated", "ignore::FutureWarning"
)
IDS = torch.tensor([[3, 7, 12, 4, 18, 9, 5, 15, 11, 6]])


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    general: dict[str, Any] = {"general_steps": 30, "general_rows": 4, "general_lr": 0.02}
    return tiny.write_bank(tmp_path_factory.mktemp, topics=4, **general)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with rows of all topics."""
    lines = [line for topic in range(4) for line in tiny.rows(topic, 12)]
    return tiny.write_task(tmp_path_factory.mktemp("new"), "all", lines)


def planned(new: Path, bank: Bank, **settings: Any) -> Plan:
    # the rule gives each of the four a positive coefficient
    return plan(new, bank, Recipe(coefficients="attentional", dtype="float32", **settings))


def load_as_the_card_says(folder: Path) -> Any:
    """Run the lines of the card up to the prompt; return the model."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    code = code.partition("\nprompt = ")[0].replace("path/to/this/folder", str(folder))
    exec(code.replace("path/to/base/model", read_adapter(folder).config.base_model), names)
    return names["model"]


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=IDS).logits[0].numpy())


def updates(bank: Bank, name: str) -> dict[str, np.ndarray]:
    """Return the dense update of each module."""
    entry = next(entry for entry in bank.index.adapters if entry.name == name)
    file = bank.adapter(entry)
    return {
        m.name: entry.scaling * file.tensor(m.name, "B") @ file.tensor(m.name, "A")
        for m in bank.layout
    }


def base_with(bank: Bank, added: dict[str, np.ndarray]) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(bank.index.base_model)
    for module, update in added.items():
        model.get_submodule(module).weight.data += torch.from_numpy(np.float32(update))
    return model


def prototypes_of(model: Any) -> dict[str, np.ndarray]:
    """Return the prototypes that PEFT has computed for each module."""
    return {
        name.removeprefix("base_model.model."): module.lora_arrow["arrow_router"].prototypes.numpy()
        for name, module in model.named_modules()
        if hasattr(module, "lora_arrow")
    }


@contextmanager
def arrow(
    model: Any, experts: list[dict[str, np.ndarray]], prototypes: dict[str, np.ndarray]
) -> Iterator[None]:
    """Add the updates to the outputs of a model's modules, routed token by token."""

    def hook(module: str) -> Any:
        def add(_: object, inputs: tuple[Any], output: Any) -> Any:
            x = inputs[0][0].numpy()
            total = np.zeros(output[0].shape, np.float32)
            for t, token in enumerate(x):
                scores = np.array([abs(token @ v) for v in prototypes[module]])
                chosen = np.argsort(scores)[-ROUTED:]
                weights = np.exp(scores[chosen] - scores.max())
                for i, weight in zip(chosen, weights / weights.sum(), strict=True):
                    total[t] += weight * (experts[i][module] @ token)
            return output + torch.from_numpy(total)

        return add

    hooks = [model.get_submodule(m).register_forward_hook(hook(m)) for m in experts[0]]
    yield
    for added in hooks:
        added.remove()


def shared_update(of: Plan) -> dict[str, np.ndarray]:
    prior = of.output_prior()
    assert prior
    assert of.output_strength
    return {of.layout[-1].name: of.output_strength * prior[1] @ prior[0]}


def test_no_warning_proposes_to_check_a_mixture(bank: Bank, new: Path) -> None:
    far = replace(planned(new, bank, emit="mixture"), distances=np.full(4, 1e3))
    texts = [*map(str, far.remarks)]
    assert any("compare it with the base model" in text for text in texts)
    assert not any("--check" in text for text in texts)


def test_what_a_mixture_is_warned_of_is_logged_once(
    bank: Bank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"input": "say egg", "output": "salt"}\n')
    made = generate(few, bank, Recipe(emit="mixture"))
    warnings = [str(r) for r in made.remarks if r.level == "warning"]
    assert any("Only 1 row was read" in warning for warning in warnings)
    assert caplog.messages == warnings


def test_a_mixture_of_nothing_is_refused(bank: Bank, new: Path) -> None:
    of = planned(new, bank, emit="mixture")
    negative = replace(of, coefficients=-of.coefficients)
    with pytest.raises(BankError, match="no adapter has a positive coefficient"):
        Mixture(negative)


def test_peft_loads_it_with_the_code_on_the_card_and_routes_as_arrow_does(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    of = planned(new, bank, emit="mixture")
    mixture = Mixture(of)
    loaded = load_as_the_card_says(mixture.save_pretrained(tmp_path / "m"))
    routed, prototypes = logits(loaded), prototypes_of(loaded)
    experts = [updates(bank, entry.name) for entry in mixture.entries]
    assert len(experts) == 4 > ROUTED
    assert prototypes.keys() == experts[0].keys()
    for module, rows in prototypes.items():  # PEFT's 15 steps of an iteration come close to them
        for row, expert in zip(rows, experts, strict=True):
            gain = np.linalg.norm(expert[module] @ row)
            assert gain > 0.95 * np.linalg.norm(expert[module], 2)
    model = base_with(bank, shared_update(of))
    with arrow(model, experts, prototypes):
        expected = logits(model)
    np.testing.assert_allclose(routed, expected, atol=1e-4)
    assert np.abs(logits(model) - expected).max() > 0.1  # so the experts matter


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_mixture_of_one_is_the_adapter_multiplied_by_the_scale(
    bank: Bank, new: Path, tmp_path: Path, scale: float | None
) -> None:
    mixture = Mixture(planned(new, bank, emit="mixture", top_k=1, output_prior=0, scale=scale))
    (entry,) = mixture.entries
    folder = mixture.save_pretrained(tmp_path / "m")
    assert ("multiplied by 0.50." in (folder / "README.md").read_text()) == (scale == 0.5)
    one = logits(load_as_the_card_says(folder))
    update = {name: (scale or 1) * whole for name, whole in updates(bank, entry.name).items()}
    expected = logits(base_with(bank, update))
    np.testing.assert_allclose(one, expected, atol=1e-4)


def test_servers_get_adapters_of_one_rank_listed_by_coefficient(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    of = planned(new, bank, emit="mixture", top_k=3, rank=6)
    folder = Mixture(of).save_pretrained(tmp_path / "m")
    listed = json.loads((folder / COEFFICIENTS_FILE).read_bytes())
    assert [a["dataset"] for a in listed] == [n.dataset for n in of.neighbors()]
    assert [a["coefficient"] for a in listed] == sorted(
        (a["coefficient"] for a in listed), reverse=True
    )
    names = [a["adapter"].replace("/", "--") for a in listed]
    assert {path.name for path in (folder / EXPERTS).iterdir()} == set(names)
    for name in names:
        config, weights = check_adapter(folder / EXPERTS / name)
        assert (config.rank, config.scaling, weights.layout) == (6, 1.0, bank.layout)
        for module, update in updates(bank, name).items():
            B, A = weights.tensor(module, "B"), weights.tensor(module, "A")
            np.testing.assert_allclose(B @ A, update, atol=1e-5)


def test_the_same_plan_gives_the_same_bytes_and_replaces_only_what_it_may(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    mixture = Mixture(planned(new, bank, emit="mixture", top_k=2))
    first, second = (mixture.save_pretrained(tmp_path / name) for name in "ab")
    assert tree(first) == tree(second)
    saved = read_adapter(first)
    assert saved.provenance
    assert saved.provenance["recipe"]["emit"] == "mixture"
    assert (saved.config.rank, saved.modules) == (4, len(bank.layout))
    with pytest.raises(UsageError, match="already holds"):
        mixture.save_pretrained(first)
    make_adapter(planned(new, bank)).save_pretrained(first, overwrite=True)
    assert not (first / EXPERTS).exists()
    note = second / EXPERTS / "notes.txt"
    note.write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(experts/notes.txt\)"):
        mixture.save_pretrained(second, overwrite=True)


def test_a_mixture_without_its_adapters_is_refused(tmp_path: Path) -> None:
    (tmp_path / EXPERTS / "a").mkdir(parents=True)
    with pytest.raises(AdapterError, match="has no adapter_config"):
        read_adapter(tmp_path)


def test_what_a_mixture_cannot_do_is_refused(bank: Bank, new: Path, tmp_path: Path) -> None:
    of = planned(new, bank, emit="mixture")
    with pytest.raises(UsageError, match=r"llama\.cpp adds adapters up"):
        Mixture(of).save_pretrained(tmp_path / "m", export="gguf")
    assert not (tmp_path / "m").exists()
    made = generate(new, bank, of.recipe)
    assert repr(made) == repr(Mixture(of))
    with pytest.raises(UsageError, match="asks for one adapter"):
        Mixture(planned(new, bank))
    bank.index = bank.index.model_copy(update={"layout": bank.index.layout[:-1]})
    with pytest.raises(BankError, match="adapts only some"):
        Mixture(of)
