"""Clips made from images: where pictures go, against hand-computed poses and a plain pixel loop."""

import numpy as np
import pytest
import torch

from unidual_zoo.data.synthetic.motion import CAMERA_MOTIONS, MOTIONS, Layer, make_clip, motion_poses, warp

STEADY = {"speed": (1.0, 1.0), "easing": 0.0}


def _rng(seed=0):
    return np.random.default_rng(seed)


def _random_image(height, width, channels=3, seed=0):
    return _rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _dot(height=33, width=41, *, x=0, y=0, radius=4):
    """A white disc on black, its centre (x, y) pixels from the image's."""
    rows, columns = np.mgrid[:height, :width]
    inside = (columns - width // 2 - x) ** 2 + (rows - height // 2 - y) ** 2 <= radius**2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, axis=2)


def _centroids(clip):
    """Centroid (x, y) of brightness in each frame -> (T, 2)."""
    weights = clip.astype(float).sum(-1)
    rows, columns = np.mgrid[: clip.shape[1], : clip.shape[2]]
    return np.stack([(weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (columns, rows)], axis=1)


def test_poses_of_a_steady_motion_are_those_computed_by_hand():
    time = np.array([-0.375, -0.125, 0.125, 0.375])
    poses = motion_poses("pan left", num_frames=4, rng=_rng(), **STEADY)
    np.testing.assert_allclose(poses, np.stack([0.6 * time, 0 * time, 1 + 0 * time, 0 * time], axis=1))
    poses = motion_poses("zoom in", num_frames=4, rng=_rng(), speed=(2.0, 2.0), easing=0.0)
    np.testing.assert_allclose(poses[:, 2], np.exp(1.2 * time))


@pytest.mark.parametrize("motion", sorted(set(MOTIONS) - {"still", "shake", "bounce", "sway"}))
def test_directed_motions_go_one_way_at_varying_speed(motion):
    poses = motion_poses(motion, num_frames=50, rng=_rng(3), easing=0.9)
    steps = np.diff(poses, axis=0)
    (moving,) = np.flatnonzero(np.abs(steps).sum(0))
    assert len(set(np.sign(steps[:, moving]))) == 1
    assert np.abs(steps[:, moving]).max() > 1.2 * np.abs(steps[:, moving]).min()


@pytest.mark.parametrize(
    ("one", "other"),
    [("pan left", "pan right"), ("pan up", "pan down"), ("zoom in", "zoom out"), ("move left", "move right"),
     ("move up", "move down"), ("grow", "shrink"), ("rotate clockwise", "rotate anticlockwise"),
     ("spin clockwise", "spin anticlockwise")],
)  # fmt: skip
def test_opposite_motions_are_each_other_played_backwards(one, other):
    forwards = motion_poses(one, num_frames=9, rng=_rng(), **STEADY)
    backwards = motion_poses(other, num_frames=9, rng=_rng(), **STEADY)[::-1]
    np.testing.assert_allclose(forwards, backwards, atol=1e-12)


@pytest.mark.parametrize("motion", ["shake", "bounce", "sway"])
def test_oscillating_motions_turn_back_and_start_anywhere(motion):
    first, second = (motion_poses(motion, num_frames=50, rng=_rng(seed)) for seed in (0, 1))
    steps = np.diff(first, axis=0)
    assert any(len(set(np.sign(column))) > 1 for column in steps.T)
    assert not np.allclose(first[0], second[0])


def test_camera_motions_are_the_ten_of_a_camera():
    assert len(CAMERA_MOTIONS) == 10
    assert {name.split()[0] for name in CAMERA_MOTIONS} == {"still", "pan", "zoom", "rotate", "shake"}


def test_a_still_clip_repeats_the_image_exactly():
    image = _random_image(7, 5)
    clip = make_clip(image, motion="still", num_frames=3, rng=_rng())
    assert clip.shape == (3, 7, 5, 3)
    assert clip.dtype == np.uint8
    assert (clip == image).all()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("pan left", 0, 1), ("pan right", 0, -1), ("pan up", 1, 1), ("pan down", 1, -1)]
)
def test_the_picture_goes_against_the_camera(motion, axis, sign):
    centroids = _centroids(make_clip(_dot(), motion=motion, num_frames=8, rng=_rng()))
    assert (np.sign(np.diff(centroids[:, axis])) == sign).all()
    np.testing.assert_allclose(centroids[:, 1 - axis], (20, 16)[1 - axis], atol=0.05)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("move left", 0, -1), ("move right", 0, 1), ("move up", 1, -1), ("move down", 1, 1)]
)
def test_an_object_goes_where_its_motion_says(motion, axis, sign):
    layer = Layer(pixels=np.full((6, 6, 4), 255, np.uint8), motion=motion)
    image = np.zeros((32, 40, 3), np.uint8)
    clip = make_clip(image, motion="still", num_frames=8, rng=_rng(), layers=[layer], **STEADY)
    centroids = _centroids(clip)
    time = (np.arange(8) + 0.5) / 8 - 0.5
    np.testing.assert_allclose(centroids[:, axis], (19.5, 15.5)[axis] + sign * 0.7 * 32 * time, atol=0.05)


