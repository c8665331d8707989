"""DistInit (arXiv 1901.09244) in miniature: what a video network had best start from, with few labelled clips.

    uv run benchmarks/distinit.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/distinit.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE
        on CIFAR-10 and clips made from it

R(2+1)D starts from random weights, from an image network inflated over time, or from having learnt, on the clips
without their labels, what that image network says of a random frame. All clips serve both ends; the paper has many more
without labels. `docs/results/distinit.md` holds the measured figures.
"""

from scales import MINI, TOY
from tables import CLIPS, IMAGES, Row, Table, main

TABLE = Table(
    title="DistInit",
    metrics=("clip@1", "video@1", "top-1"),
    reference="from inflation",
    folder="distinit",
    rows=(
        Row(name="the image network", model="r2d{}", sources=(IMAGES,)),
        Row(name="taught by it", model="r2plus1d{}", sources=(CLIPS,), teacher="the image network"),
        Row(name="from scratch", model="r2plus1d{}", sources=(CLIPS,)),
        Row(name="from inflation", model="r2plus1d{}", sources=(CLIPS,), init="the image network"),
        Row(name="from DistInit", model="r2plus1d{}", sources=(CLIPS,), init="taught by it"),
    ),
    scales={"toy": TOY, "mini": MINI},
)

if __name__ == "__main__":
    main(TABLE)
