"""A file whose decoder hangs, crashes or takes all memory is an error about that file, and the next one is read."""

import os
import pickle
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from media import write_video

from unidual_zoo.data import MediaError, MediaWarning, load_clips
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.guarded import Guard, guarded, read_guarded
from unidual_zoo.data.joint import Draw, JointDataset, collate
from unidual_zoo.data.transforms import Framing
from unidual_zoo.spec import ClipSpec

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")


class Odd(Exception):
    """It pickles, and does not unpickle."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"odd {number}")


def read(path: str, number: int = 0):
    """A decoder that does what the file is called."""
    if path == "hangs":
        time.sleep(60)
    elif path == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif path == "takes all":
        return np.ones(2**30)
    elif path == "leaves":
        os._exit(3)
    elif path == "raises":
        raise ValueError("as readers do")
    elif path == "no file":
        raise MediaError(path, "it is not there")
    elif path == "warns":
        warnings.warn(MediaWarning(path, "it ends early"), stacklevel=1)
    elif path == "raises oddly":
        raise Odd(number=7)
    elif path == "stays":
        return lambda: None
    return path, number, os.getpid()


@pytest.fixture
def guard():
    guard = Guard(read, seconds=1.5, memory=2**28)
    yield guard
    guard.close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("hangs", "reading it took more than 1.5 seconds and was ended"),
        ("crashes", "the process that read it died of SIGSEGV"),
        ("takes all", "takes more than 268,435,456 bytes of memory"),
        ("leaves", "the process that read it ended with status 3"),
    ],
)
def test_what_ends_the_process_is_an_error_about_the_file(guard, path, reason):
    first = guard("a", 1)
    assert first[:2] == ("a", 1)
    assert guard("b")[2] == first[2] != os.getpid()  # one process reads them all
    with pytest.raises(MediaError, match=reason) as caught:
        guard(path)
    assert caught.value.path == path
    assert guard("c", 2)[:2] == ("c", 2)


def test_errors_and_warnings_come_through(guard):
    with pytest.raises(ValueError, match="as readers do"):
        guard("raises")
    with pytest.raises(RuntimeError, match=r"^Odd\('odd 7'\)$"):
        guard("raises oddly")
    with pytest.raises(MediaError, match="it is not there"):
        guard("no file")
    with pytest.warns(MediaWarning, match="it ends early"):
        assert guard("warns")[0] == "warns"
    with pytest.raises(RuntimeError, match="cannot leave its process"):
        guard("stays")
    assert pickle.loads(pickle.dumps(guard))("d")[0] == "d"  # it goes to loader processes


def test_tensors_come_as_they_lie_in_memory():
    def make(path):
        clips = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5).movedim(-1, 1)
        return clips, (torch.arange(6.0)[2:], torch.empty(0)), np.arange(3)

    guard = Guard(make, seconds=5)
    clips, (floats, empty), numbers = guard("x")
    guard.close()
    assert torch.equal(clips, make("x")[0])
    assert clips.stride() == make("x")[0].stride()
    clips += 1  # it can be written
    assert (floats.tolist(), empty.shape, numbers.tolist()) == ([2, 3, 4, 5], (0,), [0, 1, 2])


def test_several_processes_read_and_the_slow_one_holds_up_nobody():
    jobs = [("hangs", ()), *((f"{i}", (i,)) for i in range(6))]
    results = dict(read_guarded(read, jobs, workers=2, seconds=1.5, memory=2**30))
    assert isinstance(results.pop("hangs"), MediaError)
    assert {path: result[1] for path, result in results.items()} == {f"{i}": i for i in range(6)}


def test_no_limit_no_process():
    assert guarded(read, 0) is read
    assert guarded(read, None) is read
    with pytest.raises(ValueError, match="must be from 0"):
        guarded(read, -1)


def test_a_loader_reads_the_same_behind_a_guard(tmp_path):
    files = (str(write_video(tmp_path / "a.mp4", 12)), str(tmp_path / "gone.mp4"))
    media = {"acts": MediaSet("video", ("x",), files, (0, 0))}
    draws = [Draw("acts", 0, 0), Draw("acts", 1, 1)]
    batches = []
    for seconds in (None, 20):
        data = JointDataset(media, clip=ClipSpec(length=4), transform=Framing(32, (32, 32)), file_seconds=seconds)
        batches.append(collate([data[draw] for draw in draws]))
    plain, watched = batches
    assert torch.equal(plain.data["acts"][0], watched.data["acts"][0])
    assert plain.failed == watched.failed
    assert set(plain.failed) == {(files[1], "there is no such file")}
    whole = load_clips(files[0], [[0, 1]], Framing(32, (32, 32)))
    assert whole.stride() == Guard(load_clips, seconds=5)(files[0], [[0, 1]], Framing(32, (32, 32))).stride()
