"""What a model eats: its tasks, its preprocessing and its clips. The one source of all three."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from unidual_zoo.checks import check_known

IMAGE, VIDEO = "image", "video"
MODALITIES = (IMAGE, VIDEO)
DENSE, SEGMENTS = "dense", "segments"
SAMPLINGS = (DENSE, SEGMENTS)

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
        if not self.name or "." in self.name:
            raise ValueError(f"task name {self.name!r} must be a non-empty string without '.'")
        if self.modality not in MODALITIES:
            raise ValueError(f"task {self.name!r} has modality {self.modality!r}, allowed: {', '.join(MODALITIES)}")
        if not isinstance(self.num_classes, int) or isinstance(self.num_classes, bool) or self.num_classes < 0:
            raise ValueError(f"task {self.name!r} has {self.num_classes!r} classes, allowed: 0 (no head) or more")


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
        if self.length < 1 or self.stride < 1 or (self.rate is not None and self.rate <= 0):
            raise ValueError(f"a clip needs length >= 1, stride >= 1 and a positive rate or None, got {self}")

    @property
    def span(self) -> int:
        """Number of video frames from a dense clip's first to its last."""
        return (self.length - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The preprocessing of images and clips, and the class names of each task.

    `resize` is (height, width), aspect ratio not kept, or the length in pixels of the short side; `crop` is the
    (height, width) the network sees; `mean` and `std` are of RGB in 0..1. `classes` gives for a task its names in the
    order of its logits, or the name of a list in `unidual_zoo/classes`.
    """

    resize: tuple[int, int] | int = (128, 171)
    crop: tuple[int, int] = (112, 112)
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    interpolation: str = "bilinear"
    clip: ClipSpec = field(default_factory=ClipSpec)
    classes: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop[0] > least[0] or self.crop[1] > least[1]:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
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
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in _known(plain, cls).items()}
        if "clip" in values:
            values["clip"] = ClipSpec(**_known(values["clip"], ClipSpec))
        classes = values.get("classes", {})
        values["classes"] = {task: n if isinstance(n, str) else tuple(n) for task, n in classes.items()}
        return cls(**values)


def _known(plain: Mapping[str, Any], owner: type) -> Mapping[str, Any]:
    """The fields of a dataclass, if there are no others. Else raises a ValueError."""
    known = {f.name for f in dataclasses.fields(owner)}
    if unknown := sorted(set(plain) - known):
        raise ValueError(f"unknown spec fields {unknown}, allowed: {sorted(known)}")
    return plain


def _restore_spec(plain: dict[str, Any]) -> InputSpec:
    return InputSpec.from_dict(plain)


@cache
def packaged_classes(name: str) -> tuple[str, ...]:
    """Class names of the list `unidual_zoo/classes/<name>.txt`, one a line."""
    folder = resources.files("unidual_zoo") / "classes"
    path = folder / f"{name}.txt"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".txt") for p in folder.iterdir() if p.name.endswith(".txt"))
        raise ValueError(f"no list of class names {name!r}, allowed: {known}")
    return tuple(path.read_text(encoding="utf-8").splitlines())


def parse_tasks(tasks: Mapping[str, Any]) -> dict[str, Task]:
    """`{"in1k": ("image", 1000)}` (or lists, as JSON leaves them) -> `{"in1k": Task("in1k", "image", 1000)}`."""
    if not isinstance(tasks, Mapping):
        raise ValueError(f"tasks must be {{name: (modality, number of classes)}}, got {tasks!r}")
    parsed = {}
    for name, value in tasks.items():
        value = (value.modality, value.num_classes) if isinstance(value, Task) else value
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            raise ValueError(f"task {name!r} must be (modality, number of classes), got {value!r}")
        modality, num_classes = value
        parsed[name] = Task(name, modality, num_classes)
    return parsed
