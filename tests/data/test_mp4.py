"""Counting an MP4's samples without FFmpeg: true files, tables that lie, and files of other kinds."""

import struct

import pytest
from media import box, remux, write_sound, write_video

from unidual_zoo.data.mp4 import stated_samples

BILLION = 10**9


def numbers(*values):
    return struct.pack(f">{len(values)}I", *values)


def track(handler, *tables):
    return box(b"trak", box(b"mdia", box(b"hdlr", bytes(8), handler), box(b"minf", box(b"stbl", *tables))))


def stated(tmp_path, *boxes):
    path = tmp_path / "made.mp4"
    path.write_bytes(b"".join(boxes))
    return stated_samples(path)


def test_true_files(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", 7)
    assert stated_samples(plain) == 7
    fragments = remux(plain, tmp_path / "fragments.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    assert stated_samples(fragments) == 7
    assert stated_samples(write_sound(tmp_path / "sound.mp4")) == 16 + 1  # 1,024 samples each; one of them priming
    assert stated_samples(write_video(tmp_path / "x.mkv", 7)) == stated_samples(write_video(tmp_path / "x.avi", 7)) == 0


STSZ = box(b"stsz", numbers(0, 1, BILLION))  # a billion samples of one byte
ONE_TICK, TWO_TICKS = (box(b"stts", numbers(0, 1, BILLION, ticks)) for ticks in (1, 2))
CHUNKS = box(b"stsc", numbers(0, 2, 1, 10, 1, 2, 5000, 1)), box(b"stco", numbers(0, 3, 40, 80, 120))


@pytest.mark.parametrize(
    ("boxes", "count"),
    [
        ([box(b"moov", track(b"vide", STSZ))], BILLION),
        ([box(b"ftyp", b"isom"), box(b"mdat", bytes(99)), box(b"moov", track(b"vide", STSZ, ONE_TICK))], BILLION),
        ([box(b"moov", track(b"vide", STSZ), track(b"soun", STSZ, TWO_TICKS))], 2 * BILLION),
        ([box(b"moov", track(b"soun", STSZ, ONE_TICK, *CHUNKS))], 3 * (1 + 5000 // 1024)),  # PCM goes by chunks
        ([box(b"moov", box(b"trak", box(b"edts", box(b"stz2", numbers(0, 4, 12)))))], 12),  # where it does not belong
        ([box(b"moof", box(b"traf", box(b"trun", numbers(0, 30)), box(b"trun", numbers(0, 12))))], 42),
        ([numbers(1) + b"moov" + numbers(0, 16 + len(track(b"vide", STSZ))) + track(b"vide", STSZ)], BILLION),
        ([numbers(0) + b"moov" + track(b"vide", STSZ)], BILLION),  # to the end of the file
        ([box(b"moov", track(b"vide", STSZ))[:-4]], 0),  # cut before the number
        ([numbers(3) + b"moov" + track(b"vide", STSZ)], 0),  # a box shorter than its header ends it
        ([box(b"free", track(b"vide", STSZ))], 0),
        ([b"\x1a\x45\xdf\xa3" * 9], 0),
        ([b""], 0),
    ],
)
def test_tables_by_hand(tmp_path, boxes, count):
    assert stated(tmp_path, *boxes) == count
