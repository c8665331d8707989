"""Drawn objects, backgrounds and clutter."""

import numpy as np
import pytest

from unidual_zoo.data.synthetic.scenes import OBJECTS, draw_background, draw_clutter, draw_object


def _rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_fill_their_square_and_are_transparent_around(name):
    for seed in range(5):
        picture = draw_object(name, side=40, rng=_rng(seed))
        assert picture.shape == (40, 40, 4)
        assert picture.dtype == np.uint8
        rows, columns = np.nonzero(picture[..., 3])
        assert max(np.ptp(rows), np.ptp(columns)) >= 27
        assert picture[0, 0, 3] == picture[-1, 0, 3] == 0
        assert picture[..., 3].max() == 255


def test_facing_right_is_the_mirror_of_facing_left():
    left, right = (draw_object("fish", side=31, rng=_rng(), facing=facing) for facing in ("left", "right"))
    np.testing.assert_array_equal(right, left[:, ::-1])
    columns = left[..., 3].sum(0).astype(float)
    assert columns @ np.arange(31) / columns.sum() < 15  # the body is in front of the tail


def test_objects_vary_in_colour_and_proportion():
    pictures = [draw_object("house", side=32, rng=_rng(seed)) for seed in range(2)]
    colours = [picture[picture[..., 3] == 255][:, :3].mean(0) for picture in pictures]
    assert np.abs(colours[0] - colours[1]).max() > 5
    assert (pictures[0][..., 3] != pictures[1][..., 3]).any()


def test_a_ring_is_open_in_the_middle():
    picture = draw_object("key", side=64, rng=_rng())
    assert picture[32, 17, 3] == 0
    assert picture[32, 40, 3] == 255


def test_clutter_covers_more_with_more_shapes():
    covered = [(draw_clutter((24, 36), num_shapes=n, rng=_rng())[..., 3] > 0).mean() for n in (0, 3, 40)]
    assert covered[0] == 0
    assert covered[0] < covered[1] < covered[2] < 1


def test_backgrounds_are_opaque_images_with_structure():
    pictures = [draw_background((24, 37), rng=_rng(seed)) for seed in range(3)]
    assert {picture.shape for picture in pictures} == {(24, 37, 3)}
    assert all(picture.std(axis=(0, 1)).max() > 2 for picture in pictures)
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[0], draw_background((24, 37), rng=_rng(0)))
