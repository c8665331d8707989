"""The joint sampler by numbers, and the loader on tiny files."""

import dataclasses
import gc
import os
import random
import signal
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from unidual_zoo.data import joint
from unidual_zoo.data.augment import RandAugment
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.joint import Draw, JointDataset, JointLoader, JointSampler, LoaderError, step_shares
from unidual_zoo.data.media import MediaWarning
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.spec import ClipSpec, InputSpec

SPEC = InputSpec(resize=(20, 24), crop=(16, 16), clip=ClipSpec(length=3, stride=2))


# ---- the sampler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "weights", "rows"),
    [
        (16, [1, 1], [[8, 8], [8, 8]]),
        (16, [1, 1, 1], [[6, 5, 5], [5, 6, 5], [5, 5, 6], [6, 5, 5]]),
        (17, [1, 1, 1], [[6, 6, 5], [6, 5, 6], [5, 6, 6]]),
        (8, [3, 1], [[6, 2], [6, 2]]),
        (4, [100, 1], [[3, 1], [3, 1]]),  # no task goes without
        (6, [100, 1, 100], [[3, 1, 2], [2, 1, 3]]),
        (1, [5], [[1]]),
    ],
)
def test_shares_of_a_step(batch_size, weights, rows):
    assert step_shares(batch_size, weights, len(rows)).tolist() == rows


def test_shares_follow_the_weights_in_the_long_run():
    weights = np.array([0.61, 0.27, 0.12])
    rows = step_shares(10, weights.tolist(), 1000)
    assert (rows.sum(1) == 10).all()
    assert (rows.min(0) >= np.floor(10 * weights)).all()
    assert (rows.max(0) <= np.ceil(10 * weights)).all()
    assert np.abs(rows.cumsum(0) - np.outer(np.arange(1, 1001), 10 * weights)).max() < 1.5


@pytest.mark.parametrize(
    ("batch_size", "weights", "message"),
    [(1, [1, 1], "at least the number of tasks, 2"), (4, [1, 0], "must be positive")],
)
def test_impossible_shares(batch_size, weights, message):
    with pytest.raises(ValueError, match=message):
        step_shares(batch_size, weights, 1)


def sampler(**kwargs):
    return JointSampler({"a": 7, "b": 4, "c": 10}, **{"batch_size": 6, "epoch_size": 60} | kwargs)


def drawn(batch):
    return sorted((draw.task, draw.position) for draw in batch)


def test_every_file_comes_once_before_any_comes_again():
    one = sampler(epoch_size=6 * 7)
    draws = [draw for batch in one.batches(0, 70) for draw in batch]
    for task, size in one.sizes.items():
        order = [draw.index for draw in draws if draw.task == task]
        assert [draw.position for draw in draws if draw.task == task] == list(range(len(order)))
        passes = [order[i : i + size] for i in range(0, len(order) - size, size)]
        assert all(sorted(one_pass) == list(range(size)) for one_pass in passes)
        assert len({tuple(one_pass) for one_pass in passes}) > 1


def test_ranks_share_what_one_process_would_see():
    whole = sampler(batch_size=12, epoch_size=60)
    ranks = [sampler(rank=rank, world=2) for rank in range(2)]
    assert whole.steps_per_epoch == ranks[0].steps_per_epoch == 5
    for step in range(12):
        first, second = (rank.batch(step) for rank in ranks)
        assert not set(drawn(first)) & set(drawn(second))
        assert ranks[0].shares(step) == ranks[1].shares(step)
        assert drawn(first + second) == drawn(whole.batch(step))
        assert {(d.task, d.index) for d in first + second} == {(d.task, d.index) for d in whole.batch(step)}


def test_a_resumed_run_sees_the_batches_it_would_have_seen():
    whole = list(sampler(mix="proportional", seed=3).batches(0, 40))
    assert list(sampler(mix="proportional", seed=3).batches(17, 40)) == whole[17:]
    assert list(sampler(mix="proportional", seed=4).batches(0, 40)) != whole


