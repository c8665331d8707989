"""Table 3 of the paper: a third source, a second video task, trained jointly with the other two.

    uv run benchmarks/table3.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/table3.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE
        the third source are other clips of CIFAR images, labelled by the kind of the object and the camera's motion
    uv run benchmarks/table3.py --scale paper --data in1k=… --data k400=… --data minisports=… [--run]
        the commands of the paper's training; minisports is a list of 240,000 videos of Sports-1M, drawn at random

Rows that Table 2 has, too, are the same runs. `docs/results.md` holds the measured figures.
"""

from scales import MINI, PAPER, TOY
from table2 import BOTH, image, video
from tables import CLIPS, IMAGES, THIRD, Row, Table, main

TABLE = Table(
    title="Table 3",
    paper="Kinetics-400, ImageNet-1k and MiniSports, median of 3 runs",
    metrics=("clip@1", "video@1", "top-1", "top-5", "third clip@1", "third video@1"),
    reference="UniDual-Aux (three sources)",
    rows=(
        Row(name="R2D", model="r2d{}", sources=(IMAGES,), paper=image(69.2, 89.2)),
        Row(name="R(2+1)D", model="r2plus1d{}", sources=(CLIPS,), paper=video(54.7, 67.3)),
        Row(name="R(2+1)D (third source)", model="r2plus1d{}", sources=(THIRD,),
            paper={"third clip@1": 31.4, "third video@1": 60.5}),
        Row(name="UniDual-Aux", model="unidual{}_aux", sources=BOTH, paper=video(57.8, 70.5) | image(70.9, 90.3)),
        Row(name="UniDual-Aux (three sources)", model="unidual{}_aux", sources=(*BOTH, THIRD),
            paper=video(59.6, 71.7) | image(69.9, 90.0) | {"third clip@1": 32.3, "third video@1": 61.9}),
    ),
    scales={"toy": TOY, "mini": MINI, "paper": PAPER},
)  # fmt: skip

if __name__ == "__main__":
    main(TABLE)