@pytest.mark.parametrize(("motion", "sign"), [("rotate clockwise", 1), ("rotate anticlockwise", -1)])
def test_clockwise_takes_what_is_right_of_the_centre_down(motion, sign):
    clip = make_clip(_dot(41, 41, x=10), motion=motion, num_frames=9, rng=_rng(), **STEADY)
    x, y = (_centroids(clip) - 20).T
    time = (np.arange(9) + 0.5) / 9 - 0.5
    np.testing.assert_allclose(np.arctan2(y, x), sign * 1.6 * time, atol=0.02)


@pytest.mark.parametrize(("motion", "sign"), [("zoom in", 1), ("zoom out", -1)])
def test_zooming_in_enlarges(motion, sign):
    clip = make_clip(_dot(radius=7), motion=motion, num_frames=6, rng=_rng())
    assert (np.sign(np.diff(clip.astype(float).sum((1, 2, 3)))) == sign).all()


def _plain_warp(picture, pose, *, size, padding):
    """`warp` of one (h, w, C) picture, pixel by pixel."""
    (height, width), (h, w) = size, picture.shape[:2]
    x, y, scale, angle = pose
    frame = np.zeros((height, width, picture.shape[2]))
    for row in range(height):
        for column in range(width):
            px = column + 0.5 - width / 2 - x * min(size)
            py = row + 0.5 - height / 2 - y * min(size)
            qx = (np.cos(angle) * px + np.sin(angle) * py) / scale + w / 2 - 0.5
            qy = (-np.sin(angle) * px + np.cos(angle) * py) / scale + h / 2 - 0.5
            for i in (int(np.floor(qy)), int(np.floor(qy)) + 1):
                for j in (int(np.floor(qx)), int(np.floor(qx)) + 1):
                    weight = (1 - abs(qy - i)) * (1 - abs(qx - j))
                    if 0 <= i < h and 0 <= j < w:
                        frame[row, column] += weight * picture[i, j]
                    elif padding == "reflection":
                        mi, mj = i % (2 * h), j % (2 * w)
                        frame[row, column] += weight * picture[min(mi, 2 * h - 1 - mi), min(mj, 2 * w - 1 - mj)]
    return frame


@pytest.mark.parametrize("padding", ["reflection", "zeros"])
@pytest.mark.parametrize("pose", [(0.3, -0.2, 1.0, 0.0), (0.0, 0.1, 0.6, 0.9), (-0.5, 0.4, 1.7, -2.5)])
def test_warp_equals_a_plain_loop(pose, padding):
    picture = _random_image(7, 10, 4).astype(np.float32)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    frame = warp(tensor, np.array([pose]), size=(9, 6), padding=padding)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(frame, _plain_warp(picture, pose, size=(9, 6), padding=padding), atol=2e-2)