def test_mixes():
    assert sampler(batch_size=21, mix="proportional").shares(0) == {"a": 7, "b": 4, "c": 10}
    assert sampler(batch_size=8, mix={"a": 2, "b": 1, "c": 1}).shares(0) == {"a": 4, "b": 2, "c": 2}
    for mix, message in (("fair", "allowed: equal, proportional"), ({"a": 1}, "the tasks are a, b, c")):
        with pytest.raises(ValueError, match=message):
            sampler(mix=mix)
    with pytest.raises(ValueError, match="no training files for b"):
        JointSampler({"a": 3, "b": 0}, batch_size=2, epoch_size=4)


# ---- the loader -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures, the first four of them broken, whose colour is their number."""
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, file in enumerate(files):
        Image.new("RGB", (24, 20), (number, 0, 0)).save(file)
    return MediaSet("image", ("even", "odd"), tuple(map(str, files)), tuple(number % 2 for number in range(8)))


@pytest.fixture
def film(monkeypatch):
    """A video of 9 frames whose colour is their number; no file is opened."""

    def load(path, clips, transform):
        frames = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 20, 24)
        return torch.stack([transform(frames[clip]).transpose(0, 1) for clip in clips(9, 25.0)])

    monkeypatch.setattr(joint, "load_clips", load)
    return MediaSet("video", ("one",), ("film.mp4",), (0,))


def dataset(*, augment=None, **media):
    return JointDataset(media, clip=SPEC.clip, transform=train_transform(SPEC, flip=True), augment=augment)


def loader(data, *, batch_size=4, max_failed=100):
    sizes = {task: len(files) for task, files in data.media.items()}
    return JointLoader(data, JointSampler(sizes, batch_size=batch_size, epoch_size=100), max_failed=max_failed)


def test_a_batch(pictures, film):
    batch = next(loader(dataset(images=pictures, clips=film)).batches(0, 1))
    assert list(batch.data) == ["images", "clips"]
    (images, labels), (clips, _) = batch.data.values()
    assert images.dtype == clips.dtype == torch.uint8
    assert images.shape == (2, 3, 16, 16)
    assert clips.shape == (2, 3, 3, 16, 16)
    assert ((images[:, 0, 0, 0] % 2) == labels).all()
    assert (clips[:, 0, 1:, 0, 0] - clips[:, 0, :-1, 0, 0] == SPEC.clip.stride).all()
    assert batch.failed == []


