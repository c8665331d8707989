"""Table 4 of the paper: the 152-layer recipe, with bottleneck blocks, longer clips and larger frames.

    uv run benchmarks/table4.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/table4.py --scale mini --cifar DIR --seeds 2 --jobs 2 --json FILE
        bottleneck blocks with the pool behind the stem, 12 frames, CIFAR images at 48×64, the 10 × 3 protocol
    uv run benchmarks/table4.py --scale paper --data in1k=/data/imagenet --data k400=/data/k400 [--run]
        the commands of the paper's training

`docs/results.md` holds the measured figures.
"""

import dataclasses

from scales import MINI, PAPER, TOY
from table2 import BOTH, image
from tables import CLIPS, IMAGES, Row, Table, main

BOTTLENECK = 'model_args={"block": "bottleneck", "depths": [1, 1, 2, 1], "pool": true}'
NONLOCAL = 'model_args={"width": 0.25, "depths": [1, 1, 2, 1], "nonlocal_blocks": [[], [0], [1], []]}'
PROTOCOL = "protocol=unidual152"


TABLE = Table(
    title="Table 4",
    folder="table4",
    paper="Kinetics-400 and ImageNet-1k, mean of 2 runs",
    metrics=("video@1", "video@5", "top-1", "top-5"),
    reference="UniDual-Aux",
    rows=(
        Row(name="R2D", model="r2d{}", sources=(IMAGES,), paper=image(74.2, 92.0)),
        Row(name="R(2+1)D", model="r2plus1d{}", sources=(CLIPS,), paper={"video@1": 76.0, "video@5": 92.2}),
        Row(name="Non-local", model="i3d101_nl", sources=(CLIPS,), small=(NONLOCAL,),
            paper={"video@1": 77.7, "video@5": 93.3}),
        Row(name="UniDual-Aux", model="unidual{}_aux", sources=BOTH,
            paper={"video@1": 77.5, "video@5": 93.2} | image(75.4, 92.5)),
    ),
    scales={
        "toy": dataclasses.replace(TOY, settings=(*TOY.settings, BOTTLENECK, PROTOCOL)),
        "mini": dataclasses.replace(
            MINI, tasks={**MINI.tasks, CLIPS: "cifar_motion_wide"},
            settings=(BOTTLENECK, PROTOCOL, "resize=48", "crop=[40,40]", "num_frames=12"),
        ),
        "paper": dataclasses.replace(PAPER, recipe="paper-152", size="152"),
    },
)  # fmt: skip

if __name__ == "__main__":
    main(TABLE)
