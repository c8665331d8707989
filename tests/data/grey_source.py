"""A small set of grey images, and its packing."""

from pathlib import Path

from fakes import grey_image

from unidual_zoo.data.datasets import read_splits
from unidual_zoo.data.packing import Packed, Packing, pack

CLASSES = ("grey 0", "grey 1", "grey 2")


def write_source(folder: Path) -> Path:
    """Seven training images of three greys, and a test image."""
    for number in range(7):
        grey_image(folder / "train" / CLASSES[number % 3] / f"{number}.png", number % 3)
    grey_image(folder / "val" / CLASSES[1] / "a.png", 1)
    return folder


def packed(source: Path | str, folder: Path, *, workers: int = 1, **packing) -> Packed:
    """Packs all of it -> what the last step tells."""
    *_, last = pack(read_splits(source), folder, Packing(**packing), workers=workers)
    return last
