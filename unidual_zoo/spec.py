"""What a model eats: its tasks, its preprocessing and its clips. The one source of all three.

A spec may have been read from a file of anybody's: it holds what it says it holds, within limits that no memory
minds, or it is a ValueError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from unidual_zoo.checks import check_known, check_number, is_number, short_repr

IMAGE, VIDEO = "image", "video"
MODALITIES = (IMAGE, VIDEO)
DENSE, SEGMENTS = "dense", "segments"
SAMPLINGS = (DENSE, SEGMENTS)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

MAX_TASKS, MAX_CLASSES = 1000, 100_000  # classes of each task
MAX_FRAMES = 4096  # of a clip, and between two of its frames
MAX_SIDE = 4096  # pixels of a resized picture
MAX_CLIP_PIXELS = 1 << 28  # of all resized frames of a clip; 4096 frames of 256×256
MIN_RATE, MAX_RATE = 0.001, 1000.0  # frames per second
MAX_CHANNELS = 1024
MAX_STATISTIC, MIN_STD = 1e4, 1e-6  # of channels' means and deviations

# VMZ's constants, used by the paper's authors and by every public R(2+1)D checkpoint (facts: facebookresearch/VMZ).
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class Task:
    """A classification task: its name, the modality of its data, and its number of classes (0: it has no head)."""

    name: str
    modality: str
    num_classes: int

    def __post_init__(self) -> None:
        plain = isinstance(self.name, str) and self.name.isprintable() and not set(self.name) & set("./\\")
        if not self.name or not plain:  # it is a part of a weight's name, and a folder
            raise ValueError(
                f"task name {short_repr(self.name)} must be a non-empty printable string without '.', '/' and '\\'"
            )
        if self.modality not in MODALITIES:
            raise ValueError(
                f"task {self.name!r} has modality {short_repr(self.modality)}, allowed: {', '.join(MODALITIES)}"
            )
        if not is_number(self.num_classes, least=0, most=MAX_CLASSES):
            allowed = f"0 (no head) to {MAX_CLASSES:,}"
            raise ValueError(f"task {self.name!r} has {short_repr(self.num_classes)} classes, allowed: {allowed}")


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """`length` frames of a video.

    With `sampling` "dense" they lie `stride` frames apart in a video read at `rate` frames per second (None: its own
    rate); with "segments" each is of one of `length` equal parts of the whole video, whatever its rate.
    """

    length: int = 8
    stride: int = 1
    rate: float | None = None
    sampling: str = DENSE

    def __post_init__(self) -> None:
        check_known("sampling", self.sampling, SAMPLINGS)
        whole = all(is_number(value, least=1, most=MAX_FRAMES) for value in (self.length, self.stride))
        if not whole or not (self.rate is None or is_number(self.rate, least=MIN_RATE, most=MAX_RATE, whole=False)):
            frames = f"length >= 1 and stride >= 1, whole numbers up to {MAX_FRAMES:,}"
            rate = f"a positive rate from {MIN_RATE:g} to {MAX_RATE:g} or None"
            given = ", ".join(f"{f.name}={short_repr(getattr(self, f.name))}" for f in dataclasses.fields(self))
            raise ValueError(f"a clip needs {frames}, and {rate}, got {given}")

    @property
    def span(self) -> int:
        """Number of video frames from a dense clip's first to its last."""
        return (self.length - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The preprocessing of images and clips, and the class names of each task.

    `resize` is (height, width), aspect ratio not kept, or the length in pixels of the short side; `crop` is the
    (height, width) the network sees; `mean` and `std` are of RGB in 0..1. On the video pathway an image becomes a clip
    of `image_frames` equal frames (None: as many as a clip has). `classes` gives for a task its names in the order of
    its logits, or the name of a list in `unidual_zoo/classes`.

    Raises:
        ValueError: a field is not what it should be, or beyond the limits above.
    """

    resize: tuple[int, int] | int = (128, 171)
    crop: tuple[int, int] = (112, 112)
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    interpolation: str = "bilinear"
    clip: ClipSpec = field(default_factory=ClipSpec)
    image_frames: int | None = None
    classes: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.clip, ClipSpec):
            raise ValueError(f"clip must be a ClipSpec, got {short_repr(self.clip)}")
        least = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        _check_size("resize", least)
        _check_size("crop", self.crop)
        if self.crop[0] > least[0] or self.crop[1] > least[1]:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        if self.clip.length * least[0] * least[1] > MAX_CLIP_PIXELS:
            asked = f"{self.clip.length} frames of {least[0]}×{least[1]}"
            raise ValueError(f"a clip may have {MAX_CLIP_PIXELS:,} pixels, {asked} are more")
        if self.image_frames is not None:
            check_number("image_frames", self.image_frames, least=1, most=MAX_FRAMES)
        _check_statistics(self.mean, self.std)
        check_known("interpolation", self.interpolation, INTERPOLATIONS)
        _check_classes(self.classes)
        object.__setattr__(self, "classes", MappingProxyType(dict(self.classes)))

    def __reduce__(self):  # a mappingproxy cannot be pickled, and loader workers need the spec
        return _restore_spec, (self.to_dict(),)

    @property
    def short_side(self) -> int:
        """Pixels of the resized picture's shorter side."""
        return self.resize if isinstance(self.resize, int) else min(self.resize)

    def class_names(self, task: str) -> tuple[str, ...] | None:
        """Names of the task's classes in the order of its logits, or None if they are not known."""
        names = self.classes.get(task)
        return packaged_classes(names) if isinstance(names, str) else names

    def without_classes(self, task: str) -> InputSpec:
        """The spec without the class names of a task, whose classes are others now."""
        return dataclasses.replace(self, classes={name: names for name, names in self.classes.items() if name != task})

    def for_tasks(self, tasks: Mapping[str, Task]) -> InputSpec:
        """The spec with the class names of these tasks alone, and only where there is one for every class."""
        named = {task: self.class_names(task) for task in self.classes if task in tasks}
        fitting = {task for task, names in named.items() if names and len(names) == tasks[task].num_classes}
        return dataclasses.replace(self, classes={task: n for task, n in self.classes.items() if task in fitting})

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON keeps and `from_dict` reads back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["clip"] = dataclasses.asdict(self.clip)
        plain["classes"] = {task: n if isinstance(n, str) else list(n) for task, n in self.classes.items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> InputSpec:
        """The spec that `to_dict` wrote, also after a trip through JSON. Unknown keys are a ValueError."""
        values = {key: _as_tuple(value) for key, value in _known("spec", plain, cls).items()}
        if "clip" in values:
            values["clip"] = ClipSpec(**_known("spec.clip", values["clip"], ClipSpec))
        if isinstance(values.get("classes"), Mapping):
            values["classes"] = {task: _as_tuple(names) for task, names in values["classes"].items()}
        return cls(**values)


def _as_tuple(value: Any) -> Any:
    """A list, as JSON leaves it, as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _known(what: str, plain: Any, owner: type) -> Mapping[str, Any]:
    """The fields of a dataclass, if there are no others. Else raises a ValueError."""
    if not isinstance(plain, Mapping):
        raise ValueError(f"{what} must be fields and their values, got {short_repr(plain)}")
    known = {f.name for f in dataclasses.fields(owner)}
    if unknown := sorted(set(plain) - known):
        raise ValueError(f"unknown spec fields {unknown}, allowed: {sorted(known)}")
    return plain


def _check_size(what: str, size: Any) -> None:
    """Raises a ValueError if a size is not (height, width) in pixels, within the limits."""
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise ValueError(f"{what} must be (height, width), got {short_repr(size)}")
    for side, pixels in zip(("height", "width"), size, strict=True):
        check_number(f"{side} of {what}", pixels, least=1, most=MAX_SIDE)


def _check_statistics(mean: Any, std: Any) -> None:
    """Raises a ValueError if these cannot be mean and deviation of the channels: a network would answer NaN."""
    for what, values in (("mean", mean), ("std", std)):
        if not isinstance(values, Sequence) or isinstance(values, str) or not 1 <= len(values) <= MAX_CHANNELS:
            raise ValueError(f"{what} must be a number for each channel, got {short_repr(values)}")
        for value in values:
            check_number(f"{what} of a channel", value, least=-MAX_STATISTIC, most=MAX_STATISTIC, whole=False)
    if len(mean) != len(std):
        raise ValueError(f"mean and std must have as many channels, got {len(mean)} and {len(std)}")
    if min(std) < MIN_STD:
        raise ValueError(f"std must be {MIN_STD:g} or more, got {short_repr(std)}")


def _check_classes(classes: Any) -> None:
    """Raises a ValueError if `classes` does not give for a task its names, or the name of a list of them."""
    if not isinstance(classes, Mapping):
        raise ValueError(f"classes must be names for each task, got {short_repr(classes)}")
    for task, names in classes.items():
        if isinstance(names, str):
            continue
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"classes of {task!r} must be names or the name of a list, got {short_repr(names)}")


def _restore_spec(plain: dict[str, Any]) -> InputSpec:
    return InputSpec.from_dict(plain)


@cache
def packaged_classes(name: str) -> tuple[str, ...]:
    """Class names of the list `unidual_zoo/classes/<name>.txt`, one a line.

    Raises:
        ValueError: there is no such list; a name is looked up and never made into a path.
    """
    folder = resources.files("unidual_zoo") / "classes"
    lists = {path.name.removesuffix(".txt"): path for path in folder.iterdir() if path.name.endswith(".txt")}
    check_known("list of class names", name, sorted(lists))
    return tuple(lists[name].read_text(encoding="utf-8").splitlines())


def parse_tasks(tasks: Mapping[str, Any]) -> dict[str, Task]:
    """`{"in1k": ("image", 1000)}` (or lists, as JSON leaves them) -> `{"in1k": Task("in1k", "image", 1000)}`."""
    if not isinstance(tasks, Mapping):
        raise ValueError(f"tasks must be {{name: (modality, number of classes)}}, got {short_repr(tasks)}")
    if len(tasks) > MAX_TASKS:
        raise ValueError(f"a network has at most {MAX_TASKS:,} tasks, got {len(tasks):,}")
    parsed = {}
    for name, value in tasks.items():
        value = (value.modality, value.num_classes) if isinstance(value, Task) else value
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ValueError(f"task {name!r} must be (modality, number of classes), got {short_repr(value)}")
        modality, num_classes = value
        parsed[name] = Task(name, modality, num_classes)
    return parsed
