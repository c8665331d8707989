"""Files by their names, what is no file, and the error that names one."""

import os
import pickle

import pytest

from unidual_zoo.data import MediaError, is_image, is_video, probe
from unidual_zoo.data.media import check_file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    with pytest.raises(MediaError, match="it is a pipe, not a file"):
        probe(path)
    with pytest.raises(MediaError, match="it is a device, not a file"):
        check_file("/dev/null")


def test_media_error_survives_a_trip_between_processes():
    error = pickle.loads(pickle.dumps(MediaError("a.mp4", "it is empty")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "it is empty", "a.mp4: it is empty")


def test_extensions():
    assert is_video("A/B.MP4")
    assert is_video("x.webm")
    assert is_image("x.JPeG")
    assert not is_image("x.mp4")
    assert not is_video("mp4")
