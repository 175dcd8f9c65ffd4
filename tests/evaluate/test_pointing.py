"""The pointing game against examples by hand, its chance level and its ceiling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.evaluate.pointing import PointingGame, cell_shares, hit


def test_a_hit_is_the_share_of_the_highest_cell_by_hand():
    """A 4 x 4 picture under a 2 x 2 grid: the region covers three of four pixels top right, one bottom right."""
    region = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    cover = cell_shares(region, 2)
    np.testing.assert_array_equal(cover, [[0, 0.75], [0, 0.25]])
    assert hit(np.array([[0.1, 0.9], [0.2, 0.3]]), cover) == 0.75
    assert hit(np.array([[0.9, 0.1], [0.2, 0.3]]), cover) == 0.0
    assert hit(np.array([[0.0, 0.5], [0.0, 0.5]]), cover) == 0.5  # two highest cells share the point
    assert hit(np.zeros((2, 2)), cover) == cover.mean() == region.mean()  # a flat map points nowhere: chance


def test_pixels_on_the_edge_of_two_cells_count_for_both_in_parts():
    """Three pixels under two cells: the middle one lies half in each."""
    region = np.array([[True, False, False]] * 3)
    np.testing.assert_allclose(cell_shares(region, 2), [[2 / 3, 0], [2 / 3, 0]])
    region[:, 1] = True
    np.testing.assert_allclose(cell_shares(region, 2), [[1, 1 / 3], [1, 1 / 3]])


@given(st.integers(1, 12), st.integers(1, 17), st.integers(1, 17), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_chance_is_the_share_of_the_picture_on_every_grid(side, height, width, seed, share):
    """A cell drawn blindly hits with the region's share, however the grid lies over the pixels."""
    region = np.random.default_rng(seed).random((height, width)) < share
    cover = cell_shares(region, side)
    assert cover.shape == (side, side)
    assert cover.mean() == pytest.approx(region.mean(), abs=1e-12)
    assert cover.min() >= 0
    assert cover.max() <= 1 + 1e-12


def test_the_statistic_weighs_the_pictures_that_were_played_alone():
    nan = math.nan
    game = PointingGame(np.array([1.0, nan, 0.0]), np.array([0.1, nan, 0.3]), np.array([1.0, nan, 0.5]))
    assert game.used.tolist() == [True, False, True]
    weights = np.array([[1.0, 3.0, 0.0], [1.0, 9.0, 9.0], [1.0, 1.0, 0.0]])
    values = game(weights)
    np.testing.assert_allclose(values["pointing_game"], [0.5, 0.75, nan])
    np.testing.assert_allclose(values["pointing_game_ceiling"], [0.75, 0.875, nan])
    assert game.chance("pointing_game") == pytest.approx(0.2)
    assert math.isnan(game.chance("pointing_game_ceiling"))
