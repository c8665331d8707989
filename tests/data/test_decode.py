"""Every frame of every trap equals a plain full decode, bit for bit."""

import io
import struct
import warnings

import av
import numpy as np
import pytest
from media import (
    X265,
    assert_exact,
    full_decode,
    join,
    packets_of,
    remux,
    write_fields,
    write_jpegs,
    write_palette,
    write_video,
)
from PIL import Image

from unidual_zoo.data import MediaWarning, Video, VideoInfo, decode, probe, read_frames

X264_OPEN = {"g": "8", "x264-params": "open-gop=1:keyint=8:b-adapt=0:bframes=3:ref=4"}
VARIABLE = [0, 1, 3, 4, 8, 9, 10, 15, 16, 17, 18, 19, 21, 26, 27, 28, 40, 41, 42, 43, 44, 45, 46, 60]

SELECTED, FROM_START = True, False  # how the frames are found: a slip to the slow way is a failure too
FILES = {
    "x264.mp4": (SELECTED, {"options": {"g": "8", "bf": "3"}}),
    "x264_pyramid.mkv": (SELECTED, {"options": {"g": "16", "x264-params": "bframes=7:b-pyramid=normal:b-adapt=0"}}),
    "x264_closed.ts": (SELECTED, {"options": {"g": "8", "bf": "2"}}),
    "x264_open.mp4": (SELECTED, {"options": X264_OPEN}),
    "x264_open.ts": (SELECTED, {"options": X264_OPEN}),
    "x264_slices.mp4": (SELECTED, {"options": {"g": "8", "x264-params": "slices=3:repeat-headers=1"}}),
    "x264_intra_refresh.mp4": (SELECTED, {"options": {"x264-params": "intra-refresh=1:keyint=8"}}),
    "x264_422_10bit.mp4": (SELECTED, {"pix_fmt": "yuv422p10le", "options": {"g": "8"}}),
    "x264_sound.mp4": (SELECTED, {"options": {"g": "8"}, "sound": True}),
    "x264_variable.mp4": (SELECTED, {"num_frames": 24, "pts": VARIABLE, "options": {"g": "8"}}),
    "x264_late.mkv": (SELECTED, {"pts": range(200, 230), "options": {"g": "8"}}),  # it starts at 8 s
    "x264_late.ts": (SELECTED, {"pts": range(200, 230), "options": {"g": "8"}}),
    "x264_444.mp4": (FROM_START, {"pix_fmt": "yuv444p", "options": {"g": "8"}}),
    "x264_rgb.mkv": (FROM_START, {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"g": "8"}}),
    "x264_interlaced.mp4": (FROM_START, {"size": (64, 64), "options": {"g": "8", "x264-params": "interlaced=1"}}),
    "x264_wrong_pts.avi": (FROM_START, {"options": {"g": "8", "bf": "2"}}),
    "x264_raw.h264": (FROM_START, {"options": {"g": "8", "bf": "2"}}),
    "x265_open.mp4": (SELECTED, {"codec": "libx265", "size": (64, 64), "options": X265}),
    "x265_444_10bit.mkv": (SELECTED, {"codec": "libx265", "pix_fmt": "yuv444p10le", "size": (64, 64), "options": X265}),
    "vp9.webm": (SELECTED, {"codec": "libvpx-vp9", "options": {"g": "8", "lag-in-frames": "8", "cpu-used": "8"}}),
    "av1.mkv": (
        SELECTED,
        {"num_frames": 20, "codec": "libsvtav1", "size": (64, 64), "options": {"g": "8", "preset": "12"}},
    ),
    "mjpeg.mov": (SELECTED, {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "vp8.webm": (FROM_START, {"codec": "libvpx", "options": {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}}),
    "mpeg4.avi": (FROM_START, {"codec": "mpeg4", "options": {"g": "8", "bf": "2"}}),
    "mpeg4.mp4": (FROM_START, {"codec": "mpeg4", "options": {"g": "8", "bf": "2"}}),
    "mpeg2.mpg": (FROM_START, {"codec": "mpeg2video", "options": {"g": "8", "bf": "2"}}),
    "odd.mkv": (FROM_START, {"codec": "ffv1", "size": (45, 63), "num_frames": 10}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("name", FILES)
def test_every_frame_equals_that_of_a_full_decode(folder, from_start, name):
    selected, settings = FILES[name]
    path = write_video(folder / name, **settings)
    reads = assert_exact(path, full_decode(path))
    assert len(from_start) == (0 if selected else reads)


def test_the_traps_are_what_they_are_called(folder):
    """The files above lose their point if an encoder or a muxer changes; what can be seen of each trap is checked."""

    def packets(name) -> tuple[int, list]:
        path = folder / name
        if not path.exists():
            write_video(path, **FILES[name][1])
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames, [packet for packet in container.demux(stream) if packet.size]

    assert packets("vp9.webm")[0] == 0  # no frame count in the header
    assert packets("x264.mp4")[0] == 30
    stamps = [packet.pts for packet in packets("x264_wrong_pts.avi")[1]]
    assert stamps == sorted(stamps)  # although it has B-frames: those of decoding are written as those of display
    assert all(packet.pts is None for packet in packets("x264_raw.h264")[1])
    keys = [packet for packet in packets("x264_open.mp4")[1] if packet.is_keyframe]
    assert len(keys) > 2
    assert b"\x65" not in {bytes(key)[4:5] for key in keys[1:]}  # no IDR slice
    late = packets("x264_late.ts")[1][0]
    assert late.pts * late.time_base == 8


def test_packets_of_a_large_file_are_read_again_instead_of_kept(folder, monkeypatch, from_start):
    monkeypatch.setattr(decode, "HELD_BYTES", 1000)
    path = write_video(folder / "large.mp4", options={"g": "8"})
    assert_exact(path, full_decode(path))
    assert not from_start
    path = write_video(folder / "large.avi", codec="mpeg4")
    assert_exact(path, full_decode(path))


def test_frames_far_apart_are_decoded_without_what_lies_between(folder, monkeypatch):
    path = write_video(folder / "groups.mp4", 64, options={"g": "8", "bf": "0", "sc_threshold": "0"})
    decoded = []
    plain = Video._decode_runs
    monkeypatch.setattr(
        Video, "_decode_runs", lambda *args, **kw: (decoded.append(f.pts) or f for f in plain(*args, **kw))
    )
    frames = full_decode(path)
    assert np.array_equal(read_frames(path, [60, 2]), [frames[60], frames[2]])
    assert len(decoded) == 3 + 5  # 0 to 2 and 56 to 60


def test_unwanted_frames_that_no_other_needs_are_left_out(folder, monkeypatch):
    params = {"x264-params": "keyint=60:bframes=3:b-adapt=0:b-pyramid=none"}
    path = write_video(folder / "skip.mp4", 33, options=params)
    decoded = []
    plain = Video._decode_runs
    monkeypatch.setattr(
        Video, "_decode_runs", lambda *args, **kw: (decoded.append(f.pts) or f for f in plain(*args, **kw))
    )
    assert np.array_equal(read_frames(path, [17])[0], full_decode(path)[17])
    assert len(decoded) == 6 + 1  # 0, 4, 8, 12, 16, 20, and 17 between the last two


@pytest.mark.parametrize("name", ["x264_open.mp4", "x265_open.mp4"])
def test_a_file_cut_at_an_open_group_has_the_frames_a_full_decode_gives(folder, name):
    """Pictures before the first key frame in display order, but after it in the file, cannot be decoded."""
    source = write_video(folder / f"whole_{name}", **FILES[name][1])
    with av.open(str(source)) as container:
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe and packet.size]
    path = remux(source, folder / f"cut_{name}".replace("mp4", "mkv"), lambda i, packet: i >= keys[1])
    frames = full_decode(path)
    assert len(frames) < len(packets_of(path))
    with pytest.warns(MediaWarning, match=f"gives {len(frames)} of the {len(packets_of(path))} frames"):
        assert_exact(path, frames)


@pytest.mark.parametrize("name", ["x264_pyramid.mkv", "x264_open.mp4", "x265_open.mp4", "vp9.webm"])
def test_lost_packets(folder, name):
    source = write_video(folder / f"full_{name}", **FILES[name][1])
    path = remux(source, folder / f"lost_{name}".replace("mp4", "mkv"), lambda i, packet: i not in (4, 5, 20))
    frames = full_decode(path)
    assert 20 <= len(frames) <= 27
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_exact(path, frames)
    assert bool(caught) == (len(frames) < 27)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes(folder, seed):
    """What FFmpeg paints over damage depends on all it decoded before: those frames too are as in a full decode."""
    source = write_video(folder / "sound.mp4", 40, options={"g": "8", "bf": "2"})
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(len(data) // 5, len(data) * 7 // 10, 4):
        data[at] ^= 0x5A
    path = folder / f"damaged{seed}.mp4"
    path.write_bytes(data)
    frames = full_decode(path)
    with pytest.warns(MediaWarning, match=r"damaged\d\.mp4: it has \d+ (undecodable packet|damaged frame)"):
        assert all(np.array_equal(read_frames(path, [i])[0], frame) for i, frame in enumerate(frames))


def test_edit_list_and_its_header(folder):
    path = write_video(folder / "edit.mp4", pts=range(-5, 25), options={"g": "12"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30
    frames = full_decode(path)
    assert len(frames) == 25
    assert_exact(path, frames)
    with pytest.raises(IndexError, match=r"frame 25 was asked.* 25 frames are 0 to 24"):
        read_frames(path, [25])


@pytest.mark.parametrize(("skip", "keep"), [(20, 40), (20, 15), (0, 13), (9, 1)])
def test_edit_lists_that_begin_and_end_anywhere(folder, skip, keep):
    source = write_video(folder / "whole.mp4", 40, options={"g": "12", "bf": "2"})
    data = bytearray(source.read_bytes())
    at = data.index(b"elst") + 12  # after the version and the number of entries
    _, start = struct.unpack_from(">Ii", data, at)
    ticks = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0] // 25
    struct.pack_into(">Ii", data, at, keep * 40, start + skip * ticks)  # (milliseconds, ticks of the track)
    path = folder / f"edit_{skip}_{keep}.mp4"
    path.write_bytes(data)
    frames = full_decode(path)
    assert len(frames) == min(keep, 40 - skip)
    assert_exact(path, frames)


def test_a_stream_whose_frames_change_size_has_the_size_of_the_first(folder):
    small, large = (write_video(folder / f"{h}.ts", 6, size=(h, 64), options={"g": "3"}) for h in (32, 48))
    path = folder / "sizes.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert {frame.shape[0] for frame in full_decode(path)} == {32, 48}
    assert read_frames(path, range(12)).shape == (12, 32, 64, 3)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation(folder, rotation):
    path = write_video(folder / f"rotated{rotation}.mp4", 6, size=(48, 80), rotation=rotation)
    upright = full_decode(write_video(folder / "upright.mp4", 6, size=(48, 80)))
    shape = (80, 48) if rotation in (90, 270) else (48, 80)
    assert read_frames(path, [0]).shape[1:3] == shape
    assert np.array_equal(read_frames(path, [3])[0], np.rot90(upright[3], -rotation // 90))
    info = probe(path)
    assert (info.rotation, info.height, info.width) == (rotation, *shape)


def test_a_distorted_display_matrix_turns_as_ffmpeg_does():
    for matrix, transposes in [
        ((1, 0, 0, 1), False),
        ((0, 1, -1, 0), True),
        ((1, 0, 128, 1), False),
        ((0,) * 4, False),
    ]:
        assert decode.Display(*matrix).transposes is transposes


def test_a_mirrored_video_is_mirrored_not_turned(folder):
    path = write_video(folder / "mirrored.mp4", 4, mirror=True)
    upright = full_decode(write_video(folder / "unmirrored.mp4", 4))
    assert np.array_equal(read_frames(path, [2])[0], upright[2][:, ::-1])


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("short_side", [17, 48, 100])
def test_short_side_scales_in_swscale(folder, rotation, short_side):
    path = write_video(folder / f"scaled{rotation}.mp4", 5, size=(48, 80), rotation=rotation)
    got = read_frames(path, [4, 1], short_side=short_side)
    long_side = short_side * 80 // 48  # rounded down
    with av.open(str(path)) as container:
        frames = [
            frame.reformat(width=long_side, height=short_side, format="rgb24").to_ndarray()
            for frame in container.decode(video=0)
        ]
    assert np.array_equal(got, [np.rot90(frames[i], -rotation // 90) for i in (4, 1)])


def test_indices(folder):
    path = write_video(folder / "indices.mp4", 10)
    frames = full_decode(path)
    assert np.array_equal(read_frames(path, np.array([3, 3, 1])), [frames[3], frames[3], frames[1]])
    assert read_frames(path, []).shape == (0, 48, 64, 3)
    with pytest.raises(TypeError):
        read_frames(path, [1.5])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="short_side must be 1 pixel or more"):
        read_frames(path, [0], short_side=0)


@pytest.mark.parametrize("name", ["range.mp4", "range.avi"])
@pytest.mark.parametrize("number", [-1, 10, 99])
def test_a_number_outside_the_video_is_an_index_error(folder, name, number):
    path = write_video(folder / name, 10, codec="mpeg4" if name.endswith("avi") else "libx264")
    with pytest.raises(IndexError, match=rf"frame {number} was asked, but its 10 frames are 0 to 9"):
        read_frames(path, [0, number])


def test_probe(folder):
    path = write_video(folder / "probe.mkv", 12, rate=30)
    assert probe(path) == VideoInfo(frames=12, rate=30.0, width=64, height=48, rotation=0, duration=0.4)
    variable = probe(write_video(folder / "variable.mp4", 24, pts=VARIABLE))
    assert variable.rate == pytest.approx(25 * 23 / 60, rel=0.02)
    assert variable.duration == pytest.approx(24 / variable.rate)
    counted = probe(write_video(folder / "counted.avi", 9, codec="mpeg4", rate=10))
    assert (counted.frames, counted.rate) == (9, 10.0)


def test_one_opened_video_answers_again_and_again(folder):
    for name, codec in (("again.mp4", "libx264"), ("again.avi", "mpeg4")):
        path = write_video(folder / name, 20, codec=codec, options={"g": "5"})
        frames = full_decode(path)
        with Video(path) as video:
            assert np.array_equal(video.read([15, 2]), [frames[15], frames[2]])
            assert (video.frames, video.rate) == (20, 25.0)
            assert video.info().frames == 20
            assert np.array_equal(video.read([19]), [frames[19]])


def test_a_name_that_looks_like_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "clip.mp4", 3).rename(tmp_path / "a:b.mp4")
    assert probe("a:b.mp4").frames == probe(path).frames == 3


def test_a_palette_that_comes_once_is_there_for_every_read(tmp_path):
    path = write_palette(tmp_path / "palette.avi")
    assert read_frames(path, [3])[0, 5, 6].tolist() == [38, 255 - 38, 38]  # 5 + 6 + 9 * 3
    assert_exact(path, full_decode(path))


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_side_data_that_pyav_cannot_name(tmp_path, orientation):
    """FFmpeg 8 gives frames their EXIF, beside the display matrix that follows from it."""
    image = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 90).convert("RGB")
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x010F] = orientation, "a maker"
    image.save(file, "JPEG", exif=exif, quality=100, subsampling=0)
    path = write_jpegs(tmp_path / "exif.avi", [file.getvalue()] * 3, size=(48, 64))
    turns = {2: Image.Transpose.FLIP_LEFT_RIGHT, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}
    shown = np.asarray(image.transpose(turns[orientation]) if orientation in turns else image)
    got = read_frames(path, [2])[0]
    assert got.shape == shown.shape
    assert np.abs(got.astype(int) - shown).mean() < 4
    assert probe(path).frames == 3


def test_one_field_a_packet_is_half_a_frame(tmp_path):
    path = write_fields(tmp_path / "fields.ts", 10)
    assert len(packets_of(path)) == 20
    info = probe(path)
    assert (info.frames, info.rate, info.width, info.height) == (10, 25.0, 16, 32)
    frames = full_decode(path)
    assert_exact(path, frames)
    top, bottom = ((40 + 8 * field - 16) * 255 / 219 for field in (6, 7))  # of frame 3
    assert np.abs(frames[3] - np.tile([top, bottom], 16)[:, None, None]).max() < 1
    short = remux(path, tmp_path / "short.ts", lambda i, packet: i < 19)
    with pytest.warns(MediaWarning, match="it gives 9 of the 10 frames"):  # of the last there is one field
        assert probe(short).frames == 9


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_stream_that_goes_on_with_other_parameter_sets(tmp_path, codec):
    """As two recordings that were joined: the decoder may drop the last frames of the first."""
    options = {"libx264": {"g": "8", "bf": "2"}, "libx265": X265}[codec]
    first = write_video(tmp_path / "first.ts", 20, size=(64, 64), codec=codec, options=options)
    second = write_video(
        tmp_path / "second.ts", 20, size=(64, 96), codec=codec, options=options, pts=range(20, 40), seed=1
    )
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    frames = full_decode(path)
    count = len(frames)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert probe(path).frames == count
        for i in (0, 18, 19, 20, count - 1):
            assert np.array_equal(read_frames(path, [i])[0], frames[i])
    assert bool(caught) == (count < 40)


@pytest.mark.parametrize("name", ["jump.mp4", "jump.mkv", "jump.ts"])
@pytest.mark.parametrize("seconds", [4, 3000])
def test_a_jump_in_time_is_no_step_between_frames(tmp_path, name, seconds):
    pts = [i if i < 20 else i + 25 * seconds for i in range(40)]
    path = write_video(tmp_path / name, 40, pts=pts, options={"g": "8", "bf": "0"})
    with pytest.warns(MediaWarning, match=rf"its time stamps make 1 jump of up to {seconds}\.0 s"):
        info = probe(path)
    assert (info.frames, info.rate) == (40, pytest.approx(25))
    with pytest.warns(MediaWarning), Video(path) as video:
        assert video.rate == pytest.approx(25)


def test_time_that_begins_again_is_no_step_between_frames(tmp_path):
    once = write_video(tmp_path / "once.ts", 40, options={"g": "8", "bf": "0"})
    path = tmp_path / "twice.ts"
    path.write_bytes(once.read_bytes() * 2)
    with pytest.warns(MediaWarning, match=r"its time stamps make 1 jump of up to 1\.\d s"):
        info = probe(path)
    assert (info.frames, info.rate) == (80, pytest.approx(25))


DEFAULT, COVER = 1, 1 << 10


@pytest.mark.parametrize(
    ("name", "sources", "dispositions", "chosen"),
    [
        ("both.mov", ["still", "small"], [0, DEFAULT], 1),
        ("both.mov", ["still", "small"], [DEFAULT, 0], 1),  # a preview, although larger and the default
        ("both.ts", ["small", "large"], [], 1),
        ("both.ts", ["large", "small"], [], 0),
        ("both.mkv", ["small", "large"], [DEFAULT, 0], 0),
        ("both.mkv", ["small", "other"], [0, DEFAULT], 1),
    ],
)
def test_of_several_streams_the_best_is_read(tmp_path, name, sources, dispositions, chosen):
    settings = {
        "still": {"num_frames": 1, "size": (96, 128), "codec": "mjpeg", "pix_fmt": "yuvj420p"},
        "small": {"num_frames": 12, "options": {"g": "4"}},
        "other": {"num_frames": 12, "options": {"g": "4"}, "seed": 1},
        "large": {"num_frames": 6, "size": (64, 80), "options": {"g": "4"}},
    }
    made = [write_video(tmp_path / f"{source}.mov", **settings[source]) for source in sources]
    path = join(made, tmp_path / name, dispositions=dispositions)
    frames = full_decode(path, stream=chosen)
    with pytest.warns(MediaWarning, match=rf"it has 2 video streams; stream {chosen} of the file, \d+x\d+, is read"):
        assert_exact(path, frames)


def test_a_cover_is_no_video_stream(tmp_path):
    video = write_video(tmp_path / "video.mp4", 5)
    cover = write_video(tmp_path / "cover.mov", 1, size=(96, 128), codec="mjpeg", pix_fmt="yuvj420p")
    path = join([video, cover], tmp_path / "both.mp4", dispositions=[DEFAULT, COVER])
    with av.open(str(path)) as container:
        assert [int(stream.disposition) for stream in container.streams.video] == [DEFAULT, COVER]
    assert np.array_equal(read_frames(path, range(5)), full_decode(video))
