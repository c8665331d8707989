"""Does the paper's idea carry over to other blocks? CSN and I3D for images and videos, in miniature.

    uv run benchmarks/duals.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/duals.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE
        on CIFAR-10 and clips made from it, see table2.py

Of each family: the two pathways trained separately, jointly, and jointly with auxiliary losses. Networks have a block a
stage and a quarter of the width; frames are enlarged to 64 pixels, since the stems reduce them by four. As in
Table 2 an epoch is as many examples of each task for every row. `docs/results/duals.md` holds the measured figures.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from scales import MINI, TOY
from table2 import BOTH
from tables import CLIPS, IMAGES, Row, Table, main

SMALL = {"depths": [1, 1, 1, 1], "width": 0.25}
FAMILIES = {"IR-CSN": "ircsn50_dual", "I3D": "i3d50_dual"}


def rows() -> Iterator[Row]:
    """Four systems of each family."""
    for family, model in FAMILIES.items():
        plain, auxiliary = (f"model_args={json.dumps(SMALL | more)}" for more in ({}, {"auxiliary": True}))
        systems = (
            (f"{family} on images", (IMAGES,), plain),
            (f"{family} on videos", (CLIPS,), plain),
            (f"{family}-dual", BOTH, plain),
            (f"{family}-dual-Aux", BOTH, auxiliary),
        )
        for name, sources, arguments in systems:
            yield Row(name=name, model=model, sources=sources, settings=(arguments,), reference=f"{family}-dual-Aux")


TABLE = Table(
    title="Other blocks",
    metrics=("clip@1", "video@1", "top-1"),
    reference="IR-CSN-dual-Aux",
    folder="duals",
    rows=tuple(rows()),
    scales={
        "toy": replace(TOY, size="", settings=TOY.settings[1:]),  # the networks have a size already
        "mini": replace(MINI, size="", settings=("resize=64", "crop=[56,56]")),
    },
)

if __name__ == "__main__":
    main(TABLE)
