"""Mutated files never hang, crash the interpreter or take more memory than they may, and every failure is a MediaError.

The files are made here, in several codecs, and mutated by seed: bits turned over, stretches overwritten or made zero,
pieces cut out, the end cut off. Each is read in a process with limits of time and memory, whose death would be told. By
default this takes three seconds, so that it is part of every run of the tests; at length, with as many other seeds:

    UNIDUAL_FUZZ_SECONDS=3600 UNIDUAL_FUZZ_SEED=7 pytest -n 0 tests/fuzz
"""

import os
import random
import time
import warnings

import numpy as np
import pytest
from media import full_decode, scene, write_video
from PIL import Image

from unidual_zoo.data import MediaError, MediaWarning, Video, load_clips, probe, read_image
from unidual_zoo.data.guarded import Guard
from unidual_zoo.data.sampling import uniform_clips
from unidual_zoo.data.transforms import Framing
from unidual_zoo.spec import ClipSpec

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be ended")

SECONDS = float(os.environ.get("UNIDUAL_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("UNIDUAL_FUZZ_SEED", "0"))
FILE_SECONDS, FILE_MEMORY = 20, 2**30  # that a tiny file may take, on a busy machine
VIDEOS = {
    "h264.mp4": {"options": {"g": "8", "bf": "2"}},
    "h264.mkv": {"options": {"g": "30"}},
    "h264.ts": {"options": {"g": "8"}},
    "hevc.mp4": {"codec": "libx265", "size": (64, 64), "options": {"x265-params": "log-level=none:keyint=10"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "8", "cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "8"}},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
IMAGES = {
    "plain.jpg": {},
    "progressive.jpg": {"progressive": True},
    "grey.png": {"mode": "L"},
    "palette.gif": {"mode": "P"},
    "lossless.webp": {"lossless": True},
    "lossy.webp": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "rows.bmp": {},
}
CLIP = ClipSpec(length=4, stride=2)
# Frames of VP9 have no numbers, and Matroska does not say how many there are. Where damage takes whole blocks away and
# what follows can be read at once, only a gap in time is left, which recordings of variable rate have as well.
SILENT_ABOUT = "vp9.webm"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> the bytes of each file, and the frames of each video."""
    folder = tmp_path_factory.mktemp("whole")
    for name, settings in VIDEOS.items():
        write_video(folder / name, 20, **settings)
    for name, settings in IMAGES.items():
        mode = settings.get("mode", "RGB")
        options = {key: value for key, value in settings.items() if key != "mode"}
        Image.fromarray(scene(1, 60, 80)[0]).convert(mode).save(folder / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MediaWarning)
        frames = {name: full_decode(folder / name) for name in VIDEOS}
    return {path.name: path.read_bytes() for path in folder.iterdir()}, frames


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """(how, the bytes) of one mutation, or of several of one kind."""
    how = rng.choice(("bits", "noise", "zeros", "cut out", "cut off", "twice"))
    changed = bytearray(data)
    at = rng.randrange(len(data))
    length = rng.choice((1, 4, 64, 512, 2048))
    if how == "bits":
        for _ in range(rng.choice((1, 8, 64))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "noise":
        changed[at : at + length] = rng.randbytes(len(changed[at : at + length]))
    elif how == "zeros":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    elif how == "cut out":
        del changed[at : at + length]
    elif how == "cut off":
        del changed[at:]
    else:
        changed[at:at] = changed[at : at + length]
    return how, bytes(changed)


def read_video(path: str) -> int:
    """Everything that the package does with a video: its facts, clips, and a survey of all frames."""
    frames = probe(path).frames
    load_clips(path, lambda number, rate: uniform_clips(number, CLIP, num_clips=2, rate=rate), Framing(32, (32, 32)))
    with Video(path, strict=True) as video:
        video.survey(4, side=16)
    return frames


def read_picture(path: str) -> tuple[int, ...]:
    read_image(path, fit=lambda height, width: (height // 2, width // 2))
    return read_image(path).shape


def outcome(guard: Guard, path: str) -> str | None:
    """The reason why a file failed, None if it was read; anything but a MediaError is a failure of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MediaWarning)
        try:
            guard(path)
        except MediaError as error:
            return error.reason if error.path == path else f"the process that read it names {error.path}"
    return None


def is_our_fault(reason: str | None) -> bool:
    return reason is not None and any(
        said in reason for said in ("and was ended", "process that read it", "bytes of memory")
    )


@pytest.mark.parametrize(("kind", "read"), [(VIDEOS, read_video), (IMAGES, read_picture)], ids=["videos", "images"])
def test_mutated_files_end_in_a_media_error_or_are_read(files, tmp_path, kind, read):
    guard = Guard(read, seconds=FILE_SECONDS, memory=FILE_MEMORY)
    until, seed, failed = time.monotonic() + SECONDS / 3, SEED, 0
    try:
        while time.monotonic() < until or seed < SEED + len(kind):
            rng = random.Random(seed)
            name = list(kind)[seed % len(kind)]
            how, data = mutated(files[0][name], rng)
            path = tmp_path / name
            path.write_bytes(data)
            reason = outcome(guard, str(path))
            assert not is_our_fault(reason), f"seed {seed}: {name}, {how}: {reason}"
            failed += reason is not None
            seed += 1
    finally:
        guard.close()
    assert failed, "no mutation did any harm: they are too tame"


def test_a_video_damaged_in_the_middle_is_not_taken_for_whole(files, tmp_path):
    """A stretch of the middle with whole frames in it is lost or overwritten: that is told, or no frame is missing.

    Noise within one frame that an arithmetic decoder takes for pixels is seen by nobody: these codecs have no checksum.
    """
    whole, frames = files
    guard = Guard(complaints, seconds=FILE_SECONDS, memory=FILE_MEMORY)
    names = list(VIDEOS)
    until, seed, told = time.monotonic() + SECONDS / 3, SEED, 0
    try:
        while time.monotonic() < until or seed < SEED + 2 * len(names):
            rng = random.Random(seed)
            name = names[seed % len(names)]
            data = bytearray(whole[name])
            length = len(data) // 4
            at = rng.randrange(len(data) // 4, len(data) // 2)
            data[at : at + length] = rng.choice((bytes(length), rng.randbytes(length), b""))
            path = tmp_path / name
            path.write_bytes(data)
            said, count = guard(str(path))
            assert said or count == len(frames[name]) or name == SILENT_ABOUT, f"seed {seed}: {name} is taken for whole"
            told += bool(said)
            seed += 1
    finally:
        guard.close()
    assert told >= 0.9 * (seed - SEED)


def complaints(path: str) -> tuple[list[str], int]:
    """What is said of a video: why it cannot be read, or what is wrong with it; and its number of frames."""
    count = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Video(path, strict=True) as video:
                video.survey(4, side=16)
                count = video.frames
        except MediaError as error:
            return [error.reason], 0
    return [str(warning.message) for warning in caught], count


def test_whole_files_are_no_reason_to_complain(files, tmp_path):
    for name, data in files[0].items():
        path = tmp_path / name
        path.write_bytes(data)
        if name in VIDEOS:
            assert complaints(str(path)) == ([], len(files[1][name]))
        else:
            assert read_image(path).dtype == np.uint8
