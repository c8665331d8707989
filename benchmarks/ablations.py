"""What decides the defaults of UniDual where the paper is silent: norms, auxiliary losses, sampling, blending.

    uv run benchmarks/ablations.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/ablations.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE
        on CIFAR-10 and clips made from it; UniDual and UniDual-Aux are the runs of Table 2

`docs/results.md` holds the measured figures and the defaults that follow.
"""

from scales import MINI, TOY
from table2 import BOTH
from tables import Row, Table, main

SHARED = 'model_args={"norms": "shared"}'
ON_IMAGES = 'model_args={"heads": {"image": ["$images", "$clips"], "video": ["$clips"]}}'
ON_CLIPS = 'model_args={"heads": {"image": ["$images"], "video": ["$images", "$clips"]}}'
HELD_OUT = "monitor=0.1"  # equal weights are then compared on the same files
ANEW = ("blend=online", "blend_epochs=3")

TABLE = Table(
    title="Ablations",
    metrics=("clip@1", "video@1", "top-1", "top-5"),
    reference="UniDual-Aux",
    rows=(
        Row(name="UniDual", model="unidual{}", sources=BOTH),
        Row(name="UniDual-Aux", model="unidual{}_aux", sources=BOTH),
        Row(name="UniDual (shared norms)", model="unidual{}", sources=BOTH, settings=(SHARED,)),
        Row(name="UniDual-Aux (shared norms)", model="unidual{}_aux", sources=BOTH, settings=(SHARED,)),
        Row(name="UniDual-Aux (only frames)", model="unidual{}", sources=BOTH, settings=(ON_IMAGES,)),
        Row(name="UniDual-Aux (only inflated images)", model="unidual{}", sources=BOTH, settings=(ON_CLIPS,)),
        Row(name="UniDual-Aux (proportional)", model="unidual{}_aux", sources=BOTH, settings=("mix=proportional",)),
        Row(name="UniDual-Aux (a tenth held out)", model="unidual{}_aux", sources=BOTH, settings=(HELD_OUT,)),
        Row(name="UniDual-Aux (blended)", model="unidual{}_aux", sources=BOTH, settings=(HELD_OUT, "blend=offline")),
        Row(name="UniDual-Aux (blended anew)", model="unidual{}_aux", sources=BOTH, settings=(HELD_OUT, *ANEW)),
        Row(name="UniDual-Aux (all frames)", model="unidual{}_aux", sources=BOTH, settings=("auxiliary_frames=all",)),
    ),
    scales={"toy": TOY, "mini": MINI},
)

if __name__ == "__main__":
    main(TABLE)
