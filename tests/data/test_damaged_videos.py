"""Videos that are damaged, too large or none: what can be read of them, or one MediaError."""

import contextlib
import gc
import io
import os
import pickle
import struct
import warnings

import numpy as np
import pytest
from media import (
    X265,
    assert_exact,
    edit_boxes,
    full_decode,
    overwrite,
    packets_of,
    remux,
    write_jpegs,
    write_sound,
    write_video,
)
from PIL import Image

from unidual_zoo.data import MediaError, MediaWarning, Video, decode, probe, read_frames


def bad_file(folder, name):
    path = folder / name
    if name == "text.mp4":
        path.write_text("This is no video.\n" * 200)
    elif name == "noise.mp4":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "folder.mp4":
        path.mkdir()
    elif name == "sound.m4a.mp4":
        write_sound(path)
    elif name in ("cut.mp4", "cut_more.mp4"):  # the index stands at the end
        path.write_bytes(write_video(folder / "uncut.mp4").read_bytes()[: -800 if name == "cut.mp4" else -2000])
    elif name == "no_key.mkv":
        source = write_video(folder / "with_key.webm", codec="libvpx-vp9", options={"g": "99"})
        remux(source, path, lambda i, packet: i >= 3)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text.mp4", "cannot be opened as a video"),
        ("noise.mp4", "cannot be opened as a video"),
        ("empty.mp4", "it is empty"),
        ("missing.mp4", "there is no such file"),
        ("folder.mp4", "it is a folder"),
        ("sound.m4a.mp4", "no video stream, only sound"),
        ("cut.mp4", "its video is damaged"),
        ("cut_more.mp4", "cannot be opened as a video"),
        ("no_key.mkv", "no video frame that can be decoded"),
    ],
)
def test_a_bad_file_is_a_media_error(tmp_path, name, reason):
    path = bad_file(tmp_path, name)
    for read in (probe, lambda path: read_frames(path, [0])):
        with pytest.raises(MediaError, match=reason) as caught:
            read(path)
        assert (caught.value.path, str(caught.value)) == (str(path), f"{path}: {caught.value.reason}")
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*cut.mp4")
def test_a_file_cut_short_gives_its_frames_and_names_the_first_lost_one(tmp_path):
    source = write_video(tmp_path / "source.mp4", 40, options={"g": "8"})
    whole = remux(source, tmp_path / "whole.mp4", options={"movflags": "faststart"})
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames = full_decode(path)
    n = len(frames)
    assert 5 < n < 35
    with pytest.warns(MediaWarning, match=r"cut\.mp4: it ends early, after \d+ of its 40 packets"):
        assert probe(path).frames == n
    assert np.array_equal(read_frames(path, [n - 1, 0]), [frames[n - 1], frames[0]])
    with pytest.raises(MediaError, match=f"frame {n} of 40 cannot be decoded"):
        read_frames(path, [0, n, n + 1])
    with pytest.raises(IndexError, match=f"frame 40 was asked, but its {n} frames"):
        read_frames(path, [40])


