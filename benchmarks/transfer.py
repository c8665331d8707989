"""What ImageNet weights are worth on small data sets of one's own: images alone, videos alone, and both in one network.

    uv run benchmarks/transfer.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/transfer.py --scale real --data images=PHOTOS --data clips=WORDS --seeds 3 --jobs 2 --json FILE
        PHOTOS holds labelled photos, split/class/file (clothing-dataset-small); WORDS the words of the GRID corpus,
        train|val/word/file, of which the ten digits are taken
    uv run benchmarks/transfer.py --scale real --column digits_direction …
        each digit forward and reversed, twenty classes, so that a label needs time

All rows start from `unidual_efficientnet_lite0.in1k` but those "from scratch", and have the same budget: as many
examples of each task, of which least squares fit the heads before the first step; --set epochs=0 leaves it at that.
Frames are 72×72, six to a clip, spread over the whole clip; BatchNorms keep their statistics.
`docs/results/transfer.md` holds the measured figures.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scales import TOY
from table2 import BOTH
from tables import CLIPS, IMAGES, Options, Row, Scale, Table, main

from unidual_zoo.data import probe, read_frames
from unidual_zoo.training.rundir import write_whole

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": "train", "val": "test"}  # of GRID's words -> of the lists
DIRECTIONS = {"forward": 1, "reversed": -1}
QUALITY = "12"  # x264's constant rate factor: both directions are encoded alike, and hardly lose anything
NETWORK = "unidual_efficientnet_lite0"

AVERAGE = 'model_args={"operator": "none"}'
MULTITASK = 'model_args={"operator": "none", "norms": "shared"}'
ORDERED_HEADS = 'model_args={"operator": "none", "time_terms": 6}'  # as many as a clip has frames
UNIDUAL = 'model_args={"time_terms": 6}'
AUXILIARY = 'model_args={"time_terms": 6, "auxiliary": true}'
FROZEN = 'model_args={"time_terms": 6, "freeze_trunk": true}'
POINTWISE = ('model_args={"time_terms": 6, "auxiliary": true, "operator": "pointwise"}', "lr=0.0001")  # as `finetune`
SCRATCH = ("pretrained=false", "freeze_norms=false", "layer_decay=null", "fit_heads=false")  # as `finetune` does then


def real_data(options: Options, tasks: Mapping[str, str]) -> dict[str, list[str]]:
    """The photos as they are, and the lists of the column's clips, which are made where they are not there.

    Raises:
        ValueError: a folder was not given, or lacks a digit.
    """
    if missing := [role for role in tasks if role not in options.given]:
        raise ValueError(f"--scale real needs --data {missing[0]}=FOLDER")
    found = {IMAGES: ["--data", f"{tasks[IMAGES]}={options.given[IMAGES]}"]}
    if CLIPS in tasks:
        folder = digit_lists(Path(options.given[CLIPS]), options.out / "data" / tasks[CLIPS], column=tasks[CLIPS])
        found[CLIPS] = ["--data", f"{tasks[CLIPS]}={folder}"]
    return found


def digit_lists(words: Path, folder: Path, *, column: str) -> Path:
    """The folder of train.csv and test.csv of a column, `digits` or `digits_direction`.

    Raises:
        ValueError: there is no such column, or the folder of words lacks a digit.
    """
    if column not in ("digits", "digits_direction"):
        raise ValueError(f"no column {column!r}, allowed: digits, digits_direction")
    for split, name in SPLITS.items():
        if (folder / f"{name}.csv").exists():
            continue
        rows = list(_rows(words / split, folder / name, directed=column == "digits_direction"))
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.csv", lambda path, rows=rows: _write_list(path, rows))
    return folder


def _rows(words: Path, made: Path, *, directed: bool) -> Iterator[tuple[str, str]]:
    """(file, label) of the digits; with `directed` each file twice, encoded again in either direction."""
    for digit in DIGITS:
        files = sorted((words / digit).glob("*.mp4"))
        if not files:
            raise ValueError(f"no clips of {digit!r} in {words}")
        for file in files:
            if not directed:
                yield str(file.resolve()), digit
                continue
            for direction, step in DIRECTIONS.items():
                target = made / f"{digit}_{direction}" / file.name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    frames = read_frames(file, list(range(probe(file).frames)))[::step]
                    write_whole(target, lambda path, frames=frames: encode(frames, path))
                yield str(target.resolve()), f"{digit}_{direction}"


def encode(frames: np.ndarray, path: Path, *, rate: int = 25) -> None:
    """Writes frames (T, H, W, 3) uint8 as an H.264 MP4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _write_list(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])


TABLE = Table(
    title="Transfer",
    metrics=("top-1", "clip@1", "video@1"),
    reference="UniDual-Aux",
    folder="transfer",
    rows=(
        Row(name="images alone", model=NETWORK, sources=(IMAGES,)),
        Row(name="videos alone by frame average", model=NETWORK, sources=(CLIPS,), settings=(AVERAGE,)),
        Row(name="videos alone by ordered heads", model=NETWORK, sources=(CLIPS,), settings=(ORDERED_HEADS,)),
        Row(name="videos alone", model=NETWORK, sources=(CLIPS,), settings=(UNIDUAL,)),
        Row(name="multitask without own operators", model=NETWORK, sources=BOTH, settings=(MULTITASK,)),
        Row(name="UniDual", model=NETWORK, sources=BOTH, settings=(UNIDUAL,)),
        Row(name="UniDual-Aux", model=NETWORK, sources=BOTH, settings=(AUXILIARY,)),
        Row(name="UniDual-Aux with point-wise units", model=NETWORK, sources=BOTH, settings=POINTWISE),
        Row(name="UniDual with frozen trunk", model=NETWORK, sources=BOTH, settings=(FROZEN,)),
        Row(name="images alone from scratch", model=NETWORK, sources=(IMAGES,), settings=SCRATCH),
        Row(name="videos alone from scratch", model=NETWORK, sources=(CLIPS,), settings=(UNIDUAL, *SCRATCH)),
        Row(name="UniDual-Aux from scratch", model=NETWORK, sources=BOTH, settings=(AUXILIARY, *SCRATCH)),
    ),
    scales={
        "toy": Scale(
            recipe="finetune", size="", data=TOY.data, tasks={IMAGES: "toy_objects", CLIPS: "toy_actions"},
            settings=("resize=36", "crop=[32,32]", "num_frames=2", "epoch_size=32", "epochs=1", "batch_size=8",
                      "eval_every=0", "workers=0", "layer_decay=null"),
        ),
        "real": Scale(
            recipe="finetune", size="", data=real_data, tasks={IMAGES: "clothing", CLIPS: "digits"},
            settings=("resize=80", "crop=[72,72]", "num_frames=6", "epoch_size=400", "epochs=8", "batch_size=16",
                      "eval_every=0", "workers=0", "freeze_norms=true", "flip=false", "protocol=one_clip"),
        ),
    },
)  # fmt: skip

if __name__ == "__main__":
    main(TABLE)
