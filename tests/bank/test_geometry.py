"""The map of a bank, compared with points whose positions are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta import plan
from hf_lorameta.bank import geometry
from hf_lorameta.bank.geometry import bank_map, from_distances
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.method.metrics import METRICS
from tests.support.plain_bank import plain_bank


def squared(X: np.ndarray) -> np.ndarray:
    result: np.ndarray = ((X[:, None] - X[None]) ** 2).sum(axis=-1)
    return result


@given(st.integers(0, 2**32 - 1), st.integers(3, 20))
def test_points_in_a_plane_keep_their_distances(seed: int, number: int) -> None:
    D = squared(np.random.default_rng(seed).normal(size=(number, 2)))
    result = from_distances(D, np.arange(number))
    assert np.allclose(squared(result.points), D, atol=1e-6)
    assert result.share == pytest.approx(1)


def test_other_points_are_placed_by_landmarks() -> None:
    X = np.random.default_rng(0).normal(size=(50, 2))
    D, chosen = squared(X), np.arange(0, 50, 5)
    result = from_distances(D[chosen], chosen)
    assert np.allclose(squared(result.points), D, atol=1e-8)


def test_a_new_dataset_is_placed_by_its_distances() -> None:
    X = np.random.default_rng(1).normal(size=(12, 2))
    result = from_distances(squared(X), np.arange(12))
    new = np.array([0.3, -0.7])
    d = ((X - new) ** 2).sum(axis=1)
    placed = result.place(d)
    assert np.allclose(((result.points - placed) ** 2).sum(axis=1), d)


@pytest.mark.parametrize("metric", METRICS)
def test_a_bank_dataset_is_placed_at_its_own_point(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "LANDMARKS", 6)
    bank = plain_bank()
    result = bank_map(bank, metric)
    assert np.isfinite(result.points).all()
    assert 0 < result.share <= 1
    assert result.landmarks.tolist() == [0, 5, 10, 15, 20, 25]
    if metric == "kl":
        return  # not symmetric: the map shows its symmetric part
    from hf_lorameta.method.metrics import distances

    for i in (5, 7):  # a landmark and another one
        d = distances(bank.profiles[i], bank.profiles, bank.index.vocab_size, metric)
        assert np.allclose(result.place(d), result.points[i])


def test_equal_datasets_share_a_point_and_two_datasets_form_a_line() -> None:
    result = from_distances(np.zeros((3, 3)), np.arange(3))
    assert np.allclose(result.points, 0)
    two = from_distances(np.array([[0.0, 4.0], [4.0, 0.0]]), np.arange(2))
    assert abs(two.points[0, 0] - two.points[1, 0]) == pytest.approx(2)
    assert np.allclose(two.points[:, 1], 0)


def test_with_recipe_does_not_read_the_dataset_again() -> None:
    from hf_lorameta import Recipe

    data, bank = DATA_FOLDER / "train.jsonl", plain_bank()
    first = plan(data, bank, Recipe(metric="js"))
    second = first.with_recipe(Recipe(metric="wd", top_k=3))
    expected = plan(data, bank, Recipe(metric="wd", top_k=3))
    assert second.to_dict() == expected.to_dict()
    assert second.profile is first.profile
