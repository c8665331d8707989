"""One file -> what is found in it: its facts, small pictures of it, and whatever is wrong."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from unidual_zoo.data.checking.entries import Entry
from unidual_zoo.data.decode import Video, open_video
from unidual_zoo.data.images import read_image
from unidual_zoo.data.media import MediaError, check_file, file_boundary
from unidual_zoo.data.members import is_member, read_member
from unidual_zoo.data.stacks import StackedClip, is_stacked, read_stacked
from unidual_zoo.data.warned import collected
from unidual_zoo.spec import IMAGE

PICTURES = 4  # of a video
FINE, COARSE = 32, 16  # sides of small pictures: to see whether there is anything on them, and to be kept
LIMIT = "UNIDUAL_"  # names the variable that raises it, in the reason of what met a limit
HASHED_AT_ONCE = 2**20  # bytes


@dataclass(frozen=True)
class Finding:
    """What was found in one file. What could not be found is None.

    `contrast`: the brightest of all pixels of the small pictures minus the darkest, 0 to 255. `pictures`: small grey
    pictures, (N, COARSE, COARSE) uint8. `limited`: the reason is a limit, which may be another next time.
    """

    name: str
    size: int
    changed: int
    sha256: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    limited: bool = False
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    rate: float | None = None
    codec: str | None = None
    contrast: int | None = None
    pictures: np.ndarray | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What the finding is about: the file as it was."""
        return self.name, self.size, self.changed

    @property
    def duration(self) -> float | None:
        """Seconds."""
        return self.frames / self.rate if self.frames and self.rate else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a line of JSON."""
        pictures = None if self.pictures is None else base64.b64encode(self.pictures.tobytes()).decode("ascii")
        return {**asdict(self), "pictures": pictures}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Finding:
        """The inverse of `to_dict`."""
        pictures = row.get("pictures")
        if pictures is not None:
            pictures = np.frombuffer(base64.b64decode(pictures), np.uint8).reshape(-1, COARSE, COARSE)
        return cls(**{**row, "warnings": tuple(row["warnings"]), "pictures": pictures})


def examine(name: str, entry: Entry) -> Finding:
    """Decodes everything in the file of an entry. A file that cannot be read is a finding, too."""
    size, changed = entry.stamp()
    facts: dict[str, Any] = {}
    error = None
    with collected() as warned:
        try:
            with file_boundary(entry.path), entry.file() as path:
                facts["sha256"] = content_hash(path, entry.modality)
                facts |= _image_facts(path) if entry.modality == IMAGE else _video_facts(path)
        except MediaError as raised:
            error = raised.reason
    reasons = tuple(dict.fromkeys(warning.reason for warning in warned))
    limited = error is not None and LIMIT in error
    return Finding(name, size, changed, error=error, warnings=reasons, limited=limited, **facts)


def content_hash(path: str, modality: str) -> str:
    """SHA-256 of a file's bytes, wherever it lies, or of an entry of a stack."""
    if is_stacked(path):
        return hashlib.sha256(read_stacked(path, ndim=3 if modality == IMAGE else 4).tobytes()).hexdigest()
    if is_member(path):
        return hashlib.sha256(read_member(path)).hexdigest()
    check_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASHED_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _image_facts(path: str) -> dict[str, Any]:
    picture = read_image(path)
    height, width = picture.shape[:2]
    grey = picture.mean(2, dtype=np.float32)[None]
    codec = "stack" if is_stacked(path) else path.rpartition(".")[2].lower()
    return dict(width=width, height=height, codec=codec, **_looks(grey))


def _video_facts(path: str) -> dict[str, Any]:
    if is_stacked(path):
        with open_video(path) as clip:
            assert isinstance(clip, StackedClip)
            info = clip.info()
            chosen = sorted({(2 * i + 1) * info.frames // (2 * PICTURES) for i in range(PICTURES)})
            pictures, codec = clip.read(chosen).mean(3, dtype=np.float32), "stack"
    else:
        with Video(path, strict=True) as video:
            pictures = video.survey(PICTURES, side=FINE)
            info, codec = video.info(), video.codec
    facts = dict(width=info.width, height=info.height, frames=info.frames, rate=info.rate, codec=codec)
    return facts | (_looks(pictures) if len(pictures) else {})


def _looks(grey: np.ndarray) -> dict[str, Any]:
    """Grey pictures (N, H, W) -> what is kept of them."""
    fine = _averaged(grey, FINE)
    coarse = _averaged(fine, COARSE)
    return dict(contrast=int(fine.max() - fine.min()), pictures=coarse.round().astype(np.uint8))


def _averaged(grey: np.ndarray, side: int) -> np.ndarray:
    """(N, H, W) -> (N, side, side) float: the mean of every area."""
    pictures = torch.from_numpy(np.ascontiguousarray(grey, np.float32))[None]  # (1, N, H, W)
    return F.adaptive_avg_pool2d(pictures, side)[0].numpy()
