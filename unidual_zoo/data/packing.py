"""Labelled files to shards (`data/shards.py`), untouched or made smaller: what `unidual pack` does.

Every shard is written under a hidden name, synced and renamed, then its index; shards.json, which makes a data set of
them, comes last. So whatever has an index is whole, and a packing that was stopped goes on with the next shard. Files
are dealt to the shards at random, by a fixed seed, so that a program that streams shards one after the other sees all
classes; the index remembers their order, and whoever reads a file by number does not notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from unidual_zoo.checks import check_number
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.decode import Video, fit_short_side
from unidual_zoo.data.frame_text import to_text
from unidual_zoo.data.images import read_image
from unidual_zoo.data.layouts import find_layout
from unidual_zoo.data.media import MediaError, PathLike, file_boundary
from unidual_zoo.data.members import file_size, read_file
from unidual_zoo.data.shards import (
    BLOCK,
    FORMAT,
    FRAMES,
    INDEX_SUFFIX,
    KEY_DIGITS,
    MANIFEST,
    PLACE_DIGITS,
    PLAN,
    SUFFIX,
    index_of,
    is_remote,
    read_json,
)
from unidual_zoo.data.stacks import is_stacked
from unidual_zoo.data.warned import collected
from unidual_zoo.files import partial_name, remove_partial, sync_file, sync_folder
from unidual_zoo.lock import Lock, LockedError
from unidual_zoo.names import check_fits_file_names
from unidual_zoo.progress import Progress
from unidual_zoo.spec import IMAGE, VIDEO

LOCK = ".lock"
WHOLE = "all"  # in names of shards of a set without splits
LARGEST_SHARD = 10**PLACE_DIGITS
JPEG_QUALITY = 95
# Of libx264: what costs least to decode, with three frames after every other that no frame needs, which readers leave
# out unless they want them. Without mbtree, which reads memory that nobody wrote: the same video makes the same bytes.
X264 = {"crf": "20", "tune": "fastdecode", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=none:mbtree=0"}
PICTURES_TO_REORDER = 3  # that a group needs at least: between two there is none that no other needs
LONGEST_RATE = 1001  # the largest denominator of a rate, that of 30000/1001
TICK = 0.5  # seconds between two looks at what other processes have done


@dataclass(frozen=True)
class Packing:
    """How files are packed: `per_shard` of them in a shard, as they are, without being decoded, or made smaller.

    `short_side`: images and videos are scaled down until their shorter side has so many pixels, and encoded anew: JPEG
    of quality 95, H.264 at crf 20 without sound. `gop`: videos are encoded anew with a key frame every so many frames,
    which makes reading a clip in the middle cheap. A smaller image stays as it is.
    """

    per_shard: int = 1000
    short_side: int | None = None
    gop: int | None = None

    def __post_init__(self) -> None:
        check_number("per_shard", self.per_shard, least=1, most=LARGEST_SHARD)
        for name in ("short_side", "gop"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), least=2, most=65_536)


class Item(NamedTuple):
    """A file to be packed: its place in the data set, its labels by name, and its group or ""."""

    place: int
    file: str
    labels: tuple[str, ...]
    numbers: tuple[int, ...]
    group: str


class Job(NamedTuple):
    """A shard to be written: its name, without an ending, and its files."""

    name: str
    items: list[Item]


class Shard(NamedTuple):
    """What became of the files of a shard: how many are packed, how many of these encoded anew, the bytes that they had
    and those of the shard; which could not be read, and of which reading warned."""

    files: int
    encoded: int
    source_bytes: int
    bytes: int
    failures: list[dict[str, str]]
    warnings: list[dict[str, str]]

    @classmethod
    def of(cls, index: Mapping[str, Any]) -> Shard:
        """What its index says of it; that of an older packing says nothing of warnings, nor of what files were."""
        files, size = len(index["members"]), index["bytes"]
        encoded, source_bytes = index.get("encoded", 0), index.get("source_bytes", size)
        return cls(files, encoded, source_bytes, size, index["failures"], index.get("warnings", []))


Write = Callable[[Job, Callable[[], object]], Shard]  # and calls the function after every file


@dataclass(frozen=True)
class Packed:
    """What became of the files: by split how many `files` are packed, how many of these were `encoded` anew, how many
    bytes they had (`source_bytes`), and in how many `shards` and `bytes` they are; which could not be read, and which
    are packed although reading warned of them.

    `kept`: shards that were there already.
    """

    splits: Mapping[str, Mapping[str, int]]
    failures: Sequence[Mapping[str, str]]
    warnings: Sequence[Mapping[str, str]]
    kept: int

    def faults(self) -> dict[str, Any]:
        """Which files could not be read, and of which reading warned, under the names that evaluations use."""
        return {
            "failed": len(self.failures),
            "failures": list(self.failures),
            "warned": len(self.warnings),
            "warnings": list(self.warnings),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for one line of JSON."""
        return {"splits": dict(self.splits), **self.faults(), "kept": self.kept}


