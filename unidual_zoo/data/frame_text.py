"""A video's index of frames as a short text, so that whoever has it need not look at all packets again."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np

from unidual_zoo.data.packets import FrameIndex

NUMBERS = "<i4"
MOST_BYTES = 2**24  # of the numbers; a text may unpack to more


def to_text(index: FrameIndex) -> str | None:
    """The text of an index; None of one whose frames are not a constant step apart, or that it has no room for."""
    steps = set(np.diff(index.pts).tolist()) or {1}
    numbers = [index.pts[0], *steps, all(index.skippable), len(index.restarts), *index.restarts, *index.packets]
    few = 4 * len(numbers) <= MOST_BYTES and max(map(abs, numbers)) < 2**31
    if len(steps) > 1 or not few or len(set(index.skippable)) > 1 or len(index.skippable) > len(index.packets):
        return None
    return base64.b64encode(zlib.compress(np.array(numbers, NUMBERS).tobytes(), 9)).decode()


def from_text(text: str) -> FrameIndex:
    """The index that `to_text` wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        first, step, skippable, count, *rest = np.frombuffer(data, NUMBERS).tolist()
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"no index of frames ({error})") from None
    restarts, packets = rest[: max(0, count)], rest[max(0, count) :]
    ascending = restarts == sorted(set(restarts)) and restarts[:1] == [0] and restarts[-1] < len(packets)
    if not ascending or sorted(packets) != list(range(len(packets))) or step < 1:
        raise ValueError("no index of frames: its packets are not in an order")
    pts = [first + step * frame for frame in range(len(packets))]
    of_packet = dict(zip(packets, pts, strict=True))
    return FrameIndex(
        pts=pts,
        packets=packets,
        restarts=restarts,
        restart_pts=[of_packet[position] for position in restarts],
        skippable=[bool(skippable)] * len(packets),
    )
