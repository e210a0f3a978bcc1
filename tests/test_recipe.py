"""Recipes: validation, immutability, JSON, and the paper's settings."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hf_lorameta.errors import RecipeError
from hf_lorameta.method.registries import COEFFICIENT_RULES, COMBINERS, METRICS
from hf_lorameta.pipeline.request import Request
from hf_lorameta.recipe import MAX_RANK, REGISTRIES, Dtype, Recipe
from tests.support.codes import raises_code

RECIPES = st.builds(
    Recipe,
    metric=st.sampled_from(list(METRICS)),
    coefficients=st.sampled_from(list(COEFFICIENT_RULES)),
    combine=st.sampled_from(list(COMBINERS)),
    top_k=st.none() | st.integers(1, 10**6),
    temperature=st.floats(1e-300, 1e300),
    scale=st.none() | st.floats(1e-3, 4),
    rank=st.none() | st.integers(3, MAX_RANK),
    dtype=st.sampled_from(get_args(Dtype)),
    seed=st.integers(0, 2**63),
    max_rows=st.none() | st.integers(1, 10**9),
)


@given(RECIPES)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    parsed = Recipe.model_validate_json(recipe.model_dump_json())
    assert parsed == recipe
    assert hash(parsed) == hash(recipe)
    assert Recipe.of(**json.loads(recipe.model_dump_json())) == recipe


@pytest.mark.parametrize(("field", "registry"), REGISTRIES.items())
def test_every_method_of_a_registry_can_be_chosen(field: str, registry: dict[str, object]) -> None:
    for name in registry:
        assert getattr(Recipe.of(**{field: name}), field) == name


def test_a_recipe_is_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.rank = 4
    assert recipe == Recipe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"metric": "cosine"},
            f"metric must be one of {', '.join(METRICS)}, got 'cosine'",
        ),
        ({"coefficients": ""}, "coefficients must be"),
        (
            {"combine": "soup"},
            f"combine must be one of {', '.join(COMBINERS)}, got 'soup'",
        ),
        ({"metric": 3}, "metric must be a valid string, got 3"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"temperature": 0}, "temperature must be more than 0, got 0"),
        ({"scale": 0}, "scale must be more than 0 and at most 4, got 0"),
        ({"temperature": -1.0}, "temperature must be more than 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be finite and more than 0, got nan"),
        ({"temperature": float("inf")}, "temperature must be finite and more than 0, got inf"),
        ({"rank": 0}, f"rank must be at least 1 and at most {MAX_RANK}, got 0"),
        ({"rank": MAX_RANK + 1}, f"rank must be at least 1 and at most {MAX_RANK}, got "),
        ({"rank": 1.5}, "rank must be a valid integer"),
        ({"check": 3}, "check must be at least 4 and at most 4096, got 3"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_rows": -1}, "max_rows must be at least 0"),
        ({"steps": 3}, "got steps=3, expected none without train"),
        ({"check": 8, "steps": 3}, "got steps=3, expected none without train"),
        ({"train": 16, "steps": 0}, "steps must be at least 1, got 0"),
        ({"train": 16, "steps": "24,12"}, "steps must be a valid integer, "),
        ({"fit": 16}, "fit is not a setting, expected one of dataset, "),
        ({"learning_rate": 1e-3}, "learning_rate is not a setting, expected one of dataset, "),
    ],
)
def test_invalid_settings_are_refused_with_the_name_of_the_field(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        Request.of(**settings)
    assert str(raised.value).startswith(message)
    assert raised.value.hint
    assert raised.value.exit_code == 2
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ({"train": 4}, "raise --train"),
        ({"rank": MAX_RANK + 1}, "lower --rank"),
        ({"temperature": 0}, "leave out --temperature"),
        ({"temperature": float("nan")}, "leave out --temperature"),
        ({"scale": 0}, "leave out --scale"),
    ],
)
def test_the_advice_for_a_number_out_of_range_is_the_direction_or_the_default(
    setting: dict[str, float], hint: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        Request.of(**setting)
    assert raised.value.hint == hint


def test_the_constructor_refuses_settings_in_the_same_words() -> None:
    with raises_code("recipe.invalid", match="topk"):
        Recipe(topk=3)  # type: ignore[call-arg]


def test_the_papers_recipe_has_its_settings_unless_others_are_given() -> None:
    recipe = Recipe.paper(metric="wd", seed=3)
    paper = {"coefficients": "normalized", "combine": "factors", "output_prior": 0.0}
    assert recipe.model_dump() == Recipe().model_dump() | paper | {"metric": "wd", "seed": 3}


def test_the_papers_default_recipe_is_js_normalized() -> None:
    assert (Recipe.paper().metric, Recipe.paper().coefficients) == ("js", "normalized")
    with raises_code("recipe.invalid", match="sharpness"):
        Recipe.paper(sharpness=2)
