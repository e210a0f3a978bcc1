"""The map of a bank, against geometry that is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta import METRICS, Bank, bank_map, plan
from hf_lorameta.bank.map import LANDMARKS, from_distances
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.errors import BankError


def squared(X: np.ndarray) -> np.ndarray:
    return ((X[:, None] - X[None]) ** 2).sum(axis=-1)


@given(st.integers(0, 2**32 - 1), st.integers(3, 20))
def test_points_of_a_plane_keep_their_distances(seed: int, number: int) -> None:
    D = squared(np.random.default_rng(seed).normal(size=(number, 2)))
    drawn = from_distances(D, np.arange(number))
    assert np.allclose(squared(drawn.points), D, atol=1e-6)
    assert drawn.share == pytest.approx(1)


def test_landmarks_place_all_others() -> None:
    X = np.random.default_rng(0).normal(size=(50, 2))
    D, chosen = squared(X), np.arange(0, 50, 5)
    drawn = from_distances(D[chosen], chosen)
    assert np.allclose(squared(drawn.points), D, atol=1e-8)


def test_a_new_dataset_lands_where_its_distances_say() -> None:
    X = np.random.default_rng(1).normal(size=(12, 2))
    drawn = from_distances(squared(X), np.arange(12))
    new = np.array([0.3, -0.7])
    d = ((X - new) ** 2).sum(axis=1)
    placed = drawn.place(d)
    assert np.allclose(((drawn.points - placed) ** 2).sum(axis=1), d)


@pytest.mark.parametrize("metric", METRICS)
def test_a_dataset_of_the_bank_lands_on_its_own_point(metric: str) -> None:
    bank = Bank.from_pretrained()
    drawn = bank_map(bank, metric)
    assert np.isfinite(drawn.points).all()
    assert 0 < drawn.share <= 1
    assert len(drawn.landmarks) == min(LANDMARKS, len(bank))
    if metric == "kl":
        return  # not symmetric: the map is of its symmetric part
    from hf_lorameta.method.distances import distances

    d = distances(bank.profiles[5], bank.profiles, bank.index.vocab_size, metric)
    assert np.allclose(drawn.place(d), drawn.points[5])


def test_equal_datasets_are_one_point_and_two_make_a_line() -> None:
    drawn = from_distances(np.zeros((3, 3)), np.arange(3))
    assert np.allclose(drawn.points, 0)
    two = from_distances(np.array([[0.0, 4.0], [4.0, 0.0]]), np.arange(2))
    assert abs(two.points[0, 0] - two.points[1, 0]) == pytest.approx(2)
    assert np.allclose(two.points[:, 1], 0)


def test_distances_of_another_bank_are_refused() -> None:
    drawn = bank_map(Bank.from_pretrained(), "js")
    with pytest.raises(BankError, match=r"expected \(26,\)"):
        drawn.place(np.zeros(3))


def test_other_settings_need_no_second_reading() -> None:
    from hf_lorameta import Recipe

    first = plan(DATA_FOLDER / "train.jsonl", recipe=Recipe(metric="js"))
    second = first.with_recipe(Recipe(metric="wd", top_k=3))
    anew = plan(DATA_FOLDER / "train.jsonl", recipe=Recipe(metric="wd", top_k=3))
    assert second.to_dict() == anew.to_dict()
    assert second.profile is first.profile