def pack(
    media: Mapping[str, MediaSet], folder: Path, packing: Packing, *, workers: int = 1, progress: bool = False
) -> Iterator[Packed]:
    """Packs the files of each split ("": there are none) in shards in the folder; what is done, after every shard.

    Stopped and called again with the same files and settings it goes on. `workers`: processes that write shards.
    `progress`: a bar tells how many files are done.

    Raises:
        ValueError: the folder holds another packing, or other things; or another process packs there.
        OSError: it cannot be written to.
    """
    for split in filter(None, media):
        check_fits_file_names("split", split)
    with _lock(folder) as lock:
        _begin(folder, _plan(media, packing), alone=lock.is_held)
        yield from _pack(media, folder, packing, workers, progress)


def _pack(
    media: Mapping[str, MediaSet], folder: Path, packing: Packing, workers: int, progress: bool
) -> Iterator[Packed]:
    deals = {split: list(_deal(split, data, packing)) for split, data in media.items()}
    splits = {
        split: {"files": 0, "encoded": 0, "source_bytes": 0, "shards": len(deals[split]), "bytes": 0} for split in media
    }
    jobs = [(split, job) for split in media for job in deals[split]]
    modality = next(iter(media.values())).modality
    there = {job.name: _whole(folder, job.name) for _, job in jobs}
    waiting = [job for _, job in jobs if there[job.name] is None]
    total, left = sum(map(len, media.values())), sum(len(job.items) for job in waiting)
    bar = Progress(total=total, initial=total - left, unit="file", desc="packing", shown=progress)
    packed = Packed(splits, failures := [], warned := [], 0)
    with bar, _writers(workers, len(waiting)) as write_all:
        written = write_all(partial(_write_shard, folder, modality, packing), waiting, bar)
        for split, job in jobs:
            found = there[job.name]
            shard = next(written) if found is None else found
            for name in ("files", "encoded", "source_bytes", "bytes"):
                splits[split][name] += getattr(shard, name)
            failures += shard.failures
            warned += shard.warnings
            packed = replace(packed, kept=packed.kept + (found is not None))
            yield packed
    about = {
        split: {"classes": list(data.classes), "shards": [job.name + SUFFIX for job in deals[split]]}
        for split, data in media.items()
    }
    manifest = {"format": FORMAT, "modality": modality, **asdict(packing), "splits": about, **packed.faults()}
    _write_json(folder / MANIFEST, manifest)


def _deal(split: str, media: MediaSet, packing: Packing) -> Iterator[Job]:
    """The shards of a split."""
    order = np.random.default_rng(0).permutation(len(media)).tolist()
    for number, start in enumerate(range(0, len(order), packing.per_shard)):
        places = order[start : start + packing.per_shard]
        items = [_item(media, place) for place in places]
        yield Job(f"{split or WHOLE}-{number:06d}", items)


def _item(media: MediaSet, place: int) -> Item:
    numbers = media.labels_of(place)
    labels = tuple(media.classes[number] for number in numbers)
    return Item(place, media.files[place], labels, numbers, media.groups[place] if media.groups else "")


