"""Which files are the same, by their bytes, and which look the same, by small pictures of them.

Two files look the same if their small pictures do: the lowest frequencies of each are above or below their median alike
but for NEAR_BITS on average (a perceptual hash, which finds the pairs among many), and their pixels, too, are as good
as equal. What was scaled, compressed anew or converted is found; what was cropped, mirrored or cut to another length is
not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

FREQUENCIES = 8  # of each direction: 64 bits
NEAR_BITS = 6
NEAR_CONTRAST = 0.2  # logarithm of how many times the contrast of one may be that of the other
NEAR_LEVELS = 2.0  # grey levels of 255, root mean square, once brightness and contrast are the same
ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)  # of each byte
LEAST_DEVIATION = 2.0  # grey levels; a flatter picture looks like too many others


def exact_duplicates(hashes: Sequence[str | None]) -> list[list[int]]:
    """Groups of places that hold the same hash, two of them or more."""
    return _groups_of((i for i, each in enumerate(hashes) if each), lambda i: hashes[i])


def near_duplicates(pictures: Sequence[np.ndarray | None]) -> list[list[int]]:
    """Groups of places whose (N, S, S) small pictures look the same: joined by pairs that do, two of them or more."""
    parents = list(range(len(pictures)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    by_count: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for i, each in enumerate(pictures):
        if each is not None and len(each) and each.std(axis=(1, 2)).max() >= LEAST_DEVIATION:
            by_count[len(each)][i] = each
    for alike in by_count.values():
        places, stack = list(alike), np.stack(list(alike.values())).astype(np.float32)  # (files, N, S, S)
        for a, b in _near_pairs(stack):
            parents[root(places[a])] = root(places[b])
    return _groups_of(range(len(pictures)), root)


def _groups_of(places: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place in places:
        groups[key(place)].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(stack: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of (files, N, S, S) that look the same."""
    flat = stack.reshape(len(stack), -1)
    count = stack.shape[1]
    bits = perceptual_bits(stack.reshape(-1, *stack.shape[2:])).reshape(len(stack), count, -1)  # (files, N, 64)
    packed = np.packbits(bits.reshape(len(stack), -1), axis=1)
    # Of NEAR_BITS + 1 parts of the bits of one picture, one at least is equal in both of a pair.
    for part in np.array_split(np.arange(bits.shape[2]), NEAR_BITS + 1):
        keys = bits[:, count // 2, part] @ (1 << np.arange(len(part)))
        order = np.argsort(keys, kind="stable")
        edges = [0, *(np.flatnonzero(np.diff(keys[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(edges):
            for at in range(start, stop - 1):
                place, others = order[at], order[at + 1 : stop]
                others = others[ONES[packed[others] ^ packed[place]].sum(1) <= NEAR_BITS * count]
                others = others[_alike(flat[place], flat[others])] if len(others) else others
                yield from ((int(place), int(other)) for other in others)


def perceptual_bits(pictures: np.ndarray) -> np.ndarray:
    """(N, S, S) -> (N, 64) of 0 and 1: which of the lowest frequencies are above the median of theirs."""
    side = pictures.shape[-1]
    angles = np.pi / side * (np.arange(side) + 0.5) * np.arange(FREQUENCIES)[:, None]
    cosines = np.cos(angles)  # (F, S)
    spectrum = cosines @ pictures.astype(np.float64) @ cosines.T  # (N, F, F)
    values = spectrum.reshape(len(spectrum), -1)
    return (values > np.median(values[:, 1:], axis=1, keepdims=True)).astype(np.int64)


def _alike(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of (files, N * S * S) are as good as equal to one of them, apart from brightness and contrast."""
    one, others = one - one.mean(), others - others.mean(1, keepdims=True)
    scale = np.sqrt((one**2).mean() / np.maximum((others**2).mean(1, keepdims=True), 1e-9))
    differences = np.sqrt(((one - others * scale) ** 2).mean(1))
    return (differences <= NEAR_LEVELS) & (np.abs(np.log(scale[:, 0])) <= NEAR_CONTRAST)
