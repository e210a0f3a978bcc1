"""The guide for contributors: its examples run, and their methods work from recipe to adapter."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_lorameta.method
from hf_lorameta import Recipe, plan
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.method.registries import COEFFICIENT_RULES, COMBINERS, METRICS
from hf_lorameta.pipeline.make import make_adapter
from tests.support.codes import raises_code
from tests.support.plain_bank import plain_bank

README = Path(hf_lorameta.method.__file__).with_name("README.md")
OURS = {"metric": "tv", "coefficients": "inverse", "combine": "strongest"}


@pytest.fixture(autouse=True)
def examples() -> Iterator[None]:
    """Run the guide's examples, and remove their rows afterwards."""
    registries: tuple[dict[str, Any], ...] = (METRICS, COEFFICIENT_RULES, COMBINERS)
    before = [dict(registry) for registry in registries]
    code = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL))
    exec(compile(code, str(README), "exec"), {})
    yield
    for registry, rows in zip(registries, before, strict=True):
        registry.clear()
        registry.update(rows)


def test_registered_methods_generate_an_adapter(tmp_path: Path) -> None:
    rows = [{"input": f"question {i}", "output": f"answer {i}"} for i in range(30)]
    bank, recipe = plain_bank(), Recipe.of(**OURS)
    planned = plan(rows, bank, recipe)
    c = planned.coefficients
    assert c.sum() == pytest.approx(1)
    assert c.argmax() == planned.distances.argmin()
    assert (planned.distances > 0).all()
    assert (planned.distances <= 1).all()
    generation = make_adapter(planned)
    entry = bank.index.entries[int(c.argmax())]
    (file,) = bank.adapters([entry])
    module = bank.layout[0]
    A, B = file.factors(module.name)
    new_a, new_b = generation.pairs[0]
    np.testing.assert_allclose(new_b @ new_a, entry.scaling * B @ A, atol=1e-5)
    card = (generation.save_pretrained(tmp_path / "adapter") / "README.md").read_text("utf-8")
    assert "inverse: inverse distance weighting" in card


def test_a_bank_without_a_network_for_a_metric_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a question", "output": "an answer"}\n' * 30)
    recipe = Recipe.of(metric="tv", coefficients="neural")
    with raises_code("bank.other-metric") as raised:
        plan(path, embedded_bank(), recipe)
    assert "hf-lorameta bank train-rule" in str(raised.value.hint)