def test_a_matroska_file_cut_short_is_noticed_by_its_stated_duration(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", 100)
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(MediaWarning, match=r"cut\.mkv: it ends early, after [12]\.\d of its 4\.0 seconds"):
        assert probe(path).frames < 75
    for name, pts in [("short.mkv", None), ("long_last_frame.webm", [0, 1, 2, 3, 20])]:
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        assert probe(write_video(tmp_path / name, 5, codec=codec, pts=pts)).frames == 5


DAMAGED = {
    "h264.mp4": {"options": {"g": "8", "bf": "0"}},
    "h264_reordered.mkv": {"options": {"g": "8", "bf": "2"}},
    "hevc.mp4": {"codec": "libx265", "size": (64, 64), "options": X265},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "8"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "8", "cpu-used": "8"}},
    "av1.mkv": {"codec": "libsvtav1", "size": (64, 64), "options": {"g": "8", "preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_packet_that_is_written_over_is_left_out_and_decoding_goes_on(tmp_path, name):
    path = overwrite(write_video(tmp_path / name, **DAMAGED[name]), 13)
    frames = full_decode(path)
    assert 22 <= len(frames) < 30  # ffmpeg drops what refers to it, too, in some codecs
    with pytest.warns(MediaWarning, match=rf"it gives {len(frames)} of the 30 frames that its packets promise"):
        assert probe(path).frames == len(frames)
    with pytest.warns(MediaWarning):
        assert_exact(path, frames)


def test_a_packet_whose_damage_only_decoding_shows(tmp_path, from_start):
    """The index stands until the packet is met; then frames are counted as decoding gives them."""
    path = write_video(tmp_path / "video.mov", codec="mjpeg", pix_fmt="yuvj420p")
    overwrite(path, 13, 2, 400, data=b"\xff\xd9")  # where its tables are
    frames = full_decode(path)
    assert len(frames) == 29
    assert probe(path).frames == 30
    assert np.array_equal(read_frames(path, [12]), frames[12:13])
    assert not from_start
    said = r"video\.mov: it gives 29 of the 30 frames that its packets promise \(Invalid data found when"
    with pytest.warns(MediaWarning, match=said):
        assert np.array_equal(read_frames(path, [20, 12, 13]), [frames[20], frames[12], frames[13]])
    video = Video(path)
    assert video.frames == 30
    assert np.array_equal(video.read(range(29)), frames)
    assert video.frames == 29
    assert np.array_equal(video.read([28]), frames[28:])
    with pytest.raises(MediaError, match=r"frame 29 of 30 cannot be decoded \(Invalid data"):
        video.read([29])
    with pytest.warns(MediaWarning, match="it gives 29 of the 30 frames that its packets promise"):
        video.__exit__(None)


def test_clips_are_chosen_again_where_decoding_gives_fewer_frames(tmp_path):
    path = write_video(tmp_path / "video.mov", codec="mjpeg", pix_fmt="yuvj420p")
    overwrite(path, 13, 2, 400, data=b"\xff\xd9")
    frames = full_decode(path)
    asked = []

    def thirteenth_and_last(number, rate):
        asked.append(number)
        return [[13, number - 1]]

    video = Video(path)
    clips, numbers, pictures = decode.read_clips(video, thirteenth_and_last)
    assert (asked, clips, numbers) == ([30, 29], [[13, 28]], [13, 28])
    assert np.array_equal(pictures, [frames[13], frames[28]])
    with pytest.warns(MediaWarning, match="it gives 29 of the 30 frames"):
        video.__exit__(None)
    with pytest.raises(MediaError, match="frame 29 of 30 cannot be decoded"), Video(path) as video:
        decode.read_clips(video, [[13, 29]])


@pytest.mark.parametrize("name", ["mpeg4.mp4", "x264.mp4"])
def test_an_empty_packet_is_left_out_and_decoding_goes_on(tmp_path, name):
    whole = write_video(
        tmp_path / f"whole_{name}", 25, codec="mpeg4" if name == "mpeg4.mp4" else "libx264", options={"bf": "0"}
    )
    sizes = [len(packet) for packet in packets_of(whole)]
    sizes.insert(7, 0)
    tables = {
        b"stsz": [0, 0, 26, *sizes],
        b"stts": [0, 1, 26, 512],
        b"stsc": [0, 1, 1, 26, 1],
        b"stco": [0, 1, whole.read_bytes().index(packets_of(whole)[0])],
        b"edts": [],
    }
    path = tmp_path / name
    path.write_bytes(
        edit_boxes(
            whole.read_bytes(),
            lambda kind, content: struct.pack(f">{len(tables[kind])}I", *tables[kind]) if kind in tables else content,
        )
    )
    frames = full_decode(whole)
    with pytest.warns(MediaWarning, match="it has 1 empty packet"):
        assert_exact(path, frames)


def test_what_is_wrong_is_one_warning(tmp_path):
    path = overwrite(write_video(tmp_path / "several.mp4", options={"g": "8", "bf": "0"}), 13)
    video = Video(path)
    for _ in range(2):
        assert (video.frames, video.info().frames, len(video.read([5, 28]))) == (29, 29, 2)
    with pytest.warns(MediaWarning) as caught:
        video.__exit__(None)
    [warning] = caught
    message = warning.message
    assert isinstance(message, MediaWarning)
    assert message.path == str(path)
    reason = "it gives 29 of the 30 frames that its packets promise (Invalid data found when processing input)"
    assert message.reason == reason
    assert str(pickle.loads(pickle.dumps(message))) == f"{path}: {reason}"
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(ZeroDivisionError), Video(path) as video:
        warnings.simplefilter("always")
        assert video.frames == 29
        raise ZeroDivisionError
    assert not caught  # what ended it is told already


@pytest.mark.parametrize("name", ["_open", "_note_packets", "_decode_all"])
@pytest.mark.parametrize("error", [ValueError("31 is no type"), KeyError("x"), MemoryError(), KeyboardInterrupt()])
def test_whatever_pyav_raises_is_a_media_error(tmp_path, monkeypatch, name, error):
    path = write_video(tmp_path / "video.mp4", 5)

    def fails(*_):
        raise error

    monkeypatch.setattr(Video, name, fails)
    with pytest.raises(MediaError if isinstance(error, (ValueError, KeyError)) else type(error)) as caught:
        probe(path)
    if isinstance(caught.value, MediaError):
        assert str(path) in str(caught.value)
        assert str(error) in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile neighbour.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\nneighbour.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
    ids=["concat", "playlist", "session"],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_a_text_that_names_other_files_is_no_video(tmp_path, text, name):
    write_video(tmp_path / "neighbour.mp4", 5)
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MediaError, match="it cannot be opened as a video"):
        read_frames(path, [0])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_no_video(tmp_path, format):
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 48)).save(path, format)
    with pytest.raises(MediaError, match="it cannot be opened as a video"):
        probe(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files under /proc")
def test_nothing_leaks(tmp_path):
    paths = [
        write_video(tmp_path / "a.mp4", 20, size=(128, 256), options={"g": "5"}),
        write_video(tmp_path / "b.avi", 20, size=(128, 256), codec="mpeg4"),
        bad_file(tmp_path, "sound.m4a.mp4"),
        bad_file(tmp_path, "text.mp4"),
    ]

    def read_all(times):
        for _ in range(times):
            for path in paths:
                with contextlib.suppress(MediaError):
                    probe(path)
                    read_frames(path, [19, 3])

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    gc.disable()  # nothing may wait for the collector of cycles
    try:
        read_all(10)
        files, memory = len(os.listdir("/proc/self/fd")), resident()
        read_all(60)
        assert len(os.listdir("/proc/self/fd")) == files
        assert resident() - memory < 10e6  # a leaked read would hold 2 MB of frames
    finally:
        gc.enable()


# ---- limits ----------------------------------------------------------------------------------------------------------


def jpeg(height, width, stated=None):
    """A JPEG file, of another size than what it states in its frame header."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "JPEG")
    data = file.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", *(stated or (height, width))) + data[at + 4 :]


def test_frames_of_more_pixels_than_the_limit(tmp_path):
    stated = write_jpegs(tmp_path / "stated.avi", [jpeg(16, 16, (16_000, 16_000))] * 3, size=(16_000, 16_000))
    with pytest.raises(MediaError, match=r"no video frame that can be decoded \(.*or beyond 35,651,584 pixels"):
        probe(stated)
    first, hidden = jpeg(16, 16), jpeg(16, 16, (16_000, 16_000))
    path = write_jpegs(tmp_path / "hidden.avi", [first, hidden, first], size=(16, 16))
    with pytest.warns(MediaWarning, match="it gives 2 of the 3 frames that its packets promise"):
        assert read_frames(path, [0, 1]).shape == (2, 16, 16, 3)


def test_a_header_that_states_more_pixels_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 48 * 64)
    assert probe(write_video(tmp_path / "as_large.mp4", 2)).frames == 2
    with pytest.raises(MediaError, match="its frames have 66x48 = 3,168 pixels, at most 3,072 are read"):
        probe(write_video(tmp_path / "larger.mp4", 2, size=(48, 66)))


def test_frames_that_scaling_would_make_too_large(tmp_path):
    path = write_video(tmp_path / "thin.mkv", 2, size=(2, 4000), codec="ffv1")
    assert read_frames(path, [0], short_side=20).shape == (1, 20, 40_000, 3)
    with pytest.raises(MediaError, match="frames, scaled to 400000x200, have 80,000,000 pixels, at most"):
        read_frames(path, [0], short_side=200)


def test_more_frames_at_once_than_the_limit(tmp_path, monkeypatch):
    path = write_video(tmp_path / "many.mp4", 12)
    monkeypatch.setattr(decode, "MAX_READ_BYTES", 10 * 48 * 64 * 3)
    assert len(read_frames(path, range(10))) == 10
    with pytest.raises(
        MediaError, match="11 frames of 64x48 would take 101,376 bytes, at most 92,160 are read at once"
    ):
        read_frames(path, range(11))


def test_more_packets_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PACKETS", 9)
    for name, codec in [("many.mp4", "libx264"), ("many.avi", "mpeg4")]:
        assert probe(write_video(tmp_path / name, 9, codec=codec)).frames == 9
        with pytest.raises(MediaError, match="it has more than 9 packets"):
            probe(write_video(tmp_path / name, 10, codec=codec))


def test_a_table_that_states_more_samples_than_the_limit(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", 3)
    table = struct.pack(">3I", 0, 1, 10**8)  # as FFmpeg's index they would take 7 GB
    path = tmp_path / "stated.mp4"
    path.write_bytes(edit_boxes(plain.read_bytes(), lambda kind, content: table if kind == b"stsz" else content))
    with pytest.raises(MediaError, match="its tables state 100,000,000 samples, at most 8,388,608 are read"):
        probe(path)
