"""CIFAR-10 and CIFAR-Motion: natural images, and clips made from them, small enough to run the paper's tables on a CPU.

CIFAR-Motion is an image of CIFAR-10 under a camera motion, with noise, drifting brightness and varying speed. Its
classes are columns of `COLUMNS`; a clip of the training set shows a training image. Everything follows from a seed and
from the copy of CIFAR-10: torchvision's holds the pixels, others hold files, which may be JPEGs and so not the same.
The data are stacks (`data/stacks.py`): a folder with train.csv, holdout.csv and test.csv, as `read_media` reads it.

Of the 50,000 training images the last 5,000 are `holdout`, on which settings are chosen. The image task takes the first
`count` (with more than 45,000 nothing is held out), clips are made of those behind them or, where they are too few, of
all but the holdout.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from unidual_zoo.checks import check_known
from unidual_zoo.data.images import known_formats
from unidual_zoo.data.listing import is_machine_made, look_into
from unidual_zoo.data.media import is_image
from unidual_zoo.data.stacks import is_whole, write_stack
from unidual_zoo.data.synthetic.motion import CAMERA_MOTIONS, make_clip
from unidual_zoo.data.synthetic.toy import cache_folder
from unidual_zoo.progress import Progress
from unidual_zoo.spec import packaged_classes

VERSION = 1  # part of the folders' names: raise it when what is made changes
CLASSES = packaged_classes("cifar10")
SIDE = 32  # pixels
SPLITS = ("train", "holdout", "test")
HOLDOUT_SHARE, HOLDOUT_CLIPS = 0.1, 1_000
NOISE, DRIFT = (2, 12), 0.2  # range of the noise's deviation in grey levels, relative change of brightness
FILES, TORCHVISION = "files", "torchvision"  # kinds of copies
DOWNLOADED = "cifar-10-batches-py"  # torchvision's folder

_VEHICLES = ("airplane", "automobile", "ship", "truck")
_SIX = ("still", "pan left", "pan right", "zoom in", "zoom out", "rotate clockwise")
_FIVE = ("pan left", "pan right", "zoom in", "zoom out", "shake")


@dataclass(frozen=True)
class Column:
    """The classes of a video task: for each the objects that it may show and the motions under which it may show them.

    Clips take the objects in turn, and of an object its classes in turn.
    """

    classes: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    size: tuple[int, int] = (SIDE, SIDE)  # (height, width); an image is enlarged to fit, and mirrored at the sides
    num_frames: int = 24

    def of_object(self, name: str) -> list[str]:
        """The classes that may show an object."""
        return [label for label, (objects, _) in self.classes.items() if name in objects]


def _main() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    split = {"automobile": ("pan left", "pan right"), "ship": ("zoom in", "zoom out")}
    classes = {}
    for name in CLASSES:
        if name in split:
            classes |= {f"{name} {motion}": ((name,), (motion,)) for motion in split[name]}
        else:
            classes[name] = ((name,), CAMERA_MOTIONS)
    return classes


COLUMNS: Mapping[str, Column] = {
    # As in Kinetics a frame tells nearly as much as a clip: ten objects, two of them split by the camera's motion.
    "cifar_motion": Column(_main()),
    # The same for the 152-layer protocol: larger, wide and longer.
    "cifar_motion_wide": Column(_main(), size=(48, 64), num_frames=36),
    # As in Something-Something time is needed: each object under six motions.
    "cifar_motion60": Column({f"{name} {motion}": ((name,), (motion,)) for name in CLASSES for motion in _SIX}),
    # A third source for Table 3, with other labels: the kind of the object and the camera's motion.
    "cifar_camera": Column(
        {
            f"{kind} {motion}": (names, (motion,))
            for kind, names in {
                "vehicle": _VEHICLES,
                "animal": tuple(name for name in CLASSES if name not in _VEHICLES),
            }.items()
            for motion in _FIVE
        }
    ),
}


def cifar_images(root: str | Path, *, count: int = 10_000, download: bool = False) -> Path:
    """The folder of the image task: the first `count` training images, the holdout, the 10,000 test images.

    `root` holds CIFAR-10 as train.tar and test.tar, as folders train/<class>/<file>, or as torchvision leaves it; with
    `download` torchvision fetches it there.

    Raises:
        ValueError: there is no CIFAR-10, or `count` is more than it has.
    """
    folder = cache_folder() / f"cifar10-v{VERSION}-{_kind(root, download)}-{count}"
    for split in SPLITS:
        if is_whole(folder, split, shape=(SIDE, SIDE, 3)):
            continue
        source = _source(root, split, download)
        chosen = source.order[:count] if split == "train" else source.part(split)
        if split == "holdout" and count > len(source) - len(chosen):
            chosen = chosen[:0]
        if split == "train" and len(chosen) < count:
            raise ValueError(f"needs {count:,} images, CIFAR-10 in {root} has {len(chosen):,}")
        labels = [CLASSES[source.labels[number]] for number in chosen]
        write_stack(
            folder, split, shape=(SIDE, SIDE, 3), labels=labels, make=partial(_picture, source.pictures, chosen)
        )
    return folder


def cifar_clips(
    root: str | Path,
    column: str = "cifar_motion",
    *,
    clips: int = 3_000,
    test_clips: int = 5_000,
    images: int = 10_000,
    seed: int = 0,
    download: bool = False,
) -> Path:
    """The folder of a video task of `COLUMNS`: `clips` to train, 1,000 of holdout, `test_clips`.

    `images` is the number of training images that belong to the image task and are not used for clips while others are
    left. `root` and `download`: see `cifar_images`.

    Raises:
        ValueError: there is no such column, or no CIFAR-10.
    """
    check_known("column", column, COLUMNS)
    folder = cache_folder() / f"{column}-v{VERSION}-{_kind(root, download)}-seed{seed}-{clips}-{test_clips}-{images}"
    counts = {"train": clips, "holdout": HOLDOUT_CLIPS, "test": test_clips}
    shape = (COLUMNS[column].num_frames, *COLUMNS[column].size, 3)
    for number, split in enumerate(SPLITS):
        if is_whole(folder, split, shape=shape):
            continue
        source = _source(root, split, download)
        chosen = source.part(split)
        if split == "train" and len(chosen) - images >= clips:
            chosen = chosen[images:]
        plan = _plan(source, COLUMNS[column], chosen, count=counts[split])
        key = (seed, list(COLUMNS).index(column), number)
        bar = Progress(total=len(plan), desc=f"making {column}/{split}", unit="clip", mininterval=0.5)
        make = partial(_clip, source.pictures, plan, COLUMNS[column], key, bar.update)
        labels = [label for _, label in plan]
        write_stack(folder, split, shape=shape, labels=labels, make=make)
        bar.close()
    return folder


def _picture(pictures: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    return pictures[chosen[number]]


def _plan(source: _Images, column: Column, chosen: np.ndarray, *, count: int) -> list[tuple[int, str]]:
    """(image, class) of each clip: the chosen images one after the other, an object's classes in turn."""
    seen = dict.fromkeys(CLASSES, 0)
    plan = []
    for number in range(count):
        image = int(chosen[number % len(chosen)])
        name = CLASSES[source.labels[image]]
        classes = column.of_object(name)
        plan.append((image, classes[seen[name] % len(classes)]))
        seen[name] += 1
    return plan