def test_an_example_depends_on_its_draw_alone_and_disturbs_nobody(pictures, film):
    data = dataset(images=pictures, clips=film, augment=RandAugment("rand-m9"))
    first = data[Draw("clips", 0, 5)].x
    torch.manual_seed(1)
    state, python_state = torch.random.get_rng_state(), random.getstate()
    assert torch.equal(data[Draw("clips", 0, 5)].x, first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == python_state
    starts = {data[Draw("clips", 0, position)].x[0, 0].max().item() for position in range(40)}
    assert len(starts) > 3


def test_a_file_of_several_labels_is_trained_on_each_of_them(pictures):
    data = dataset(images=dataclasses.replace(pictures, others=((1,), *[()] * (len(pictures) - 1))))
    assert {data[Draw("images", 0, position)].label for position in range(20)} == {pictures.labels[0], 1}
    assert data[Draw("images", 0, 3)].label == data[Draw("images", 0, 3)].label


def test_rand_augment_treats_all_frames_of_a_clip_alike():
    torch.manual_seed(0)
    frame = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    augment, changed = RandAugment("rand-m9-mstd0.5"), 0
    for _ in range(5):
        clip = augment(frame[:, None].expand(-1, 4, -1, -1))
        assert clip.shape == (3, 4, 32, 32)
        assert (clip == clip[:, :1]).all()
        changed += not torch.equal(clip[:, 0], frame)
    assert changed > 0
    assert augment(frame).shape == frame.shape


def break_files(media, count):
    for file in media.files[:count]:
        with open(file, "wb") as broken:
            broken.write(b"not a picture")


def test_a_broken_file_is_replaced_counted_and_named(pictures):
    break_files(pictures, 3)
    one, other = (loader(dataset(images=pictures)) for _ in range(2))
    batches, again = list(one.batches(0, 6)), list(other.batches(0, 6))
    assert all(len(batch.data["images"][1]) == 4 for batch in batches)
    assert all(torch.equal(a.data["images"][0], b.data["images"][0]) for a, b in zip(batches, again, strict=True))
    assert sorted(one.failed) == sorted(pictures.files[:3])
    assert all("image" in reason for reason in one.failed.values())
    assert {int(x) for batch in batches for x in batch.data["images"][0][:, 0, 0, 0]} == {3, 4, 5, 6, 7}


def fail_at_a_file(frames):
    if frames[..., 0, 0, 0] == 5:
        raise ValueError("31 is not a valid Type")
    return frames


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_foreign_error_is_that_of_its_file(pictures, num_workers):
    transform = train_transform(SPEC)
    data = JointDataset(
        {"images": pictures}, clip=SPEC.clip, transform=lambda x: transform(fail_at_a_file(x)), num_workers=num_workers
    )
    one = loader(data)
    assert len(list(one.batches(0, 4))) == 4
    assert one.failed == {pictures.files[5]: "it cannot be read (ValueError: 31 is not a valid Type)"}


def test_a_lack_of_memory_ends_everything_and_names_the_file(pictures, monkeypatch):
    def load(path, transform):
        raise MemoryError

    monkeypatch.setattr(joint, "load_image", load)
    with pytest.raises(MemoryError) as caught:
        dataset(images=pictures)[Draw("images", 2, 0)]
    assert caught.value.__notes__ == [f"while reading {pictures.files[2]}"]


def warn_of_a_file(frames):
    if (number := int(frames[0, 0, 0])) in (3, 5):
        warnings.warn(MediaWarning(f"{number}.png", "it ends early"), stacklevel=1)
    return frames


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_warnings_of_files_come_once_and_from_this_process(pictures, num_workers):
    transform = train_transform(SPEC)
    data = JointDataset(
        {"images": pictures}, clip=SPEC.clip, transform=lambda x: transform(warn_of_a_file(x)), num_workers=num_workers
    )
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always", MediaWarning)
        assert len(list(loader(data).batches(0, 8))) == 8  # each file several times
    messages = [str(warning.message) for warning in shown if warning.category is MediaWarning]
    assert sorted(messages) == ["3.png: it ends early", "5.png: it ends early"]


def test_more_broken_files_than_allowed_end_the_run(pictures):
    break_files(pictures, 3)
    with pytest.raises(LoaderError, match=r"step \d: 3 training files could not be read, 2 may; the last: .*\.png"):
        list(loader(dataset(images=pictures), max_failed=2).batches(0, 6))


def test_nothing_but_broken_files_ends_the_run(pictures):
    break_files(pictures, 8)
    with pytest.raises(LoaderError, match="11 training files in a row could not be read"):
        list(loader(dataset(images=pictures)).batches(0, 6))


def die_of_a_file(frames):
    if frames[..., 0, 0, 0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return frames


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead process's socket
def test_a_loader_process_that_dies_is_reported_with_its_file(pictures):
    data = JointDataset({"images": pictures}, clip=SPEC.clip, transform=die_of_a_file, num_workers=1)
    one = loader(data)
    with (
        pytest.raises(LoaderError, match=r"process died \(.*\); it was reading .*/5\.png$"),
        one.deaths_explained(),
    ):
        list(one.batches(0, 6))
    del one, data
    gc.collect()


def test_other_errors_pass_unchanged(pictures):
    with pytest.raises(RuntimeError, match=r"^something else$"), loader(dataset(images=pictures)).deaths_explained():
        raise RuntimeError("something else")