def test_layers_cover_by_their_alpha_and_the_last_is_in_front():
    image = np.full((4, 4, 3), 100, np.uint8)
    opaque, half = np.full((4, 4, 4), 255, np.uint8), np.full((4, 4, 4), 255, np.uint8)
    opaque[..., :3], half[..., :3], half[..., 3] = 200, 0, 51
    layers = [Layer(pixels=opaque, x=0.5), Layer(pixels=half)]
    frame = make_clip(image, motion="still", num_frames=1, rng=_rng(), layers=layers)[0, ..., 0]
    np.testing.assert_array_equal(frame, [[80, 80, 160, 160]] * 4)  # a fifth black over 100, and over 200


def test_a_layer_starts_from_its_own_pose():
    spot = np.zeros((9, 9, 4), np.uint8)
    spot[4, 8] = 255  # at the right edge of the layer
    layer = Layer(pixels=spot, x=0.25, y=-0.25, scale=2.0, angle=np.pi / 2)
    frame = make_clip(np.zeros((24, 24, 3), np.uint8), motion="still", num_frames=1, rng=_rng(), layers=[layer])
    np.testing.assert_allclose(_centroids(frame)[0], (11.5 + 6, 11.5 - 6 + 8), atol=0.05)


def test_the_camera_sees_the_layers_too():
    layer = Layer(pixels=np.full((6, 6, 4), 255, np.uint8))
    black = np.zeros((32, 32, 3), np.uint8)
    clip = make_clip(black, motion="pan left", num_frames=5, rng=_rng(), layers=[layer])
    assert (np.diff(_centroids(clip)[:, 0]) > 0).all()


def test_noise_has_its_deviation_and_is_new_in_every_frame():
    grey = np.full((32, 32, 3), 128, np.uint8)
    clip = make_clip(grey, motion="still", num_frames=4, rng=_rng(), noise=10.0).astype(float)
    assert clip.std() == pytest.approx(10, rel=0.03)
    assert np.corrcoef(clip[0].ravel(), clip[1].ravel())[0, 1] == pytest.approx(0, abs=0.06)


def test_brightness_drifts_smoothly_within_its_bounds():
    grey = np.full((2, 2, 3), 100, np.uint8)
    clips = [make_clip(grey, motion="still", num_frames=30, rng=_rng(seed), drift=0.2) for seed in range(20)]
    levels = np.array(clips).astype(float)[:, :, 0, 0, 0]
    assert levels.min() >= 80
    assert levels.max() <= 120
    assert np.ptp(levels, axis=1).max() > 10
    assert np.abs(np.diff(levels, axis=1)).max() <= 4


def test_values_beyond_white_and_black_are_clipped():
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    clip = make_clip(image, motion="still", num_frames=50, rng=_rng(), noise=30.0)
    assert (clip[:, 0, 0] < 128).all()
    assert (clip[:, 0, 1] > 128).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_generator_decides_everything(motion):
    first, same, other = (
        make_clip(_random_image(9, 12), motion=motion, num_frames=6, rng=_rng(seed), noise=3.0, drift=0.1)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": "pan sideways"}, "no motion 'pan sideways', the nearest of 20: pan down, pan left"),
        ({"num_frames": 0}, "1 frame or more"),
        ({"easing": 1.0}, r"easing in \[0, 1\)"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"must be \(H, W, 3\) uint8, got \(4, 4\) uint8"),
        ({"image": np.zeros((4, 4, 3))}, r"got \(4, 4, 3\) float64"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"image": _random_image(4, 4), "motion": "still", "num_frames": 2, "rng": _rng()} | change
    with pytest.raises(ValueError, match=message):
        make_clip(arguments.pop("image"), **arguments)