def _clip(
    pictures: np.ndarray,
    plan: list[tuple[int, str]],
    column: Column,
    key: tuple[int, ...],
    done: Callable[[], object],
    number: int,
) -> np.ndarray:
    rng = np.random.default_rng((*key, number))
    image, label = plan[number]
    motions = column.classes[label][1]
    motion = motions[rng.integers(len(motions))]
    noise = rng.uniform(*NOISE)
    picture = _enlarged(pictures[image], column.size)
    clip = make_clip(picture, motion=motion, num_frames=column.num_frames, rng=rng, noise=noise, drift=DRIFT)
    done()
    return clip


def _enlarged(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(32, 32, 3) -> (H, W, 3), as large as the shorter side asks, the rest mirrored."""
    side = min(size)
    if side != len(picture):
        picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
    return np.pad(picture, [*(((room - side) // 2, (room - side + 1) // 2) for room in size), (0, 0)], mode="reflect")


# ---- CIFAR-10 itself ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Images:
    """Pictures (N, 32, 32, 3) uint8 and their class numbers (N,)."""

    pictures: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def order(self) -> np.ndarray:
        """The numbers of all images, one of each class after the other."""
        ranks = np.empty(len(self), dtype=int)
        for label in range(len(CLASSES)):
            of_class = np.flatnonzero(self.labels == label)
            ranks[of_class] = np.arange(len(of_class))
        return np.lexsort((self.labels, ranks))

    def part(self, split: str) -> np.ndarray:
        """The numbers of the images that a split may use, in that order."""
        kept = len(self) - round(len(self) * HOLDOUT_SHARE)
        return {"train": self.order[:kept], "holdout": self.order[kept:], "test": self.order}[split]


def _kind(root: str | Path, download: bool) -> str:
    """How a copy of CIFAR-10 is kept: "files" in a tar or in folders, or as "torchvision" leaves it."""
    root = Path(root)
    if (root / "train.tar").is_file() or (root / "train").is_dir():
        return FILES
    if download or (root / DOWNLOADED).is_dir():
        return TORCHVISION
    raise ValueError(
        f"no CIFAR-10 in {root}: it needs train.tar and test.tar, folders train/<class> and test/<class>, or "
        f"torchvision's {DOWNLOADED}; --download fetches it"
    )


def _source(root: str | Path, split: str, download: bool) -> _Images:
    """The images of which a split of `SPLITS` is a part."""
    return _read_split(Path(root), "test" if split == "test" else "train", download)


@lru_cache(maxsize=2)
def _read_split(root: Path, split: str, download: bool) -> _Images:
    if _kind(root, download) == TORCHVISION:
        return _from_torchvision(root, split, download)
    if (root / f"{split}.tar").is_file():
        found = list(_from_tar(root / f"{split}.tar"))
    else:
        found = list(_from_folders(root / split))
    names = {name for name, _ in found}
    if names != set(CLASSES):
        raise ValueError(f"{root}: the classes of CIFAR-10 are {', '.join(CLASSES)}, found {sorted(names) or 'none'}")
    pictures = np.stack(
        [np.asarray(Image.open(io.BytesIO(data), formats=known_formats()).convert("RGB")) for _, data in found]
    )
    return _checked(root, pictures, np.array([CLASSES.index(name) for name, _ in found]))


def _from_folders(path: Path) -> Iterator[tuple[str, bytes]]:
    """(class, file's bytes) of the images in folders, sorted by name."""
    for folder in look_into(path).folders:
        for file in filter(is_image, look_into(folder).files):
            yield folder.name, Path(file).read_bytes()


def _from_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    """(class, file's bytes) of the images in a tar, sorted by name."""
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and _is_picture(member.name)]
        for member in sorted(members, key=lambda member: member.name):
            content = archive.extractfile(member)
            assert content is not None  # it is a file
            yield Path(member.name).parent.name, content.read()


def _is_picture(name: str) -> bool:
    """Whether a name in a tar is that of an image, and not of what a system added to it."""
    parts = PurePosixPath(name).parts
    return is_image(name) and not any(part.startswith(".") or is_machine_made(part) for part in parts)


def _from_torchvision(root: Path, split: str, download: bool) -> _Images:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"CIFAR-10 cannot be had in {root}: {error}") from error
    return _checked(root, data.data, np.array(data.targets))


def _checked(root: Path, pictures: np.ndarray, labels: np.ndarray) -> _Images:
    if pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"{root}: images of CIFAR-10 are {SIDE}×{SIDE}, these are {pictures.shape[1:]}")
    return _Images(pictures, labels)