def _plan(media: Mapping[str, MediaSet], packing: Packing) -> dict[str, Any]:
    """What a packing that goes on must have in common with what is there."""
    files = _names({split: data.files for split, data in media.items()})
    about = {
        split: [data.modality, data.classes, files[split], data.labels, data.others] for split, data in media.items()
    }
    return {**asdict(packing), "files": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def _names(files: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The paths of each split from the folder that all are in: the same however that folder is spelled."""
    places = {split: list(map(os.path.abspath, files[split])) for split in files}
    common = os.path.commonpath([os.path.dirname(place) for split in places.values() for place in split])
    return {split: [place[len(common) :] for place in places[split]] for split in places}


def check_outside(source: PathLike, folder: Path) -> None:
    """Raises a ValueError if the shards would lie in a folder of classes, and look like one of them the next time."""
    if is_remote(source) or find_layout(source) is not None or not os.path.isdir(source):
        return
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source)):
        raise ValueError(f"{folder} lies in {os.fspath(source)}, which is packed: choose a folder elsewhere")


def _lock(folder: Path) -> Lock:
    """Keeps a folder, made if need be, to this process: another would take files that are half written for those of a
    dead one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Lock(folder / LOCK)
    except LockedError as error:
        raise ValueError(f"{folder}: another process packs there ({error})") from None


def _begin(folder: Path, plan: Mapping[str, Any], *, alone: bool) -> None:
    path = folder / PLAN
    others = any(other != path and not other.name.startswith(".") for other in folder.iterdir())
    found = read_json(str(path)) if path.is_file() else None
    if found is not None and "files" not in found:
        raise ValueError(f"{path} is of no packing: choose a new folder")
    if found is not None and (others or not alone):
        if different := [name for name in plan if plan[name] != found.get(name)]:
            raise ValueError(f"{folder} holds another packing, with other {', '.join(different)}: choose a new folder")
        remove_partial(folder)
    elif others:
        raise ValueError(f"{folder} is not empty, and holds no packing that could go on: choose a new folder")
    else:  # new, or of a packing that was stopped before its first shard
        remove_partial(folder)
        _write_json(path, plan)


@contextlib.contextmanager
def _writers(workers: int, jobs: int) -> Iterator[Callable[[Write, Sequence[Job], Progress], Iterator[Shard]]]:
    """What writes so many shards and gives them in order, while a bar counts their files."""
    if workers <= 1:
        yield lambda write, waiting, bar: (write(job, bar.update) for job in waiting)
        return
    # Not forked: threads of numpy and torch may hold locks. The processes end with the work, also if that fails.
    context = multiprocessing.get_context("spawn")
    tally = context.RawArray("q", jobs)  # without a lock, which a process that is killed would keep: each has its own
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(tally,)) as pool:
        try:
            yield partial(_write_elsewhere, pool, tally)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_elsewhere(
    pool: Executor, tally: Sequence[int], write: Write, waiting: Sequence[Job], bar: Progress
) -> Iterator[Shard]:
    """Shards written by other processes, in order; the bar follows what these note of their files."""
    futures = [pool.submit(_write_and_note, write, number, job) for number, job in enumerate(waiting)]
    counted = 0
    for future in futures:
        over = False
        while not over:
            over = bool(wait([future], timeout=TICK).done)
            bar.update(sum(tally) - counted)
            counted = sum(tally)
        yield future.result()


_tally: Any = None  # in a process that writes shards: how many files of each are done


def _begin_worker(tally: Any) -> None:
    global _tally
    _tally = tally
    end_with_parent()


def _write_and_note(write: Write, number: int, job: Job) -> Shard:
    def note() -> None:
        _tally[number] += 1

    return write(job, note)


def end_with_parent() -> None:
    """From now on this process ends as soon as the one that began it does, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: Any) -> None:
    process.join()
    os._exit(1)


def _write_shard(folder: Path, modality: str, packing: Packing, job: Job, count: Callable[[], object]) -> Shard:
    """Writes a shard and its index; `count` is called after every file."""
    tar = folder / f"{job.name}{SUFFIX}"
    unfinished = partial_name(tar)
    number = int(job.name.rpartition("-")[2])
    try:
        with unfinished.open("wb") as file, tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as out:
            told = _write_members(out, modality, packing, _counted(job.items, count), number)
        about = {"bytes": unfinished.stat().st_size, **told}
        sync_file(unfinished)
        os.replace(unfinished, tar)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(tar)) from None  # a full disk names no file
    finally:
        unfinished.unlink(missing_ok=True)
    _write_json(folder / f"{job.name}{INDEX_SUFFIX}", about)
    return Shard.of(about)


def _counted(items: Iterable[Item], count: Callable[[], object]) -> Iterator[Item]:
    """The items; `count` is called whenever the next one is wanted, and after the last."""
    for item in items:
        yield item
        count()


def _whole(folder: Path, name: str) -> Shard | None:
    """A shard that need not be written again: with an index as it should be, of a tar of the length that it says."""
    tar, index = folder / f"{name}{SUFFIX}", folder / f"{name}{INDEX_SUFFIX}"
    if not (tar.is_file() and index.is_file()):
        return None
    try:
        found = read_json(str(index))
        return Shard.of(found) if index_of(found, str(index)).length == tar.stat().st_size else None
    except ValueError:
        return None


def _write_members(
    out: tarfile.TarFile, modality: str, packing: Packing, items: Iterable[Item], shard: int
) -> dict[str, Any]:
    """What the index says of each file, how many are encoded anew, the bytes that all had, which files cannot be read,
    and of which reading warns."""
    members: list[dict[str, Any]] = []
    encoded = source_bytes = 0
    failures: list[dict[str, str]] = []
    warned: list[dict[str, str]] = []
    for item in items:
        try:
            with file_boundary(item.file), collected() as found:
                extension, data, encoded_from = prepare(item.file, modality, packing)
        except MediaError as error:
            failures.append({"file": error.path, "error": error.reason})
            continue
        if reasons := dict.fromkeys(warning.reason for warning in found):
            warned.append({"file": item.file, "warning": "; ".join(reasons)})
        key = f"{shard:0{KEY_DIGITS - PLACE_DIGITS}d}{len(members):0{PLACE_DIGITS}d}"
        about = {"labels": list(item.labels), "group": item.group, "file": "/".join(Path(item.file).parts[-3:])}
        offset = out.offset + BLOCK  # behind the header
        _add(out, key + extension, data)
        _add(out, f"{key}.cls", str(item.numbers[0]).encode())
        _add(out, f"{key}.json", json.dumps(about).encode())
        digest = hashlib.sha256(data).hexdigest()
        place = dict(name=key + extension, place=item.place, offset=offset, size=len(data), sha256=digest)
        members.append(place | about | _frames(key + extension, data, modality, packing))
        encoded += encoded_from is not None
        source_bytes += len(data) if encoded_from is None else encoded_from
    return {
        "members": members, "encoded": encoded, "source_bytes": source_bytes, "failures": failures, "warnings": warned,
    }  # fmt: skip


def _frames(name: str, data: bytes, modality: str, packing: Packing) -> dict[str, str]:
    """What the index says of the frames of a video that was encoded anew."""
    if not _is_encoded_anew(modality, packing):
        return {}
    with Video(name, data=data) as video:
        text = to_text(video.index) if video.index is not None else None
    return {FRAMES: text} if text else {}


def _is_encoded_anew(modality: str, packing: Packing) -> bool:
    """Whether the packed videos are not the files' own bytes."""
    return modality == VIDEO and bool(packing.short_side or packing.gop)


def _add(out: tarfile.TarFile, name: str, data: bytes) -> None:
    """A file with nothing but its name and bytes, so that the same files make the same shard."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


class Prepared(NamedTuple):
    """A file as it is packed; of one that was encoded anew the bytes that it had."""

    extension: str
    data: bytes
    encoded_from: int | None = None


def prepare(file: str, modality: str, packing: Packing) -> Prepared:
    """What a file is packed as.

    Raises:
        MediaError: it cannot be read, or is an entry of a stack, which has no bytes of its own.
    """
    if is_stacked(file):
        raise MediaError(file, "an entry of a stack is no file that could be packed")
    if _is_encoded_anew(modality, packing):
        return Prepared(".mp4", smaller_video(file, short_side=packing.short_side, gop=packing.gop), file_size(file))
    if modality == IMAGE and packing.short_side:
        picture = read_image(file)
        if min(picture.shape[:2]) > packing.short_side:
            return Prepared(".jpg", _smaller_image(picture, packing.short_side), file_size(file))
    return Prepared(os.path.splitext(file)[1].lower(), read_file(file))


def _smaller_image(picture: np.ndarray, short_side: int) -> bytes:
    height, width = fit_short_side(*picture.shape[:2], short_side=short_side)
    out = io.BytesIO()
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    small.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def smaller_video(file: str, *, short_side: int | None, gop: int | None) -> bytes:
    """A video as MP4 of the same frames in the same order, at its average rate, without sound.

    Its shorter side has at most `short_side` pixels, and both sides an even number of them, as H.264 needs.
    """

    def size(height: int, width: int) -> tuple[int, int]:
        if short_side is not None and min(height, width) > short_side:
            height, width = fit_short_side(height, width, short_side=short_side)
        return max(2, height // 2 * 2), max(2, width // 2 * 2)

    options = X264 | ({"g": str(gop)} if gop else {})
    out = io.BytesIO()
    with Video(file) as video, av.open(out, "w", format="mp4") as container:
        rate = Fraction(video.rate).limit_denominator(LONGEST_RATE)
        pictures = video.each(size=size)
        first = list(islice(pictures, PICTURES_TO_REORDER))
        if min(len(first), gop or PICTURES_TO_REORDER) < PICTURES_TO_REORDER:
            # The header would announce frames in another order, time stamps would show none, and whoever reads the
            # file would have to decode it from its start: `packets.frame_index`.
            options |= {"bf": "0"}
        stream: Any = None
        for number, picture in enumerate(chain(first, pictures)):
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
                stream.codec_context.thread_count = 1
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def _write_json(path: Path, found: Mapping[str, Any]) -> None:
    unfinished = partial_name(path)
    try:
        unfinished.write_text(json.dumps(found), encoding="utf-8")
        sync_file(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)
